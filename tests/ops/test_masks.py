import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embedmask_jax.ops.lovasz import logit_from_log_probability
from embedmask_jax.ops.masks import mask_log_probability, window_mask


def directly(pixel, proposal, margin):
  difference = (
    pixel.astype(np.float64)[None] - proposal.astype(np.float64)[:, None, None]
  )
  return -np.sum(margin.astype(np.float64)[:, None, None] * difference**2, axis=-1)


def large_canvas(spatial_margin):
  """Embeddings of an 800x1344 canvas at stride 4, three proposals on it, margins."""
  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[:200, :336] * 4 + 2
  pixel = rng.normal(0, 0.3, (200, 336, 16)).astype(np.float32)
  pixel[..., 0] += columns / 100
  pixel[..., 1] += rows / 100
  proposal = pixel[[10, 130, 199], [10, 200, 335]]
  proposal += rng.normal(0, 0.05, (3, 16)).astype(np.float32)
  margin = rng.uniform(0.1, 3, (3, 16)).astype(np.float32)
  margin[:, :2] = spatial_margin
  return pixel, proposal, margin


@pytest.mark.parametrize('spatial_margin', [0.2, 10.0, 100.0, 500.0])
def test_agrees_with_the_direct_sum_on_a_large_canvas(spatial_margin):
  """At its far corner coordinates reach 13; an 8-pixel object has a margin of 100.

  The loss clamps p at 1e-9, and masks ask for more. Below, the error is relative:
  float32 numbers near a log p of -1e5 lie 0.008 apart.
  """
  pixel, proposal, margin = large_canvas(spatial_margin)
  log_p = mask_log_probability(pixel, proposal, margin, spatial_dims=2)
  expected = directly(pixel, proposal, margin)
  assert log_p.max() <= 0
  matters = expected > np.log(1e-9)
  assert matters.any(axis=(1, 2)).all()
  np.testing.assert_allclose(log_p[matters], expected[matters], rtol=0, atol=1e-5)
  np.testing.assert_allclose(log_p[~matters], expected[~matters], rtol=1e-6)


@pytest.mark.parametrize('spatial_margin', [0.2, 500.0])
def test_gradients_are_finite_on_a_large_canvas(spatial_margin):
  def total(arrays, link):
    return link(mask_log_probability(*arrays, spatial_dims=2)).sum()

  arrays = large_canvas(spatial_margin)
  for link in (jnp.asarray, logit_from_log_probability):
    for gradient in jax.grad(total)(arrays, link):
      assert np.isfinite(gradient).all()
      assert np.any(gradient != 0)


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
