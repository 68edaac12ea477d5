"""Checkpoints: what is written comes back, and what is damaged is noticed."""

import contextlib
import json
import resource
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from toy_checkpoint import make_state

from configs import base
from embedmask_jax import checkpoint
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.errors import UserError

METADATA = checkpoint.Metadata(
  config=base.get_config(), category_ids=(3, 7), class_names=('cell', 'dust')
)


def write(workdir, steps, scores=None, **options):
  writer = CheckpointWriter(
    workdir,
    METADATA,
    **{'keep_last': 2, 'keep_best': 1, 'best_metric': 'segm/AP', **options},
  )
  for step in steps:
    score = (scores or {}).get(step)
    writer.save(make_state(step), None if score is None else {'segm/AP': score})
  writer.close()


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def corrupt(folder, how):
  """Damages the file with the arrays of the `variables`."""
  files = [path for path in (folder / 'variables').rglob('d/*') if path.is_file()]
  victim = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(victim.read_bytes())
  if how == 'truncated':
    content = content[: len(content) // 2]
  elif how == 'one bit':
    content[len(content) // 2] ^= 1
  victim.write_bytes(bytes(content))


def test_state_comes_back_with_its_structure_dtypes_and_devices(tmp_path):
  write(tmp_path, [5])
  sharding = NamedSharding(Mesh(np.array(jax.devices()), ('data',)), PartitionSpec())
  template = jax.device_put(make_state(0), sharding)
  state = checkpoint.restore_latest(tmp_path, template)
  assert_same(state, make_state(5))
  assert jax.tree.structure(state) == jax.tree.structure(make_state(5))
  assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(state))


def test_donating_the_state_after_saving_does_not_change_what_is_written(tmp_path):
  @partial(jax.jit, donate_argnums=0)
  def advance(state):
    moved = jax.tree.map(lambda x: x + 1, state)
    return moved.replace(step=state.step + 1)

  state = make_state(0)
  state = state.replace(batch_stats={'big': jnp.zeros((1000, 1000))})
  template = jax.tree.map(jnp.copy, state)
  with CheckpointWriter(
    tmp_path, METADATA, keep_last=9, keep_best=0, best_metric='segm/AP'
  ) as writer:
    for _ in range(5):
      writer.save(state)
      for _ in range(3):
        state = advance(state)
  for step in (0, 3, 6, 9, 12):
    stored = checkpoint.open_checkpoint(tmp_path / 'checkpoints' / str(step))
    variables = {'params': template.params, 'batch_stats': template.batch_stats}
    big = stored.read('variables', variables)['batch_stats']['big']
    np.testing.assert_array_equal(big, step)


def test_empty_workdir_has_nothing_to_restore(tmp_path):
  assert checkpoint.restore_latest(tmp_path, make_state()) is None


def test_metadata_is_a_plain_json_file(tmp_path):
  write(tmp_path, [5])
  content = json.loads((tmp_path / 'checkpoints/5/metadata/metadata.json').read_text())
  assert content['format_version'] == checkpoint.FORMAT_VERSION
  assert content['class_names'] == ['cell', 'dust']
  assert content['category_ids'] == [3, 7]
  assert content['preprocessing'] == {
    'channels': 'BGR',
    'pixel_mean': [102.9801, 115.9465, 122.7717],
    'pixel_std': [1.0, 1.0, 1.0],
    'short_side': 800,
    'long_side': 1333,
  }


def test_workdir_and_step_folder_open_the_same_checkpoint(tmp_path):
  write(tmp_path, [3, 5])
  for path, step in (
    (tmp_path, 5),
    (tmp_path / 'checkpoints', 5),
    (tmp_path / 'checkpoints' / '3', 3),
    (f'{tmp_path}/', 5),
  ):
    stored = checkpoint.open_checkpoint(path)
    assert stored.step == step
    assert stored.metadata.config.to_dict() == METADATA.config.to_dict()
    assert stored.metadata.categories == ((3, 'cell'), (7, 'dust'))
    state = make_state(step)
    template = {'params': state.params, 'batch_stats': state.batch_stats}
    variables = stored.read('variables', jax.eval_shape(dict, template))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))
    assert_same(variables['params'], state.params)


