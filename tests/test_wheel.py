"""The wheel: what is in it, and that it runs where there is no repository around it."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from built_wheel import ROOT, built_wheel, run

from embedmask_jax import __version__

PACKAGE = 'embedmask_jax'
CONFIGS = f'{PACKAGE}/shipped/configs'
# Extras, and tools that go with ours: nothing may need them before it is asked to.
OPTIONAL = (
  *('av', 'furo', 'gcsfs', 'gradio', 'IPython', 'jax2onnx', 'libtpu', 'myst_nb'),
  *('myst_parser', 'onnx', 'onnxruntime', 'pytest', 'sphinx', 'supervision', 'torch'),
  'uv',
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  return built_wheel(tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
  """A folder with the package and its program, none of its dependencies."""
  folder = tmp_path_factory.mktemp('installed')
  run(
    *(sys.executable, '-m', 'pip', '--quiet', '--no-input', 'install', '--no-deps'),
    *(f'--target={folder}', str(wheel)),
  )
  return folder


def python(installed, cwd, *arguments):
  """Runs Python with the installed package; the repository is not on its path.

  Without `site`, since a package installed for development comes by a .pth file.
  """
  libraries = {sysconfig.get_path(name) for name in ('purelib', 'platlib')}
  return subprocess.run(
    [sys.executable, '-S', *arguments],
    cwd=cwd,
    env={
      'PYTHONPATH': ':'.join([str(installed), *libraries]),
      'PATH': '/usr/bin:/bin',
      'HOME': str(cwd),
      'JAX_PLATFORMS': 'cpu',
    },
    capture_output=True,
    text=True,
    check=False,
  )


def program(installed, cwd, *arguments):
  return python(installed, cwd, installed / 'bin' / 'embedmask', *arguments)


def test_package_and_configs_are_in_it_and_nothing_else(wheel):
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    texts = {name: archive.read(name).decode(errors='replace') for name in names}
  about = {name for name in names if name.split('/')[0].endswith('.dist-info')}
  sources = {f'{PACKAGE}/py.typed'}
  for file in (
    *ROOT.glob(f'{PACKAGE}/shipped/*.npz'),
    *ROOT.glob(f'{PACKAGE}/**/*.py'),
  ):
    sources.add(file.relative_to(ROOT).as_posix())
  for file in (ROOT / 'configs').glob('*.py'):
    sources.add(f'{CONFIGS}/{file.name}')
  assert names - about == sources
  assert any(name.endswith('licenses/LICENSE') for name in about)
  for name, text in texts.items():
    for path in (str(ROOT), str(Path.home()) + '/', sys.prefix):
      assert path not in text, name


def test_the_program_runs_outside_of_the_repository(installed, tmp_path):
  done = program(installed, tmp_path, '--help')
  assert done.returncode == 0, done.stderr
  assert 'check-data' in done.stdout
  done = program(installed, tmp_path, 'info', '--json', '--quiet')
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout)['versions']['embedmask'] == __version__


@pytest.mark.parametrize('name', ['quickstart', 'configs/nuclei.py', 'custom.py'])
def test_its_configs_are_found_by_name(installed, tmp_path, name):
  done = program(
    installed, tmp_path, 'train', '--workdir=w', f'--config={name}', '--config.seed=-1'
  )
  assert (done.returncode, done.stdout) == (2, '')
  assert 'error: config.seed is -1; must be' in done.stderr
  done = program(installed, tmp_path, 'train', '--workdir=w', '--config=other')
  assert 'these come with the package: base, coco_2019' in done.stderr


def test_a_config_of_ones_own_derives_from_them(installed, tmp_path):
  (tmp_path / 'configs').mkdir()
  own = tmp_path / 'configs' / 'quickstart.py'
  own.write_text(
    'from configs import nuclei\n\n\ndef get_config():\n'
    '  config = nuclei.get_config()\n  config.seed = -2\n  return config\n'
  )
  done = program(
    installed, tmp_path, 'train', '--workdir=w', '--config=configs/quickstart.py'
  )
  assert 'error: config.seed is -2' in done.stderr


def test_the_default_config_is_there(installed, tmp_path):
  done = program(installed, tmp_path, 'check-data')
  assert done.stderr.startswith('error: --annotations is missing')


def test_the_core_alone_is_enough(installed, tmp_path):
  """Every module loads, and every command tells its options, without the extras."""
  code = f"""
import importlib, pkgutil, sys
for name in {OPTIONAL}:
  sys.modules[name] = None
import {PACKAGE}
assert {PACKAGE}.__file__.startswith({str(installed)!r}), {PACKAGE}.__file__
names = [m.name for m in pkgutil.walk_packages({PACKAGE}.__path__, '{PACKAGE}.')]
names = [name for name in names if '.shipped' not in name]
assert len(names) > 100, names
for name in names:
  importlib.import_module(name)
from {PACKAGE}.command_line import COMMANDS, run
for name in COMMANDS:
  assert run([name, '--help']) == 0
"""
  done = python(installed, tmp_path, '-c', code)
  assert done.returncode == 0, done.stderr
