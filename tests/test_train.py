"""The loop around the step: order, intervals, resuming, and what goes wrong.

Most tests put a network of two numbers in the place of the real one; the data, the
checkpoints and the logs are real.
"""

import json
import re
import signal
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import toy_run
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from toy_run import make_toy_step

from configs import quickstart
from embedmask_jax import replay as replay_module
from embedmask_jax import train as train_module
from embedmask_jax.checkpoint import list_steps, open_checkpoint
from embedmask_jax.compile_ahead import compile_ahead
from embedmask_jax.datasets import open_eval_source
from embedmask_jax.devices import check_batch_size
from embedmask_jax.errors import UserError
from embedmask_jax.evaluate import evaluate_checkpoint
from embedmask_jax.predict import Predictor
from embedmask_jax.preemption import PreemptedError
from embedmask_jax.presets import PRESETS
from embedmask_jax.replay import NonFiniteLossError
from embedmask_jax.train import summary, train
from embedmask_jax.train_state import keep_finite


def tiny_config(**overrides):
  config = toy_run.get_config()
  config.data.generated.train_images = 5
  config.train.batch_size = 2
  config.train.steps = 8
  config.train.log_every = 2
  config.optim.warmup_steps = 2
  config.optim.milestones = (6,)
  for field, value in overrides.items():
    part, name = field.split('__')
    config[part][name] = value
  return config


class ToyEvaluator:
  """Scores states by a table of its class and writes nothing."""

  scores: ClassVar[dict] = {}
  calls: ClassVar[list] = []
  variables: ClassVar[dict] = {}

  def __init__(self, model, source, config, mesh):
    self.num_images = len(source)

  def __call__(self, variables, folder, *, step, record, writer=None):
    ToyEvaluator.calls.append(step)
    ToyEvaluator.variables = jax.tree.map(np.array, variables)
    return {'segm/AP': self.scores.get(step, 0.1), 'bbox/AP': 0.5}


def toy_variables(model, seed):
  del model
  return {
    'params': {
      'backbone': {'stem': {'kernel': jnp.full(2, seed, jnp.float32)}},
      'head': {
        'class_logits': {'kernel': jnp.zeros((2, 6)), 'bias': jnp.zeros(6)},
        'weight': jnp.asarray([0.5, -0.5]),
      },
    },
    'batch_stats': {},
  }


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
  return tmp_path_factory.mktemp('scenes')


@pytest.fixture
def toy(monkeypatch, scenes):
  monkeypatch.setenv('EMBEDMASK_CACHE', str(scenes))
  monkeypatch.setattr(train_module, 'build_model', lambda config, num_classes: None)
  monkeypatch.setattr(train_module, 'init_variables', toy_variables)
  monkeypatch.setattr(train_module, 'make_train_step', make_toy_step)
  monkeypatch.setattr(train_module, 'Evaluator', ToyEvaluator)
  ToyEvaluator.calls = []
  ToyEvaluator.scores = {}


def parameters(workdir, step=None):
  path = workdir / 'checkpoints' / str(step) if step else workdir
  stored = open_checkpoint(path)
  return stored.read('variables', toy_variables(None, 0))