def test_last_and_best_are_kept_across_restarts(tmp_path):
  write(tmp_path, [1, 2, 3], {1: 0.5, 2: 0.9})
  write(tmp_path, [4, 5], {4: 0.3})
  assert checkpoint.list_steps(tmp_path / 'checkpoints') == [2, 4, 5]
  write(tmp_path, [6], {6: 0.95}, keep_last=1)
  assert checkpoint.list_steps(tmp_path / 'checkpoints') == [6]


def test_without_best_only_the_last_are_kept(tmp_path):
  write(tmp_path, [1, 2, 3], {1: 0.9, 2: 0.1}, keep_last=1, keep_best=0)
  assert checkpoint.list_steps(tmp_path / 'checkpoints') == [3]


def test_saving_a_step_again_leaves_it_alone(tmp_path):
  write(tmp_path, [1])
  write(tmp_path, [1, 2])
  assert checkpoint.list_steps(tmp_path / 'checkpoints') == [1, 2]


@pytest.mark.parametrize(
  'damage', ['truncated', 'one bit', 'no arrays', 'no metadata', 'bad metrics', 'empty']
)
def test_damaged_newest_falls_back_and_the_step_can_be_written_again(
  tmp_path, damage, caplog
):
  write(tmp_path, [1, 2], {2: 0.5})
  newest = tmp_path / 'checkpoints' / '2'
  if damage in ('truncated', 'one bit'):
    corrupt(newest, damage)
  elif damage == 'no arrays':
    shutil.rmtree(newest / 'training')
  elif damage == 'no metadata':
    (newest / 'metadata' / 'metadata.json').unlink()
  elif damage == 'bad metrics':
    (newest / 'metrics' / 'metrics').write_text('{')
  else:
    for path in newest.rglob('*'):
      if path.is_file():
        path.write_bytes(b'')
  state = checkpoint.restore_latest(tmp_path, make_state())
  assert int(state.step) == 1
  assert_same(state, make_state(1))
  assert '2.corrupt' in caplog.text
  write(tmp_path, [2])
  assert int(checkpoint.restore_latest(tmp_path, make_state()).step) == 2


def test_nothing_readable_is_an_error(tmp_path):
  write(tmp_path, [1])
  corrupt(tmp_path / 'checkpoints' / '1', 'truncated')
  # Again and again, rather than a start from scratch the second time.
  for _ in range(2):
    with pytest.raises(UserError, match='none of the 1 checkpoints'):
      checkpoint.restore_latest(tmp_path, make_state())


def test_a_damaged_checkpoint_asked_for_by_name_is_an_error(tmp_path):
  write(tmp_path, [1])
  corrupt(tmp_path / 'checkpoints' / '1', 'one bit')
  stored = checkpoint.open_checkpoint(tmp_path)
  state = make_state(1)
  template = {'params': state.params, 'batch_stats': state.batch_stats}
  with pytest.raises(checkpoint.CorruptCheckpointError, match='checksum'):
    stored.read('variables', template)


def test_other_number_of_classes_is_named(tmp_path):
  write(tmp_path, [1])
  with pytest.raises(UserError, match=r'class_logits/bias is .*2.* and .*5.* here'):
    checkpoint.restore_latest(tmp_path, make_state(classes=5))
  assert checkpoint.list_steps(tmp_path / 'checkpoints') == [1]


def test_other_optimizer_is_named(tmp_path):
  write(tmp_path, [1])
  with pytest.raises(UserError, match=r'training do not fit .*opt_state'):
    checkpoint.restore_latest(tmp_path, make_state(optimizer=optax.adam(0.1)))


