import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from synthetic import network_cases, random_batch, tiny_model, tiny_variables
from tiny_step import (
  CANVAS,
  OPTIMIZER,
  assert_same_update,
  one_update,
  tiny_step,
  uneven_batch,
)

from embedmask_jax.devices import replicate
from embedmask_jax.structures import DATA_AXIS
from embedmask_jax.train_state import create_train_state
from embedmask_jax.train_step import make_train_step


@pytest.mark.parametrize(('norm', 'preset'), network_cases('group'))
def test_accumulated_parts_give_the_update_of_the_whole(norm, preset):
  if preset == 'adelaidet':
    pytest.skip('its parts have batch norm statistics of their own')
  batch = uneven_batch()
  whole, whole_metrics = one_update(batch, norm=norm, preset=preset)
  parts, parts_metrics = one_update(batch, parts=4, norm=norm, preset=preset)
  assert_same_update(whole, parts)
  assert parts_metrics.keys() == whole_metrics.keys()
  for name, value in whole_metrics.items():
    np.testing.assert_allclose(parts_metrics[name], value, rtol=1e-4)


@pytest.mark.parametrize(('norm', 'preset'), network_cases('batch'))
def test_devices_give_the_update_of_one(norm, preset):
  """Runs itself on four simulated devices, which need a fresh process."""
  environment = os.environ | {
    'XLA_FLAGS': (
      os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=4'
    ),
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join(map(str, Path(__file__).parents[:2])),
  }
  result = subprocess.run(
    [sys.executable, __file__, norm, preset],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr


def compare_devices(norm, preset):
  batch = uneven_batch()
  one, one_metrics = one_update(batch, norm=norm, preset=preset)
  four, four_metrics = one_update(batch, devices=4, norm=norm, preset=preset)
  assert_same_update(one, four)
  for name, value in one_metrics.items():
    np.testing.assert_allclose(four_metrics[name], value, rtol=1e-5)


def test_batches_of_different_content_compile_once():
  model = tiny_model()
  mesh = Mesh(np.asarray(jax.devices()[:1]), (DATA_AXIS,))
  state = replicate(mesh, create_train_state(tiny_variables(), OPTIMIZER))
  step = make_train_step(model, OPTIMIZER, mesh)
  state, _ = step(state, random_batch(0, [(96, 96)] * 2, CANVAS, [4, 1]))
  compiled = step._cache_size()
  for seed, counts in [(1, [0, 0]), (2, [3, 2])]:
    sizes = [(96, 80), (60, 96)] if seed == 2 else [(96, 96)] * 2
    state, _ = step(state, random_batch(seed, sizes, CANVAS, counts))
  assert step._cache_size() == compiled


def test_the_same_step_twice_gives_the_same_bits():
  batch = uneven_batch()
  first, _ = one_update(batch)
  second, _ = one_update(batch)
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(a, b)


def test_the_average_follows_the_parameters():
  state = create_train_state(tiny_variables(), OPTIMIZER, has_ema=True)
  before = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, state.params)
  # So late that the decay is no longer below what is asked for.
  state = state.replace(
    step=jnp.int32(1000), ema_params=jax.tree.map(jnp.asarray, before)
  )
  state, _ = tiny_step(1, 1, 'group', '2021', 'none')(state, uneven_batch())
  for mean, old, new in zip(
    *map(jax.tree.leaves, (state.ema_params, before, state.params)), strict=True
  ):
    np.testing.assert_allclose(mean, 0.9 * old + 0.1 * np.asarray(new), atol=1e-6)


def test_a_tiny_model_learns_a_batch():
  batch = random_batch(3, [(96, 96)], CANVAS, [2])
  model = tiny_model()
  optimizer = optax.adam(3e-3)
  state = create_train_state(tiny_variables(), optimizer)
  mesh = Mesh(np.asarray(jax.devices()[:1]), (DATA_AXIS,))
  step = make_train_step(model, optimizer, mesh)
  state, first = step(state, batch)
  for _ in range(30):
    state, last = step(state, batch)
  assert last['loss'] < 0.6 * first['loss']


if __name__ == '__main__':
  compare_devices(*sys.argv[1:])