def stored_params(workdir, item):
  """Those in 'variables', or those that 'training' goes on with beside an average."""
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(open_checkpoint(workdir).folder / item)['params']


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def read_log(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def interrupt_after(monkeypatch, steps):
  """Lets a run be stopped from outside when it asks for one more batch."""
  original = train_module.train_batches

  def interrupted(*args, **kwargs):
    for number, item in enumerate(original(*args, **kwargs)):
      if number == steps:
        raise KeyboardInterrupt
      yield item

  monkeypatch.setattr(train_module, 'train_batches', interrupted)


def test_a_run_leaves_what_it_says(toy, tmp_path, caplog):
  caplog.set_level('INFO')
  result = train(tiny_config(), tmp_path / 'new' / 'run')
  workdir = tmp_path / 'new' / 'run'
  assert result.step == 8
  assert result.metrics['segm/AP'] == 0.1
  assert result.folder == workdir / 'eval' / '8'
  assert ToyEvaluator.calls == [8]
  assert list_steps(workdir / 'checkpoints') == [6, 8]
  config = json.loads((workdir / 'config.json').read_text())
  assert config['train']['steps'] == 8
  lines = read_log(workdir)
  steps = [line['step'] for line in lines if 'loss' in line]
  assert steps == [2, 4, 6, 8]
  # The rate of the update that a line ends with: warm-up (2 steps), decay at 6.
  rates = [line['learning_rate'] for line in lines if 'loss' in line]
  np.testing.assert_allclose(rates, [0.01 / 3, 0.01, 0.01, 0.001])
  assert 'starting from scratch (seed 0)' in caplog.text
  assert '5 images' in caplog.text
  assert summary(result).startswith('mask AP 0.100, box AP 0.500, ')
  assert summary(result).endswith(f' s, overlays in {result.folder}/overlays')


def test_same_seed_same_bits_and_other_seed_others(toy, tmp_path):
  train(tiny_config(), tmp_path / 'a')
  train(tiny_config(), tmp_path / 'b')
  assert_same(parameters(tmp_path / 'a'), parameters(tmp_path / 'b'))
  config = tiny_config()
  config.seed = 1
  train(config, tmp_path / 'c')
  first, other = parameters(tmp_path / 'a'), parameters(tmp_path / 'c')
  assert not np.array_equal(
    first['params']['head']['weight'], other['params']['head']['weight']
  )


@pytest.mark.parametrize('steps_before', [1, 3, 4, 7])
def test_interrupted_and_resumed_is_as_if_nothing_had_happened(
  toy, tmp_path, monkeypatch, caplog, steps_before
):
  caplog.set_level('INFO')
  train(tiny_config(), tmp_path / 'straight')
  with monkeypatch.context() as patch:
    interrupt_after(patch, steps_before)
    with pytest.raises(KeyboardInterrupt):
      train(tiny_config(), tmp_path / 'resumed')
  train(tiny_config(), tmp_path / 'resumed')
  saved = steps_before // 3 * 3
  if saved:
    assert f'resumed from step {saved} of' in caplog.text
  assert_same(parameters(tmp_path / 'straight'), parameters(tmp_path / 'resumed'))
  lines = read_log(tmp_path / 'resumed')
  steps = [line['step'] for line in lines if 'loss' in line]
  assert steps == sorted(set(steps))


def test_what_is_evaluated_and_saved_is_the_moving_average(toy, tmp_path, monkeypatch):
  train(tiny_config(), tmp_path / 'plain')
  config = tiny_config(train__ema_decay=0.9)
  train(config, tmp_path / 'averaged')
  average = parameters(tmp_path / 'averaged')
  assert_same(ToyEvaluator.variables, average)
  plain = parameters(tmp_path / 'plain')['params']
  assert_same(stored_params(tmp_path / 'averaged', 'training'), plain)
  weights = [params['head']['weight'] for params in (average['params'], plain)]
  assert not np.array_equal(*weights)
  with monkeypatch.context() as patch:
    interrupt_after(patch, 4)
    with pytest.raises(KeyboardInterrupt):
      train(config, tmp_path / 'resumed')
  train(config, tmp_path / 'resumed')
  checkpoints = [open_checkpoint(tmp_path / name) for name in ('averaged', 'resumed')]
  assert checkpoints[0].checksums == checkpoints[1].checksums


def signal_before(monkeypatch, step, number, times=1):
  """Sends this process a signal when a run asks for the batch of `step`."""
  original = train_module.train_batches

  def signalling(*args, **kwargs):
    for item in original(*args, **kwargs):
      for _ in range(times if item[0] == step else 0):
        signal.raise_signal(number)
      yield item

  monkeypatch.setattr(train_module, 'train_batches', signalling)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_finishes_the_step_and_saves(
  toy, tmp_path, monkeypatch, number
):
  before = signal.getsignal(number)
  signal_before(monkeypatch, 4, number)
  with pytest.raises(PreemptedError, match='saved at step 5 of 8') as stopped:
    train(tiny_config(), tmp_path)
  assert stopped.value.is_by_hand == (number == signal.SIGINT)
  assert list_steps(tmp_path / 'checkpoints')[-1] == 5
  assert signal.getsignal(number) is before


def test_a_second_interrupt_is_obeyed_at_once(toy, tmp_path, monkeypatch):
  signal_before(monkeypatch, 4, signal.SIGINT, times=2)
  with pytest.raises(KeyboardInterrupt):
    train(tiny_config(), tmp_path)
  assert list_steps(tmp_path / 'checkpoints') == [3]


class InterruptedEvaluator(ToyEvaluator):
  def __call__(self, *args, **kwargs):
    signal.raise_signal(signal.SIGINT)
    return super().__call__(*args, **kwargs)


def test_interrupted_while_it_evaluates_it_finishes_that(toy, tmp_path, monkeypatch):
  monkeypatch.setattr(train_module, 'Evaluator', InterruptedEvaluator)
  with pytest.raises(PreemptedError, match='saved at step 5 of 8'):
    train(tiny_config(train__eval_every=4), tmp_path)
  assert ToyEvaluator.calls == [4]
  assert list_steps(tmp_path / 'checkpoints') == [4, 5]


def test_interrupted_at_its_end_a_run_saves_and_is_interrupted(
  toy, tmp_path, monkeypatch
):
  monkeypatch.setattr(train_module, 'Evaluator', InterruptedEvaluator)
  # With steps to do, and started again without any.
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      train(tiny_config(), tmp_path)
    assert ToyEvaluator.calls[-1] == 8
    assert list_steps(tmp_path / 'checkpoints')[-1] == 8


def test_a_damaged_newest_checkpoint_costs_steps_but_not_the_run(toy, tmp_path, caplog):
  train(tiny_config(), tmp_path)
  expected = parameters(tmp_path)
  for path in (tmp_path / 'checkpoints' / '8').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  caplog.set_level('INFO')
  train(tiny_config(), tmp_path)
  assert '8.corrupt' in caplog.text
  assert 'resumed from step 6' in caplog.text
  assert_same(parameters(tmp_path), expected)


def test_a_finished_run_is_evaluated_and_left_alone(toy, tmp_path, caplog):
  train(tiny_config(), tmp_path)
  before = parameters(tmp_path)
  caplog.set_level('INFO')
  result = train(tiny_config(), tmp_path)
  assert 'all 8 steps are done' in caplog.text
  assert (result.step, ToyEvaluator.calls) == (8, [8, 8])
  assert_same(parameters(tmp_path), before)


def test_a_finished_run_does_not_overwrite_its_scores_by_others(toy, tmp_path):
  train(tiny_config(), tmp_path)
  root = tmp_path / 'eval'
  other = tiny_config(data__eval_short_side=96)
  assert train(other, tmp_path).folder == root / '8-scenes'
  assert train(tiny_config(eval__batch_size=2), tmp_path).folder == root / '8'


def test_best_and_last_checkpoints_stay(toy, tmp_path):
  ToyEvaluator.scores = {2: 0.2, 4: 0.9, 6: 0.3, 8: 0.4}
  config = tiny_config(train__eval_every=2, checkpoint__keep_last=1)
  train(config, tmp_path)
  assert ToyEvaluator.calls == [2, 4, 6, 8]
  assert list_steps(tmp_path / 'checkpoints') == [4, 8]


def test_linear_rule_scales_the_run(toy, tmp_path):
  config = tiny_config(optim__reference_batch_size=4, optim__milestones=(2,))
  assert train(config, tmp_path).step == 16


def make_poisoned_step(*args, **kwargs):
  """The toy step, whose loss is not finite in step 5."""
  step = make_toy_step(*args, **kwargs)

  @jax.jit
  def poisoned(state, batch):
    loss = jnp.where(state.step == 5, jnp.nan, 1.0)
    new_state, metrics = step(state, batch)
    new_state = keep_finite(state, new_state, jnp.isfinite(loss))
    return new_state, {**metrics, 'loss/class': loss}

  return poisoned


def test_a_loss_that_is_not_finite_names_step_and_images_and_is_not_saved(
  toy, tmp_path, monkeypatch
):
  monkeypatch.setattr(train_module, 'make_train_step', make_poisoned_step)
  with pytest.raises(NonFiniteLossError, match='step 5: loss/class nan') as caught:
    train(tiny_config(), tmp_path)
  ids = re.search(r'image ids of the batch: (\d+), (\d+)\.', str(caught.value))
  assert ids
  assert {int(ids[1]), int(ids[2])} <= set(range(1, 6)) | {0}
  assert list_steps(tmp_path / 'checkpoints') == [3]
  # For a replay: the state before the step, although the host dispatched one more,
  # and the batch.
  with np.load(tmp_path / 'replay' / '5' / 'batch-0-of-1.npz') as batch:
    assert batch['image_id'].tolist() == [int(ids[1]), int(ids[2])]
    assert len(batch['images']) == 2
  train(tiny_config(train__steps=5), tmp_path / 'straight')
  assert list_steps(tmp_path / 'replay' / 'checkpoints') == [5]
  assert_same(parameters(tmp_path / 'replay'), parameters(tmp_path / 'straight'))


def test_a_replay_that_cannot_be_saved_does_not_hide_the_loss(
  toy, tmp_path, monkeypatch, caplog
):
  def fail(*_):
    raise UserError('no room')

  monkeypatch.setattr(train_module, 'make_train_step', make_poisoned_step)
  monkeypatch.setattr(replay_module, 'save_for_replay', fail)
  with pytest.raises(NonFiniteLossError, match='step 5: loss/class nan'):
    train(tiny_config(), tmp_path)
  assert 'nothing to replay: no room' in caplog.text


def test_other_model_or_classes_are_refused_and_other_changes_told(
  toy, tmp_path, caplog
):
  train(tiny_config(), tmp_path)
  with pytest.raises(UserError, match=r'another model.dtype \(.float32. -> .bfloat16'):
    train(tiny_config(model__dtype='bfloat16'), tmp_path)
  train(tiny_config(train__steps=9, train__log_every=1), tmp_path)
  assert 'resuming with another train.steps: 8 -> 9' in caplog.text
  assert 'resuming with another train.log_every: 2 -> 1' in caplog.text

  config = tiny_config()
  config.data.generated.enabled = False
  annotations = rename_first_class(open_checkpoint(tmp_path).metadata, tmp_path)
  config.data.train.annotations, config.data.train.images = annotations
  with pytest.raises(UserError, match='was trained for 6 classes: .* the data have 1'):
    train(config, tmp_path)


def rename_first_class(metadata, folder):
  """A data set of one image and one class, of another name."""
  from PIL import Image

  assert metadata.class_names[0] != 'other'
  Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / 'black.png')
  annotation = {
    'id': 1,
    'image_id': 1,
    'category_id': metadata.category_ids[0],
    'bbox': [10, 10, 20, 20],
    'area': 400,
    'iscrowd': 0,
    'segmentation': [[10, 10, 30, 10, 30, 30, 10, 30]],
  }
  content = {
    'images': [{'id': 1, 'file_name': 'black.png', 'height': 64, 'width': 64}],
    'annotations': [annotation],
    'categories': [{'id': metadata.category_ids[0], 'name': 'other'}],
  }
  path = folder / 'other.json'
  path.write_text(json.dumps(content))
  return str(path), str(folder)


