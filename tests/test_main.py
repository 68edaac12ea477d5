"""The command line: who is called with what, and what a mistake looks like."""

import subprocess
import sys
import types
from pathlib import Path

import commands
import pytest
from commands import run_main as run
from toy_checkpoint import save_toy_checkpoint

from configs import base
from embedmask_jax import main

ROOT = Path(__file__).resolve().parents[1]
BASE = f'--config={ROOT}/configs/base.py'


@pytest.fixture(autouse=True)
def calls(monkeypatch):
  """Stands in for the commands and records how they are called."""
  made = []

  def module(name, **functions):
    stand_in = types.ModuleType(name)
    for function, result in functions.items():

      def record(*args, function=function, result=result, **kwargs):
        made.append((function, args, kwargs))
        return result

      setattr(stand_in, function, record)
    monkeypatch.setitem(sys.modules, f'embedmask_jax.{name}', stand_in)

  module('train', train='result')
  monkeypatch.setattr(sys.modules['embedmask_jax.train'], 'summary', str, raising=False)
  module('evaluate', evaluate_checkpoint=None)
  module('predict', predict_files=[])
  module('convert', run_import=None, run_export=None)
  return made


@pytest.fixture
def workdir(tmp_path):
  config = base.get_config()
  config.eval.max_detections = 77
  return save_toy_checkpoint(tmp_path, config)


def refused(capsys, *arguments):
  return commands.refused(capsys, *arguments, run=lambda given: run(*given))


def test_train_gets_the_config_with_its_overrides(calls, capsys):
  status = run(
    BASE,
    '--workdir=somewhere',
    '--config.train.steps=7',
    '--config.data.short_sides=640,800',
    '--config.model.stride_in_1x1=false',
    '--config.data.train.annotations=a b.json',
  )
  assert status == 0
  [(name, (config, workdir), _)] = calls
  assert (name, workdir) == ('train', 'somewhere')
  assert capsys.readouterr().out == 'base: result\n'
  assert config.train.steps == 7
  assert config.data.short_sides == (640, 800)
  assert config.model.stride_in_1x1 is False
  assert config.data.train.annotations == 'a b.json'


def test_fields_may_come_before_the_config_and_apart_from_their_value(calls):
  path = BASE.removeprefix('--config=')
  run('--config.train.steps', '7', '--config', path, '--workdir=w', '--config.seed=3')
  [(_, (config, _), _)] = calls
  assert (config.train.steps, config.seed) == (7, 3)


def test_config_files_derive_from_each_other_from_any_folder(
  calls, monkeypatch, tmp_path
):
  monkeypatch.chdir(tmp_path)
  assert run(f'--config={ROOT}/configs/quickstart.py', '--workdir=w') == 0
  [(_, (config, _), _)] = calls
  assert config.model.backbone == 'resnet18'


def test_eval_takes_the_stored_config_and_overrides(calls, workdir):
  for given in (workdir, workdir / 'checkpoints' / '4'):
    assert (
      run('--mode=eval', f'--checkpoint={given}', '--config.eval.batch_size=5') == 0
    )
  assert run('--mode=eval', f'--workdir={workdir}', '--config.eval.batch_size=5') == 0
  for name, (stored, config), _ in calls:
    assert name == 'evaluate_checkpoint'
    assert stored.step == 4
    assert config.eval.max_detections == 77
    assert config.eval.batch_size == 5


def test_eval_with_a_config_takes_its_data_and_eval_only(calls, workdir):
  run(
    '--mode=eval',
    f'--checkpoint={workdir}',
    f'--config={ROOT}/configs/quickstart.py',
    '--config.data.eval.annotations=x.json',
  )
  [(_, (_, config), _)] = calls
  assert config.model.backbone == 'resnet50'
  assert config.eval.max_detections == 100
  assert config.data.eval.annotations == 'x.json'


def test_predict_passes_its_flags_on(calls, workdir):
  flags = (f'--checkpoint={workdir}', '--images=in', '--output=out')
  assert run('--mode=predict', *flags, '--score_threshold=0.5') == 0
  [(name, (stored, config), options)] = calls
  assert (name, stored.step, config.eval.max_detections) == ('predict_files', 4, 77)
  given = ('images', 'output', 'score_threshold')
  assert [options[field] for field in given] == [['in'], 'out', 0.5]


def test_predict_ends_with_2_where_an_image_could_not_be_read(
  calls, workdir, monkeypatch
):
  stand_in = sys.modules['embedmask_jax.predict']
  monkeypatch.setattr(stand_in, 'predict_files', lambda *_, **__: ['bad.jpg'])
  flags = (f'--checkpoint={workdir}', '--images=in', '--output=out')
  assert run('--mode=predict', *flags) == 2


