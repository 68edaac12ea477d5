"""The program `embedmask`: its commands, their help, and what a mistake looks like.

Who is called with what is in test_main.py: its modes are these commands.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from commands import refused
from test_imports import HEAVY, loaded_by
from toy_checkpoint import make_state, save_toy_checkpoint

from configs import base
from embedmask_jax import command_line
from embedmask_jax.checkpoint import Metadata
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.config import to_json

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize('name', command_line.COMMANDS)
def test_help_has_an_example_of_the_command(capsys, name):
  assert command_line.run([name, '--help']) == 0
  text = capsys.readouterr().out
  assert f'example:\n  embedmask {name}' in text
  assert 'exit status' in text


def test_help_and_page_have_the_same_statuses():
  page = (ROOT / 'docs' / 'command_line.md').read_text()
  statuses = re.findall(r'^\| (\d+) \|', page, re.MULTILINE)
  told = ' '.join(command_line._STATUS.split())
  assert re.findall(r'(?<=[:;] )\d+', told) == statuses


def test_extras_are_named_as_a_shell_takes_them():
  # zsh takes bare brackets for a pattern.
  for file in (ROOT / 'embedmask_jax').rglob('*.py'):
    assert 'install embedmask-jax[' not in file.read_text(), file


def test_help_comes_without_jax():
  calls = '\n'.join(
    f'run(["{name}", "--help"])' for name in [*command_line.COMMANDS, '--help']
  )
  assert not loaded_by(f'from embedmask_jax.command_line import run\n{calls}') & HEAVY


def test_overview_names_every_command(capsys):
  assert command_line.run(['--help']) == 0
  text = capsys.readouterr().out
  assert all(f'\n  {name} ' in text for name in command_line.COMMANDS)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['chek-data'], 'did you mean check-data?'),
    (['zzz'], 'there are train, eval, predict'),
    (['--fast', 'train'], 'unknown option --fast'),
    (['--quiet'], 'no command'),
    (['train'], '--workdir is missing; see embedmask train --help'),
    (['train', '--work=w'], '--workdir is missing'),
    (['train', '--workdir=w', '--wrokdir=w'], 'unrecognized arguments: --wrokdir=w'),
    (['train', '--workdir=w'], '--config is missing'),
    (['train', '--workdir=w', '--config=no.py'], '--config=no.py: no such file'),
    (['replay', '--workdir=x', '--config.seed=1'], 'takes no config'),
    (['export', 'x', '-o=y.pth', '--config.seed=1'], '--format=pth writes weights'),
    (['export', 'x', '-o=y.pt', '--config.seed=1'], '--format=pth writes weights'),
    (['export', 'x', '-o=y.onnx', '--format=onnx'], 'writes a folder; name one'),
    (['export', 'x', '-o=y.pt', '--format=onnx'], 'writes a folder; name one'),
    (['export', 'x', '-o=y', '--canvas=480'], '--canvas=480 is not HEIGHTxWIDTH'),
    (['export', 'x', '-o=y', '--network-canvas=480x500'], 'multiples of 32'),
    (['export', 'x', '--checkpoint=x', '-o=y'], 'named twice'),
    (['train', '--workdir=w', '--config=no'], 'come with the package: base, coco_2019'),
    (['train', '--workdir=w', '--config=quickstart', '--config.seed=-1'], 'seed is -1'),
    (['predict', '--images=x', '--output=y'], '--checkpoint is missing'),
    (['info', 'nowhere'], 'no such folder'),
    (['info', 'a', 'b'], 'unrecognized arguments: b'),
  ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, arguments, message):
  assert message in refused(capsys, *arguments)


def test_without_a_command_the_overview_is_shown(capsys):
  assert command_line.run([]) == 2
  assert 'check-data' in capsys.readouterr().out


def test_info_of_the_installation_as_json(capsys):
  assert command_line.run(['info', '--json', '--quiet']) == 0
  facts = json.loads(capsys.readouterr().out)
  assert facts['presets'][:1] == ['2019']
  assert facts['devices']
  assert {'embedmask', 'python', 'jax'} <= set(facts['versions'])


def test_info_of_a_checkpoint(tmp_path, capsys):
  save_toy_checkpoint(tmp_path)
  scores = tmp_path / 'eval' / '4' / 'metrics.json'
  scores.parent.mkdir(parents=True)
  scores.write_text('{"segm/AP": 0.25, "bbox/AP": null, "count/images": 3}')
  assert command_line.run(['info', '--json', str(tmp_path)]) == 0
  facts = json.loads(capsys.readouterr().out)
  assert (facts['step'], facts['classes']) == (4, ['a', 'b'])
  assert facts['model'] == to_json(base.get_config().model)
  assert facts['parameters'] == sum(
    x.size for x in jax.tree.leaves(make_state().params)
  )
  assert facts['metrics'] == {'segm/AP': 0.25, 'bbox/AP': None}
  scores.write_text('{')
  assert command_line.run(['info', str(tmp_path / 'checkpoints' / '4')]) == 0
  text = capsys.readouterr().out
  assert 'backbone         resnet50\n' in text
  assert 'pixel_mean 102.9801, 115.9465, 122.7717, pixel_std 1.0, 1.0, 1.0,' in text
  assert 'metrics          none\n' in text


def test_the_program_ends_with_the_status():
  call = [sys.executable, '-m', 'embedmask_jax.command_line', 'trian']
  done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout) == (2, '')
  assert 'did you mean train?' in done.stderr


def test_eval_prints_nothing_but_json_on_demand(capsys, tmp_path, monkeypatch):
  metadata = Metadata(base.get_config(), (1,), ('thing',))
  with CheckpointWriter(tmp_path, metadata, **base.get_config().checkpoint) as writer:
    writer.save(make_state(3), None)

  def evaluate(stored, config, *, workdir):
    print(f'table of step {stored.step}')
    return {'segm/AP': 0.25, 'segm/APl': None}

  monkeypatch.setattr('embedmask_jax.evaluate.evaluate_checkpoint', evaluate)
  arguments = ['eval', f'--checkpoint={tmp_path}', '--compilation-cache=off']
  assert command_line.run(arguments) == 0
  assert capsys.readouterr().out == 'table of step 3\n'
  assert command_line.run([*arguments, '--json']) == 0
  captured = capsys.readouterr()
  assert json.loads(captured.out) == {'segm/AP': 0.25, 'segm/APl': None}
  assert 'table of step 3' in captured.err


def test_a_reader_that_leaves_gets_no_traceback():
  process = subprocess.Popen(
    [sys.executable, '-m', 'embedmask_jax.command_line', '--help'],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd=ROOT,
  )
  process.stdout.close()
  assert process.stderr.read() == b''
  assert process.wait() == 141