def test_init_checkpoint_gives_the_parameters_and_nothing_else(toy, tmp_path, caplog):
  caplog.set_level('INFO')
  train(tiny_config(), tmp_path / 'first')
  config = tiny_config(train__steps=1, optim__learning_rate=1e-30)
  config.init.checkpoint = str(tmp_path / 'first')
  result = train(config, tmp_path / 'second')
  assert result.step == 1
  assert 'starting from the parameters of' in caplog.text
  assert_same(parameters(tmp_path / 'first'), parameters(tmp_path / 'second'))


def test_init_checkpoint_of_other_classes_keeps_the_class_logits_initial(
  toy, tmp_path, monkeypatch, caplog
):
  train(tiny_config(), tmp_path / 'first')
  metadata = open_checkpoint(tmp_path / 'first').metadata

  def one_class(model, seed):
    variables = toy_variables(model, seed)
    logits = {'kernel': jnp.full((2, 1), 7.0), 'bias': jnp.full(1, 7.0)}
    variables['params']['head']['class_logits'] = logits
    return variables

  monkeypatch.setattr(train_module, 'init_variables', one_class)
  config = tiny_config(train__steps=1, optim__learning_rate=1e-30)
  config.data.generated.enabled = False
  annotations = rename_first_class(metadata, tmp_path)
  config.data.train.annotations, config.data.train.images = annotations
  config.init.checkpoint = str(tmp_path / 'first')
  result = train(config, tmp_path / 'second')
  assert result.metrics is None
  assert summary(result).startswith('step 1, ')
  assert 'this run is not evaluated' in caplog.text
  assert '6 classes and the data 1: the class logits are left at' in caplog.text
  stored = open_checkpoint(tmp_path / 'second')
  params = stored.read('variables', one_class(None, 0))['params']
  np.testing.assert_array_equal(params['head']['class_logits']['bias'], 7)
  first = parameters(tmp_path / 'first')['params']
  assert_same(params['head']['weight'], first['head']['weight'])
  assert_same(params['backbone'], first['backbone'])