def test_other_format_version_is_named(tmp_path):
  write(tmp_path, [1])
  path = tmp_path / 'checkpoints/1/metadata/metadata.json'
  path.write_text(
    path.read_text().replace('"format_version": 1', '"format_version": 99')
  )
  with pytest.raises(UserError, match='format version 99; this program reads 1'):
    checkpoint.open_checkpoint(tmp_path)
  with pytest.raises(UserError, match='format version 99'):
    checkpoint.restore_latest(tmp_path, make_state())


@pytest.fixture
def full_disk():
  """Lets files grow to 30 kB and no further."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  @contextlib.contextmanager
  def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
      yield
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  return limit


def test_the_reason_of_a_long_failure_is_told():
  place = 'Error writing "params/.zarray" at local file "' + 'folder/' * 30 + '"'
  reason = "File too large [os_error_code='27']"
  text = f"OUT_OF_RANGE: {place}: {reason} [tensorstore_spec='{'x' * 500}']"
  told = checkpoint.first_line(ValueError(text))
  assert told.startswith('OUT_OF_RANGE: Error writing "params/.zarray"')
  assert told.endswith(reason)
  assert len(told) < 210


def test_a_full_disk_leaves_the_checkpoint_before_usable(tmp_path, full_disk):
  noise = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
  state = make_state(1).replace(batch_stats={'noise': jnp.asarray(noise)})
  options = {'keep_last': 2, 'keep_best': 0, 'best_metric': 'segm/AP'}
  with CheckpointWriter(tmp_path, METADATA, **options) as writer:
    writer.save(state)
  with (
    pytest.raises(UserError, match='cannot be written into .*checkpoints .*too large'),
    full_disk(),
    CheckpointWriter(tmp_path, METADATA, **options) as writer,
  ):
    writer.save(state.replace(step=jnp.int32(2)))
  assert_same(checkpoint.restore_latest(tmp_path, state), state)
  # With room again, the same step can be written.
  with CheckpointWriter(tmp_path, METADATA, **options) as writer:
    writer.save(state.replace(step=jnp.int32(2)))
  assert checkpoint.list_steps(tmp_path / 'checkpoints') == [1, 2]


def test_the_moving_average_is_what_is_read_and_all_comes_back(tmp_path):
  average = jax.tree.map(lambda x: x + 1, make_state(5).params)
  state = make_state(5).replace(ema_params=average)
  options = {'keep_last': 2, 'keep_best': 0, 'best_metric': 'segm/AP'}
  with CheckpointWriter(tmp_path, METADATA, **options) as writer:
    writer.save(state)
  stored = checkpoint.open_checkpoint(tmp_path)
  assert_same(stored.read('variables', state.variables)['params'], average)
  template = make_state(0).replace(ema_params=make_state(0).params)
  assert_same(checkpoint.restore_latest(tmp_path, template), state)
  with pytest.raises(UserError, match='training do not fit .*params/head'):
    checkpoint.restore_latest(tmp_path, make_state(0))


def test_missing_folder_and_folder_without_checkpoints(tmp_path):
  with pytest.raises(UserError, match='no such folder'):
    checkpoint.open_checkpoint(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='holds no checkpoint'):
    checkpoint.open_checkpoint(tmp_path)
  (tmp_path / '17').mkdir()
  with pytest.raises(UserError, match='not a checkpoint of this program'):
    checkpoint.open_checkpoint(tmp_path / '17')


def test_those_scored_by_another_metric_come_after_all_others(tmp_path):
  write(tmp_path, [1, 2], {1: 0.9, 2: 0.8}, keep_last=1)
  writer = CheckpointWriter(
    tmp_path, METADATA, keep_last=1, keep_best=1, best_metric='bbox/AP'
  )
  for step, score in ((3, 0.2), (4, 0.1)):
    writer.save(make_state(step), {'bbox/AP': score})
  writer.close()
  assert checkpoint.list_steps(tmp_path / 'checkpoints') == [3, 4]
