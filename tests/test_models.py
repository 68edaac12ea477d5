from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import random_batch, tiny_model, tiny_variables

from embedmask_jax.losses import compute_losses, normalisers
from embedmask_jax.models.factory import init_variables
from embedmask_jax.models.resnet import max_pool_half
from embedmask_jax.ops.masks import mask_log_probability
from embedmask_jax.optim import is_trained
from embedmask_jax.presets import PRESETS
from embedmask_jax.targets import assign_targets

CANVAS = (64, 96)


def batch():
  return random_batch(0, [CANVAS, (50, 70)], CANVAS, [2, 1])


def outputs_of(model, variables):
  images = batch()

  @jax.jit
  def apply(variables):
    return model.apply(
      variables, images.images, images.image_size, images.valid_size, train=False
    )

  return apply(variables)


def test_bfloat16_keeps_outputs_and_parameters_in_float32():
  variables = tiny_variables()
  exact = outputs_of(tiny_model(), variables)
  rounded = outputs_of(tiny_model(dtype=jnp.bfloat16), variables)
  for path, value in jax.tree.leaves_with_path(rounded):
    assert value.dtype == jnp.float32, path
    assert np.isfinite(value).all()
  error = np.abs(rounded.pixel_embedding - exact.pixel_embedding).max()
  assert 0 < error < 0.02
  parameters = jax.tree.leaves(init_variables(tiny_model(dtype=jnp.bfloat16), 0))
  assert all(leaf.dtype == jnp.float32 for leaf in parameters)


def test_bfloat16_ends_before_embeddings_mask_logits_and_losses():
  outputs = outputs_of(tiny_model(dtype=jnp.bfloat16), tiny_variables())
  for name in ('proposal_embedding', 'margin', 'pixel_embedding'):
    value = getattr(outputs, name)
    has_more_digits = value != value.astype(jnp.bfloat16)
    assert has_more_digits.mean() > 0.5, name

  log_p = mask_log_probability(
    outputs.pixel_embedding[0],
    outputs.proposal_embedding[0],
    outputs.margin[0],
    spatial_dims=2,
  )
  assert log_p.dtype == jnp.float32
  targets = assign_targets(batch(), PRESETS['2021'])
  total = normalisers(batch(), targets)
  losses = compute_losses(outputs, targets, batch(), total, preset=PRESETS['2021'])
  assert all(loss.dtype == jnp.float32 for loss in losses.values())


@pytest.mark.parametrize('frozen_stages', [0, 2, 5])
def test_frozen_stages_get_no_gradient(frozen_stages):
  model = tiny_model(frozen_stages=frozen_stages)
  variables = tiny_variables()
  images = batch()

  @jax.jit
  @jax.grad
  def gradient_of(params):
    outputs = model.apply(
      {**variables, 'params': params},
      images.images,
      images.image_size,
      images.valid_size,
      train=True,
    )
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(outputs))

  gradient = gradient_of(variables['params'])
  for name, part in gradient['backbone'].items():
    stage = 0 if name == 'stem' else int(name.split('_')[0].removeprefix('stage'))
    moves = any(np.any(leaf != 0) for leaf in jax.tree.leaves(part))
    assert moves == (stage >= frozen_stages), name
  assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient['fpn']))


def test_frozen_norms_of_the_mask_branch_stay_as_they_are():
  model = tiny_model(
    preset=PRESETS['adelaidet'], has_frozen_mask_norm=True, axis_name=None
  )
  variables = tiny_variables(preset='adelaidet')
  variables['batch_stats'] = jax.tree.map(lambda x: x + 0.3, variables['batch_stats'])
  images = batch()

  @partial(jax.jit, static_argnames='train')
  def run(params, train):
    outputs, updated = model.apply(
      {**variables, 'params': params},
      images.images,
      images.image_size,
      images.valid_size,
      train=train,
      mutable=['batch_stats'],
    )
    total = jnp.sum(outputs.pixel_embedding**2)
    if train:
      total += jnp.sum(outputs.semantic_logits**2)
    return total, (outputs.pixel_embedding, updated['batch_stats'])

  gradient, (in_training, updated) = jax.grad(run, has_aux=True)(
    variables['params'], True
  )
  _, (at_test, _) = run(variables['params'], False)
  np.testing.assert_array_equal(in_training, at_test)
  jax.tree.map(np.testing.assert_array_equal, updated, variables['batch_stats'])

  moves = jax.tree.map(lambda leaf: bool(np.any(leaf != 0)), gradient['head'])
  trained = is_trained(variables['params'], 0, has_frozen_mask_norm=True)['head']
  for name in ('mask_branch', 'semantic_head'):
    assert moves[name] == trained[name]
    assert set(jax.tree.leaves(moves[name])) == {True, False}


@pytest.mark.parametrize('stride_in_1x1', [True, False])
def test_bottlenecks_of_both_flavours(stride_in_1x1):
  model = tiny_model(backbone='resnet50', norm='frozen_bn', stride_in_1x1=stride_in_1x1)
  outputs = outputs_of(model, init_variables(model, 0))
  assert outputs.pixel_embedding.shape == (2, 8, 12, 16)
  assert outputs.class_logits.shape == (2, 8 * 12 + 4 * 6 + 2 * 3 + 2 + 1, 3)


def test_max_pooling_sees_the_nine_cells():
  x = np.random.default_rng(0).random((1, 8, 6, 2)).astype(np.float32)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  expected = [
    [padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(0, 1)) for j in range(3)]
    for i in range(4)
  ]
  np.testing.assert_array_equal(max_pool_half(jnp.asarray(x))[0], expected)


def test_initial_scores_are_the_prior():
  model = tiny_model(prior_probability=0.02)
  outputs = outputs_of(model, init_variables(model, 0))
  np.testing.assert_allclose(
    jax.nn.sigmoid(outputs.class_logits).mean(), 0.02, rtol=0.2
  )
