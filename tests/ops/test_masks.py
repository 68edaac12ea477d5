import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embedmask_jax.ops.masks import mask_log_probability, window_mask


def directly(pixel, proposal, margin):
  difference = (
    pixel.astype(np.float64)[None] - proposal.astype(np.float64)[:, None, None]
  )
  return -np.sum(margin.astype(np.float64)[:, None, None] * difference**2, axis=-1)


@pytest.mark.parametrize('spatial_margin', [0.2, 10.0, 500.0])
def test_agrees_with_the_direct_sum_far_from_the_origin(spatial_margin):
  """At the far corner of an 800x1344 canvas the coordinates reach 13."""
  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[150:200, 280:336] * 4 + 2
  pixel = rng.normal(0, 0.3, (50, 56, 16)).astype(np.float32)
  pixel[..., 0] += columns / 100
  pixel[..., 1] += rows / 100
  proposal = pixel[[5, 30, 45], [10, 40, 50]] + rng.normal(0, 0.05, (3, 16)).astype(
    np.float32
  )
  margin = rng.uniform(0.1, 3, (3, 16)).astype(np.float32)
  margin[:, :2] = spatial_margin
  log_p = mask_log_probability(pixel, proposal, margin, spatial_dims=2)
  expected = directly(pixel, proposal, margin)
  assert log_p.max() <= 0
  near = expected > -20
  assert near.any()
  np.testing.assert_allclose(log_p[near], expected[near], atol=1e-5)
  np.testing.assert_allclose(log_p[~near], expected[~near], rtol=1e-6)


def test_expanding_the_spatial_square_would_cancel():
  """The reason for `spatial_dims`: with it at 0 the same values are lost."""
  position = np.asarray([13.0, 7.9], np.float32)
  pixel = (position + np.linspace(0, 0.1, 8)[:, None]).astype(np.float32)[None]
  margin = np.full((1, 2), 500.0, np.float32)
  expected = directly(pixel, position[None], margin)
  direct = mask_log_probability(pixel, position[None], margin, spatial_dims=2)
  expanded = mask_log_probability(pixel, position[None], margin, spatial_dims=0)
  assert np.abs(direct - expected).max() < 1e-5
  assert np.abs(expanded - expected).max() > 1e-3


def test_a_scalar_margin_counts_for_every_dimension():
  rng = np.random.default_rng(1)
  pixel = rng.normal(size=(4, 5, 8)).astype(np.float32)
  proposal = rng.normal(size=(3, 8)).astype(np.float32)
  margin = rng.uniform(0.5, 2, (3, 1)).astype(np.float32)
  log_p = mask_log_probability(pixel, proposal, margin, spatial_dims=2)
  expected = directly(pixel, proposal, np.tile(margin, 8))
  np.testing.assert_allclose(log_p, expected, rtol=1e-5)


def test_gradients_are_finite_where_pixel_and_proposal_coincide():
  pixel = jnp.ones((2, 2, 4))
  gradient = jax.grad(
    lambda q: mask_log_probability(pixel, q, jnp.ones((1, 4)), spatial_dims=2).sum()
  )(jnp.ones((1, 4)))
  assert np.all(np.isfinite(gradient))


def test_window_is_truncated_widened_and_cut():
  boxes = np.asarray([[9.9, 17.0, 30.0, 27.9], [0, 0, 99, 99]], np.float32)
  window = np.asarray(window_mask(boxes, (12, 16), np.asarray([10, 14])))
  rows, columns = np.nonzero(window[0])
  assert (columns.min(), columns.max() + 1) == (0, 9)  # 2 - 2, 7 + 2
  assert (rows.min(), rows.max() + 1) == (2, 8)  # 4 - 2, 6 + 2
  assert window[1, :10, :14].all()
  assert window[1].sum() == 140
