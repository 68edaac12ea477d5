"""Models in one file: smaller, and otherwise the checkpoint they were written from."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from synthetic import tiny_variables

from configs import small
from embedmask_jax import command_line
from embedmask_jax.checkpoint import CorruptCheckpointError, Metadata, open_checkpoint
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.config import differences
from embedmask_jax.errors import UserError
from embedmask_jax.initial_state import read_initial_variables
from embedmask_jax.model_file import open_model, write_model_file
from embedmask_jax.shipped import shipped_model
from embedmask_jax.stored_model import read_variables
from embedmask_jax.train_state import create_train_state


def metadata():
  config = small.get_config()
  for field, value in {
    'backbone_width': 8,
    'fpn_channels': 16,
    'head_channels': 16,
    'head_depth': 1,
    'preset': 'adelaidet',
  }.items():
    config.model[field] = value
  config.data.train.images, config.init.checkpoint = 'pictures', 'start.pth'
  return Metadata(config, (1, 2, 5), ('a', 'b', 'c'))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  variables = tiny_variables(preset='adelaidet')
  # Statistics reach further than float16 does.
  variables['batch_stats'] = jax.tree.map(lambda x: x + 1e6, variables['batch_stats'])
  state = create_train_state(variables, optax.sgd(0.1))
  with CheckpointWriter(
    workdir, metadata(), keep_last=1, keep_best=0, best_metric='segm/AP'
  ) as writer:
    writer.save(dataclasses.replace(state, step=jax.numpy.int32(7)))
  return open_checkpoint(workdir)


@pytest.fixture(scope='module')
def path(checkpoint, tmp_path_factory):
  path = tmp_path_factory.mktemp('file') / 'model.npz'
  status = command_line.run(
    ['export', str(checkpoint.workdir), f'--output={path}', '--quiet']
  )
  assert status == 0
  return path


def template():
  return tiny_variables(preset='adelaidet')


def test_it_is_the_checkpoint_in_half_precision(checkpoint, path):
  stored = open_model(path)
  assert stored.step == 7
  assert stored.metadata.categories == checkpoint.metadata.categories
  changes = differences(checkpoint.metadata.config, stored.metadata.config)
  assert changes == {
    'data.train.images': "'pictures' -> ''",
    'init.checkpoint': "'start.pth' -> ''",
  }
  assert stored.shapes('variables') == checkpoint.shapes('variables')
  before = checkpoint.read('variables', template())
  after = stored.read('variables', template())

  def same(found, expected, rounded):
    assert isinstance(found, jax.Array)
    assert found.dtype == np.float32
    expected = np.asarray(expected)
    if rounded:
      expected = expected.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, expected)

  jax.tree.map(lambda a, b: same(a, b, True), after['params'], before['params'])
  jax.tree.map(
    lambda a, b: same(a, b, False), after['batch_stats'], before['batch_stats']
  )
  assert path.stat().st_size < 0.6 * sum(
    4 * leaf.size for leaf in jax.tree.leaves(before)
  )


def test_a_run_may_start_from_it(checkpoint, path):
  read = read_initial_variables(str(path), metadata(), template())
  expected = open_model(path).read('variables', template())
  jax.tree.map(np.testing.assert_array_equal, read, expected)


def test_a_run_may_start_from_a_model_that_comes_along(tmp_path, monkeypatch):
  stored = open_model(shipped_model('nuclei'))
  expected = read_variables(stored, stored.metadata.config)
  monkeypatch.chdir(tmp_path)
  read = read_initial_variables('nuclei', stored.metadata, expected)
  jax.tree.map(np.testing.assert_array_equal, read, expected)
  # What is there goes before it.
  (tmp_path / 'nuclei').mkdir()
  with pytest.raises(UserError, match='nuclei holds no checkpoint'):
    read_initial_variables('nuclei', stored.metadata, expected)


def test_it_is_described(path, capsys):
  assert command_line.run(['info', str(path)]) == 0
  printed = capsys.readouterr().out
  assert 'preset           adelaidet\n' in printed
  assert 'step             7\n' in printed


def test_what_is_damaged_is_told(path, tmp_path):
  with pytest.raises(UserError, match='model .*absent.npz: no such file'):
    open_model(tmp_path / 'absent.npz')
  damaged = tmp_path / 'damaged.npz'
  damaged.write_bytes(path.read_bytes()[:-400])
  with pytest.raises(CorruptCheckpointError, match='damaged.npz is not a model file'):
    open_model(damaged)
  damaged.write_bytes(b'')
  with pytest.raises(CorruptCheckpointError, match='damaged.npz is not a model file'):
    open_model(damaged)
  # One bit, among the arrays and in the directory at the end.
  whole = path.read_bytes()
  directory = whole.find(b'PK\x01\x02')
  intact = open_model(path).read('variables', template())
  for place in [
    *range(0, directory, directory // 30),
    *range(directory, len(whole), (len(whole) - directory) // 90),
  ]:
    flipped = bytearray(whole)
    flipped[place] ^= 1 << (place % 8)
    damaged.write_bytes(flipped)
    try:
      found = open_model(damaged).read('variables', template())
    except UserError:
      continue
    jax.tree.map(np.testing.assert_array_equal, found, intact)
  np.savez(damaged, x=np.zeros(3))
  with pytest.raises(CorruptCheckpointError, match='damaged.npz is not a model file'):
    open_model(damaged)
  np.savez(damaged, x=np.array([{}], object))
  with pytest.raises(CorruptCheckpointError, match='damaged.npz is not a model file'):
    open_model(damaged)
  with np.load(path) as content:
    arrays = dict(content)
  arrays['variables/params/fpn/p6/bias'][0] += 1
  np.savez(damaged, **arrays)
  with pytest.raises(CorruptCheckpointError, match='not what was written'):
    open_model(damaged).read('variables', template())


def test_what_float16_cannot_hold_is_refused(tmp_path):
  variables = template()
  variables['params']['fpn']['p6']['bias'] += 1e5
  state = create_train_state(variables, optax.sgd(0.1))
  with CheckpointWriter(
    tmp_path, metadata(), keep_last=1, keep_best=0, best_metric='segm/AP'
  ) as writer:
    writer.save(state)
  with pytest.raises(UserError, match='params/fpn/p6/bias has values that float16'):
    write_model_file(open_checkpoint(tmp_path), tmp_path / 'model.npz')
  assert not list(tmp_path.glob('*.npz'))


def test_where_it_cannot_be_written_nothing_is_left(checkpoint, tmp_path):
  with pytest.raises(UserError, match='ends in .npz'):
    write_model_file(checkpoint, tmp_path / 'model.pth')
  (tmp_path / 'model.npz').mkdir()
  with pytest.raises(UserError, match='model.npz: cannot be written'):
    write_model_file(checkpoint, tmp_path / 'model.npz')
  assert [found.name for found in tmp_path.iterdir()] == ['model.npz']


def test_shipped_models_are_named():
  stored = open_model(shipped_model('nuclei'))
  assert stored.metadata.class_names == ('nucleus',)
  with pytest.raises(UserError, match='--model=cells: there are nuclei'):
    shipped_model('cells')


def test_a_checkpoint_and_a_model_are_too_many(capsys):
  arguments = ['--checkpoint=run', '--model=nuclei', '--output=found', 'x.png']
  assert command_line.run(['predict', *arguments]) == 2
  assert 'name one of them' in capsys.readouterr().err
