"""What the backward pass keeps, and that computing it again changes no result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import random_batch, tiny_model, tiny_variables
from tiny_step import assert_same_update, one_update, uneven_batch

from embedmask_jax.presets import PRESETS

LEVELS = ('none', 'blocks', 'stages')


def kept_bytes(remat, preset, frozen_stages=0):
  """The size of what a forward pass hands to its backward pass."""
  model = tiny_model(
    preset=PRESETS[preset], remat=remat, frozen_stages=frozen_stages, axis_name=None
  )
  variables = tiny_variables(preset=preset)
  batch = random_batch(0, [(96, 96)] * 2, (96, 96), [2, 1])

  def forward(params):
    outputs, _ = model.apply(
      {**variables, 'params': params},
      batch.images,
      batch.image_size,
      batch.valid_size,
      train=True,
      mutable=['batch_stats'],
    )
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(outputs))

  backward = jax.eval_shape(lambda p: jax.vjp(forward, p)[1], variables['params'])
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))


@pytest.mark.parametrize('preset', ['2021', 'adelaidet'])
def test_each_level_keeps_less(preset):
  none, blocks, stages = (kept_bytes(remat, preset) for remat in LEVELS)
  assert blocks < 0.6 * none
  assert stages < 0.9 * blocks


def test_a_frozen_backbone_keeps_no_more_with_it():
  assert kept_bytes('blocks', '2021', 5) <= kept_bytes('none', '2021', 5)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('preset', 'remat'),
  [
    ('2021', 'blocks'),
    ('2021', 'stages'),
    ('adelaidet', 'stages'),
  ],
)
def test_losses_and_update_stay(preset, remat):
  batch = uneven_batch()
  update, metrics = one_update(batch, preset=preset)
  again, metrics_again = one_update(batch, preset=preset, remat=remat)
  assert_same_update(update, again, tolerance=1e-5)
  for name, value in metrics.items():
    np.testing.assert_allclose(metrics_again[name], value, rtol=1e-6)
