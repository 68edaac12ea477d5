"""Each extra does what it is for, alone with the core in a new environment.

A script in tests/extras/ says what that is. It runs with the wheel, outside of the
repository, with the pinned versions; those of requirements-NAME.txt where an extra
cannot share the others'.
"""

import os
import sys
import tomllib
from pathlib import Path

import pytest
from built_wheel import ROOT, built_wheel, run

SCRIPTS = {path.stem: path for path in (ROOT / 'tests' / 'extras').glob('*.py')}
NOT_TRIED = {
  'cuda': 'wants a GPU',
  'test': 'the tests run with it',
}
# Not unless they are named: EXTRAS=torch
BY_HAND = {'torch': 'gigabytes of CUDA libraries'}


def test_every_extra_has_a_script_or_a_reason():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  assert set(project['optional-dependencies']) == {*SCRIPTS, *NOT_TRIED}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  return built_wheel(tmp_path_factory.mktemp('wheel'))


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(SCRIPTS))
def test_an_extra_alone(name, wheel, tmp_path):
  if name in BY_HAND and name not in os.environ.get('EXTRAS', '').split(','):
    pytest.skip(f'{BY_HAND[name]}; EXTRAS={name} runs it')
  uv = (sys.executable, '-m', 'uv', '--quiet')
  environment = tmp_path / 'environment'
  pins = ROOT / f'requirements-{name}.txt'
  if not pins.is_file():
    pins = ROOT / 'requirements.txt'
  run(*uv, 'venv', f'--python={sys.executable}', str(environment))
  python = environment / 'bin' / 'python'
  install = (*uv, 'pip', 'install', f'--python={python}', f'--constraint={pins}')
  run(*install, f'{wheel}[{name}]')
  where = tmp_path / 'elsewhere'
  where.mkdir()
  own = {
    'PATH': f'{python.parent}:/usr/bin:/bin',
    'HOME': str(where),
    'JAX_PLATFORMS': 'cpu',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  }
  # -P: a script of the name of a package must not be taken for it.
  origin = 'import embedmask_jax; print(embedmask_jax.__file__)'
  found = run(str(python), '-P', '-c', origin, cwd=where, env=own)
  assert Path(found.strip()).is_relative_to(environment)
  run(str(python), '-P', str(SCRIPTS[name]), cwd=where, env=own)