def test_import_and_export_pass_their_flags_on(calls, workdir):
  assert run('--mode=import', BASE, '--weights=w.pth', '--output=out') == 0
  flags = (f'--checkpoint={workdir}', '--output=out.pth')
  assert run('--mode=export', *flags) == 0
  [(_, (weights, config, folder), _), (_, (stored, file), _)] = calls
  assert (weights, config.model.backbone, folder) == ('w.pth', 'resnet50', 'out')
  assert (stored.step, file) == (4, 'out.pth')


MISTAKES = [
  ((), '--workdir is missing'),
  (('--workdir=w',), '--config is missing'),
  ((BASE,), '--workdir is missing'),
  (('--config=nowhere.py', '--workdir=w'), '--config=nowhere.py: no such file'),
  ((BASE, '--workdir=w', '--config.train.stepz=1'), 'did you mean train.steps'),
  ((BASE, '--workdir=w', '--config.train.steps=many'), '--config.train.steps=many'),
  ((BASE, '--workdir=w', '--config.train.steps=-1'), 'config.train.steps is -1'),
  ((BASE, '--workdir=w', '--config.model.preset=1'), "config.model.preset is '1'"),
  ((BASE, '--workdir=w', '--config.seed'), '--config.seed'),
  (('--mode=fly',), '<train|eval|predict|compile|replay|import|export>'),
  (('--wrokdir=x',), "'wrokdir'"),
  (('stray',), "unexpected argument 'stray'"),
  (('--mode=eval',), '--checkpoint is missing'),
  (('--mode=eval', '--checkpoint=nowhere'), 'no such folder'),
  (('--mode=eval', f'--checkpoint={ROOT}'), 'holds no checkpoint'),
  (('--mode=predict', '--checkpoint=x'), '--output is missing'),
  (('--mode=predict', '--checkpoint=x', '--images=y'), '--output is missing'),
  (('--mode=predict', '--score_threshold=2'), 'not a number in the range'),
  (('--mode=import', '--output=x'), '--weights is missing'),
  (('--mode=import', '--weights=x'), '--output is missing'),
  (('--mode=import', '--weights=x', '--output=y'), '--config is missing'),
  (
    (BASE, '--workdir=w', '--checkpoint=x'),
    '--checkpoint is no flag of --mode=train, but of eval, predict, export',
  ),
  (
    (BASE, '--workdir=w', '--weights=x'),
    '--weights is no flag of --mode=train, but of import',
  ),
  (
    ('--mode=eval', '--checkpoint=x', '--score_threshold=0.3'),
    '--score_threshold is no flag of --mode=eval, but of predict',
  ),
  (('--mode=replay', '--workdir=w', '--notake_over'), '--take_over is no flag of'),
  (('--mode=export', '--output=x'), '--checkpoint is missing'),
  (('--mode=export', '--checkpoint=x'), '--output is missing'),
]


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES)
def test_a_mistake_is_one_line_and_status_2(calls, capsys, arguments, message):
  assert message in refused(capsys, *arguments)
  assert not calls


def test_a_config_that_fails_is_one_line(capsys, tmp_path, monkeypatch):
  for source, message in (
    ('raise ValueError("bang")', 'bang'),
    ('import nonsense_module', 'nonsense_module'),
    ('def get_config(', 'SyntaxError'),
    ('x = 1', 'get_config'),
    ('def get_config(): return 5', 'ConfigDict'),
    ('def get_config(): return 1 / 0', 'division by zero'),
  ):
    path = tmp_path / 'broken.py'
    path.write_text(source)
    monkeypatch.delitem(sys.modules, 'config_config', raising=False)  # absl's cache
    assert message in refused(capsys, f'--config={path}', '--workdir=w'), source


def test_overrides_of_a_stored_config_are_checked_too(capsys, workdir):
  flags = ('--mode=eval', f'--checkpoint={workdir}')
  assert 'did you mean' in refused(capsys, *flags, '--config.eval.batchsize=5')
  assert 'eval.batch_size' in refused(capsys, *flags, '--config.eval.batch_size=0')


def test_unwritable_compilation_cache_is_told(capsys, tmp_path):
  (tmp_path / 'file').touch()
  flags = (BASE, '--workdir=w', f'--compilation_cache={tmp_path}/file/x')
  assert main.run(['main', *flags]) == 2
  assert 'cannot be written' in capsys.readouterr().err


def test_help_names_the_modes():
  result = subprocess.run(
    [sys.executable, '-m', 'embedmask_jax.main', '--help'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0
  for mode in ('eval', 'predict', 'replay', 'import', 'export'):
    assert f'--mode={mode}' in result.stdout
  assert '--score_threshold' in result.stdout


def test_a_bug_keeps_its_traceback(monkeypatch):
  stand_in = sys.modules['embedmask_jax.train']
  monkeypatch.setattr(stand_in, 'train', lambda *_, **__: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    run(BASE, '--workdir=w')


def test_an_interrupt_is_told(monkeypatch, capsys):
  def interrupt(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(sys.modules['embedmask_jax.train'], 'train', interrupt)
  assert run(BASE, '--workdir=w') == 130
  assert 'interrupted' in capsys.readouterr().err
