"""An update of a tiny network by the real step."""

import functools

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from synthetic import random_batch, tiny_model, tiny_variables

from embedmask_jax.presets import PRESETS
from embedmask_jax.structures import DATA_AXIS
from embedmask_jax.train_state import create_train_state
from embedmask_jax.train_step import make_train_step

CANVAS = (96, 96)
# An update is the gradient, so that comparing parameters compares gradients.
OPTIMIZER = optax.sgd(1.0)


@functools.cache
def tiny_step(devices, parts, norm, preset, remat):
  model = tiny_model(norm=norm, preset=PRESETS[preset])
  mesh = Mesh(np.asarray(jax.devices()[:devices]), (DATA_AXIS,))
  return make_train_step(
    model, OPTIMIZER, mesh, accumulation_steps=parts, ema_decay=0.9, remat=remat
  )


def one_update(batch, devices=1, parts=1, norm='group', preset='2021', remat='none'):
  state = create_train_state(tiny_variables(norm, preset), OPTIMIZER, has_ema=True)
  before = jax.tree.map(np.array, state.params)
  state, metrics = tiny_step(devices, parts, norm, preset, remat)(state, batch)
  update = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
  return update, {name: float(value) for name, value in metrics.items()}


def assert_same_update(first, second, tolerance=1e-4):
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(a) + 1e-7


def uneven_batch():
  sizes = [(96, 96), (64, 96), (90, 70), (96, 64)]
  return random_batch(0, sizes, CANVAS, [4, 0, 1, 3])