def test_init_checkpoint_of_another_network_is_refused(toy, tmp_path, monkeypatch):
  train(tiny_config(), tmp_path / 'first')

  def wider(model, seed):
    variables = toy_variables(model, seed)
    variables['params']['head']['weight'] = jnp.zeros(5)
    return variables

  monkeypatch.setattr(train_module, 'init_variables', wider)
  config = tiny_config()
  config.init.checkpoint = str(tmp_path / 'first')
  with pytest.raises(UserError, match=r'params/head/weight is \(\(2,\).*\(\(5,\)'):
    train(config, tmp_path / 'second')
  config.init.checkpoint = str(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='no such folder'):
    train(config, tmp_path / 'second')


def test_mistakes_are_told_before_the_first_step(toy, tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='--workdir=.*cannot be written'):
    train(tiny_config(), tmp_path / 'file' / 'run')
  with pytest.raises(
    UserError, match='--workdir=s3://a/b: must be .* or begin with gs'
  ):
    train(tiny_config(), 's3://a/b')
  config = tiny_config()
  config.data.generated.enabled = False
  with pytest.raises(UserError, match='nothing to train on'):
    train(config, tmp_path)
  config.data.train.annotations = str(tmp_path / 'none.json')
  with pytest.raises(UserError, match=r'none\.json'):
    train(config, tmp_path)


