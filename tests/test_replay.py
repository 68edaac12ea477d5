"""The look at a step that was not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import run_main
from etils import epath
from synthetic import random_batch, tiny_variables

from configs import base
from embedmask_jax import replay as replay_module
from embedmask_jax.checkpoint import Metadata, open_checkpoint
from embedmask_jax.devices import data_mesh, replicate, split
from embedmask_jax.errors import UserError
from embedmask_jax.replay import replay, save_for_replay
from embedmask_jax.structures import Batch
from embedmask_jax.train_state import create_train_state
from embedmask_jax.train_step import make_train_step


def small_config():
  """The network of `tiny_model`."""
  config = base.get_config()
  config.model.backbone = 'resnet18'
  config.model.backbone_width = 8
  config.model.norm = 'group'
  config.model.frozen_stages = 0
  config.model.fpn_channels = 16
  config.model.head_channels = 16
  config.model.head_depth = 1
  return config


def make_fragile_step(model, optimizer, mesh, *, seed):
  """A step that a box that is not a number spoils."""
  del model, optimizer, mesh, seed

  def step(state, batch):
    # What is drawn follows from the step.
    assert state.step == 7
    loss = jnp.sum(batch.boxes) + 0 * sum(map(jnp.sum, jax.tree.leaves(state.params)))
    # As the real one, it reads the state and is given its memory.
    jax.tree.map(lambda leaf: leaf.delete(), state)
    return None, {'loss': loss}

  return step


def save_step_7(workdir, counts=(2, 1)):
  """Leaves a step of the images 31, 32, ..., the last of them with a NaN in a box."""
  metadata = Metadata(small_config(), (1, 2, 3), ('a', 'b', 'c'))
  state = create_train_state(tiny_variables(), optax.sgd(0.1))
  state = state.replace(step=np.int32(7))
  sizes = [(64, 64)] * len(counts)
  batch = vars(random_batch(0, sizes, (64, 64), counts)).copy()
  batch['boxes'][-1, 0, 2] = np.nan
  save_for_replay(
    epath.Path(workdir),
    metadata,
    replicate(data_mesh(1), state),
    {**batch, 'image_id': 31 + np.arange(len(counts))},
  )
  return Batch(**batch)


def test_the_image_at_fault_stands_out(tmp_path, monkeypatch):
  monkeypatch.setattr(replay_module, 'make_train_step', make_fragile_step)
  save_step_7(tmp_path)
  step, whole, first, second = replay(tmp_path).splitlines()
  assert step == 'step 7'
  assert whole == 'whole batch: loss nan'
  assert first.startswith('image 31: loss ')
  assert 'nan' not in first
  assert second == 'image 32: loss nan'


def test_the_shares_of_all_hosts_are_put_together(tmp_path, monkeypatch):
  monkeypatch.setattr(replay_module, 'make_train_step', make_fragile_step)
  save_step_7(tmp_path)
  table = replay(tmp_path)
  folder = tmp_path / 'replay' / '7'
  with np.load(folder / 'batch-0-of-1.npz') as arrays:
    batch = dict(arrays)
  (folder / 'batch-0-of-1.npz').unlink()
  for host in range(2):
    share = {name: array[host : host + 1] for name, array in batch.items()}
    np.savez(folder / f'batch-{host}-of-2.npz', **share)
  assert replay(tmp_path) == table
  (folder / 'batch-0-of-2.npz').unlink()
  with pytest.raises(UserError, match=r'replay/7 lacks the batch of 1 host\(s\)'):
    replay(tmp_path)


@pytest.mark.slow
def test_the_step_is_the_one_of_training(tmp_path, monkeypatch):
  made = []

  def make_step(*args, **kwargs):
    made.append(make_train_step(*args, **kwargs))
    return made[-1]

  monkeypatch.setattr(replay_module, 'make_train_step', make_step)
  batch = save_step_7(tmp_path, counts=(2,))
  _, whole, image = replay(tmp_path).splitlines()
  state = create_train_state(tiny_variables(), optax.set_to_zero())
  state = state.replace(step=jnp.int32(7))
  mesh = data_mesh(1)
  _, metrics = made[0](replicate(mesh, state), split(mesh, batch))
  values = ', '.join(
    f'{name.removeprefix("loss/")} {float(value):.4g}'
    for name, value in sorted(metrics.items())
  )
  assert whole == f'whole batch: {values}'
  assert image == f'image 31: {values}'


def test_the_latest_divergence_is_replayed(tmp_path, monkeypatch):
  monkeypatch.setattr(replay_module, 'make_train_step', make_fragile_step)
  metadata = Metadata(small_config(), (1, 2, 3), ('a', 'b', 'c'))
  variables = tiny_variables()
  state = create_train_state(variables, optax.sgd(0.1))
  batch = vars(random_batch(0, [(64, 64)], (64, 64), [2])) | {'image_id': np.arange(1)}
  for step in (9, 9, 7):
    params = jax.tree.map(lambda x, step=step: x + step, variables['params'])
    state = replicate(data_mesh(1), state.replace(step=np.int32(step), params=params))
    save_for_replay(epath.Path(tmp_path), metadata, state, batch)
  stored = open_checkpoint(tmp_path / 'replay')
  assert stored.step == 7
  found = stored.read('variables', jax.eval_shape(lambda: variables))
  np.testing.assert_array_equal(jax.tree.leaves(found)[0], jax.tree.leaves(params)[0])
  assert replay(tmp_path).startswith('step 7\n')


def test_a_folder_without_a_step_to_replay_is_told(tmp_path, capsys):
  with pytest.raises(UserError, match='no step to replay'):
    replay(tmp_path)
  assert run_main('--mode=replay') == 2
  assert '--workdir is missing' in capsys.readouterr().err
