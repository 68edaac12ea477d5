import jax.numpy as jnp
import numpy as np

from embedmask_jax.ops.resize import bilinear_weights, double_size


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