@pytest.mark.parametrize(
  ('batch_size', 'devices', 'parts', 'message'),
  [
    (12, 8, 1, 'batch size 12 does not divide over 8 devices; nearest: 8, 16'),
    (3, 8, 1, 'batch size 3 does not divide over 8 devices; nearest: 8'),
    (
      12,
      4,
      2,
      'batch size 12 does not divide over 4 devices in 2 parts; nearest: 8, 16',
    ),
  ],
)
def test_batch_size_must_divide(batch_size, devices, parts, message):
  message += '; set config.train.batch_size, or fewer devices by CUDA_VISIBLE_DEVICES'
  with pytest.raises(UserError, match=re.escape(message)):
    check_batch_size(batch_size, devices=devices, parts=parts)
  check_batch_size(16, devices=8, parts=2)


def real_config(preset):
  """The quickstart, as small as it gets."""
  config = quickstart.get_config()
  config.model.preset = preset
  config.model.backbone_width = 8
  config.model.fpn_channels = 16
  config.model.head_channels = 16
  config.model.head_depth = 1
  small = tiny_config()
  config.data, config.train = small.data, small.train
  config.train.steps, config.train.checkpoint_every = 4, 2
  # So that a network that has learnt nothing finds something to compare.
  config.eval.score_threshold = 0.0
  config.eval.max_detections = 7
  config.eval.batch_size = 1
  config.eval.output_ladder = ((64, 64),)
  return config


