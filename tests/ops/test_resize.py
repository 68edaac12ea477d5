import jax.numpy as jnp
import numpy as np
import pytest

from embedmask_jax.ops.resize import (
  aligned_upsample,
  aligned_weights,
  bilinear_weights,
  double_size,
)


def interpolate(values, size):
  """Half-pixel bilinear resize of one axis, clamped at the edges."""
  centre = (np.arange(size) + 0.5) * len(values) / size - 0.5
  return np.interp(centre, np.arange(len(values)), values)


def test_weights_interpolate_inside_the_area_in_use():
  values = np.random.default_rng(0).normal(size=12)
  for source, target in [(12, 12), (7, 20), (9, 4), (1, 5)]:
    weights = bilinear_weights(12, 24, jnp.asarray(source), jnp.asarray(target))
    resized = np.asarray(weights) @ values
    np.testing.assert_allclose(
      resized[:target], interpolate(values[:source], target), atol=1e-5
    )
    np.testing.assert_array_equal(np.asarray(weights)[:, source:], 0)


def test_doubling_clamps_at_each_images_own_edge():
  rng = np.random.default_rng(1)
  features = rng.normal(size=(2, 6, 8, 3)).astype(np.float32)
  sizes = np.asarray([[6, 8], [4, 5]])
  doubled = double_size(jnp.asarray(features), jnp.asarray(sizes))
  for image, (rows, columns), result in zip(features, sizes, doubled, strict=True):
    image = image[:rows, :columns]
    expected = np.apply_along_axis(interpolate, 0, image, 2 * rows)
    expected = np.apply_along_axis(interpolate, 1, expected, 2 * columns)
    np.testing.assert_allclose(result[: 2 * rows, : 2 * columns], expected, atol=1e-6)


@pytest.mark.parametrize('factor', [1, 2, 3, 4])
def test_aligned_upsampling_keeps_the_samples_and_clamps_at_the_edge(factor):
  rng = np.random.default_rng(2)
  features = rng.normal(size=(2, 6, 8, 3)).astype(np.float32)
  sizes = np.asarray([[6, 8], [4, 5]])
  enlarged = aligned_upsample(jnp.asarray(features), jnp.asarray(sizes), factor)

  def aligned(values):
    centre = (np.arange(factor * len(values)) - factor // 2) / factor
    return np.interp(centre, np.arange(len(values)), values)

  for image, (rows, columns), result in zip(features, sizes, enlarged, strict=True):
    image = image[:rows, :columns]
    expected = np.apply_along_axis(aligned, 0, image)
    expected = np.apply_along_axis(aligned, 1, expected)
    found = np.asarray(result[: factor * rows, : factor * columns])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    kept = found[factor // 2 :: factor, factor // 2 :: factor]
    np.testing.assert_allclose(kept, image, atol=1e-6)
    weights = np.asarray(aligned_weights(6, jnp.asarray(rows), factor))
    by_matrix = weights[: factor * rows, :rows] @ image[:, 0]
    column = np.apply_along_axis(aligned, 0, image)[:, 0]
    np.testing.assert_allclose(by_matrix, column, atol=1e-6)
