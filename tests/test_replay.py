"""The look at a step that was not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath
from synthetic import random_batch
from test_main import run

from configs import base
from embedmask_jax import replay as replay_module
from embedmask_jax.checkpoint import Metadata, open_checkpoint
from embedmask_jax.devices import data_mesh, replicate
from embedmask_jax.errors import UserError
from embedmask_jax.models.factory import build_model, init_variables
from embedmask_jax.replay import replay, save_for_replay
from embedmask_jax.train_state import create_train_state


def small_config():
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
    return state, {'loss': jnp.sum(batch.boxes)}

  return step


def test_the_image_at_fault_stands_out(tmp_path, monkeypatch):
  monkeypatch.setattr(replay_module, 'make_train_step', make_fragile_step)
  metadata = Metadata(small_config(), (1, 2, 3), ('a', 'b', 'c'))
  model = build_model(metadata.config.model, 3)
  state = create_train_state(init_variables(model, 0), optax.sgd(0.1))
  state = replicate(data_mesh(1), state.replace(step=np.int32(7)))
  batch = vars(random_batch(0, [(64, 64)] * 2, (64, 64), [2, 1])).copy()
  batch['boxes'][1, 0, 2] = np.nan
  save_for_replay(
    tmp_path, metadata, state, {**batch, 'image_id': np.asarray([31, 32])}
  )
  step, whole, first, second = replay(tmp_path).splitlines()
  assert step == 'step 7'
  assert whole == 'whole batch: loss nan'
  assert first.startswith('image 31: loss ')
  assert 'nan' not in first
  assert second == 'image 32: loss nan'


def test_the_latest_divergence_is_replayed(tmp_path, monkeypatch):
  monkeypatch.setattr(replay_module, 'make_train_step', make_fragile_step)
  config = small_config()
  metadata = Metadata(config, (1, 2, 3), ('a', 'b', 'c'))
  variables = init_variables(build_model(config.model, 3), 0)
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


def test_a_share_that_is_missing_is_told(tmp_path, capsys):
  with pytest.raises(UserError, match='no step to replay'):
    replay(tmp_path)
  assert run('--mode=replay') == 2
  assert '--workdir is missing' in capsys.readouterr().err