@pytest.fixture
def compilation_cache(tmp_path_factory):
  """Programs of this test are compiled once."""
  folder = str(tmp_path_factory.mktemp('xla'))
  names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
  before = [getattr(jax.config, name) for name in names]
  for name, value in zip(names, (folder, 0.1), strict=True):
    jax.config.update(name, value)
  reset_cache()  # which keeps to the folder it was first used with
  yield Path(folder)
  for name, value in zip(names, before, strict=True):
    jax.config.update(name, value)
  reset_cache()


def compiled(folder):
  """The cache's training steps and inference functions."""
  names = {path.name for path in folder.iterdir() if path.name.endswith('-cache')}
  return {name for name in names if 'replica_step' in name or 'inference' in name}


@pytest.mark.slow
@pytest.mark.parametrize('preset', ['2019', '2020', '2021', 'adelaidet'])
def test_the_real_network_trains_resumes_evaluates_and_predicts(
  preset, tmp_path, scenes, monkeypatch, compilation_cache
):
  monkeypatch.setenv('EMBEDMASK_CACHE', str(scenes))
  config = real_config(preset)
  has_average = preset == '2021'
  config.train.ema_decay = 0.9 if has_average else 0.0
  assert compile_ahead(config) == 2
  ahead = compiled(compilation_cache)
  assert len(ahead) == 2
  result = train(config, tmp_path / 'straight')
  assert compiled(compilation_cache) == ahead
  with monkeypatch.context() as patch:
    interrupt_after(patch, 3)
    with pytest.raises(KeyboardInterrupt):
      train(config, tmp_path / 'resumed')
  resumed = train(config, tmp_path / 'resumed')
  checkpoints = [open_checkpoint(tmp_path / name) for name in ('straight', 'resumed')]
  assert [stored.step for stored in checkpoints] == [4, 4]
  assert checkpoints[0].checksums == checkpoints[1].checksums
  assert result.metrics == resumed.metrics
  if has_average:
    leaves = [
      jax.tree.leaves(stored_params(tmp_path / 'straight', item))
      for item in ('variables', 'training')
    ]
    assert not all(np.array_equal(*pair) for pair in zip(*leaves, strict=True))
  for name in ('metrics.json', 'predictions.json'):
    assert (result.folder / name).read_bytes() == (resumed.folder / name).read_bytes()

  again = evaluate_checkpoint(checkpoints[0], config, workdir=tmp_path / 'eval')
  assert again == result.metrics
  overlays = sorted((tmp_path / 'eval' / 'eval' / '4' / 'overlays').iterdir())
  assert len(overlays) == 2

  # Prediction finds in the same files what evaluation found.
  source = open_eval_source(
    config.data, checkpoints[0].metadata.categories, PRESETS[preset]
  )
  predictor = Predictor.from_checkpoint(tmp_path / 'straight', score_threshold=0.0)
  results = json.loads((result.folder / 'predictions.json').read_text())
  for index, image_id in enumerate(source.image_ids):
    [prediction] = predictor([source.path(index)])
    expected = [entry for entry in results if entry['image_id'] == image_id]
    assert len(expected) == len(prediction.scores) > 4
    # adelaidet drops boxes that nothing is left of when they are cut at the border.
    assert len(expected) == 7 or preset == 'adelaidet'
    for entry, box, score in zip(
      expected, prediction.boxes, prediction.scores, strict=True
    ):
      np.testing.assert_allclose(entry['score'], score, rtol=1e-5)
      np.testing.assert_allclose(entry['bbox'][:2], box[:2], atol=2e-3)
