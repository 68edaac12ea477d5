"""Bilinear resizing with half-pixel centres inside a dynamic valid area."""

import jax
import jax.numpy as jnp

from embedmask_jax.structures import Array


def double_size(features: Array, size: Array) -> Array:
  """Upsamples features 2x bilinearly, edges clamped at each image's own area.

  Half-pixel centres: output row 2i lies a quarter cell above input row i, output
  row 2i + 1 a quarter below.

  Args:
    features: [B, rows, columns, channels].
    size: int32 [B, 2], valid rows and columns.

  Returns:
    [B, 2 rows, 2 columns, channels]; meaningful inside twice the valid area.
  """
  features = _double_axis(features, size[:, 0], axis=1)
  return _double_axis(features, size[:, 1], axis=2)


def _double_axis(features: Array, length: Array, axis: int) -> Array:
  count = features.shape[axis]
  first = jax.lax.slice_in_dim(features, 0, 1, axis=axis)
  last = jax.lax.slice_in_dim(features, count - 1, count, axis=axis)
  before = jnp.concatenate(
    [first, jax.lax.slice_in_dim(features, 0, count - 1, axis=axis)], axis
  )
  after = jnp.concatenate(
    [jax.lax.slice_in_dim(features, 1, count, axis=axis), last], axis
  )
  shape = [1] * features.ndim
  shape[axis] = count
  position = jnp.arange(count).reshape(shape)
  length = length.reshape([-1] + [1] * (features.ndim - 1))
  after = jnp.where(position == length - 1, features, after)
  even = 0.25 * before + 0.75 * features
  odd = 0.75 * features + 0.25 * after
  doubled = jnp.stack([even, odd], axis=axis + 1)
  new_shape = list(features.shape)
  new_shape[axis] = 2 * count
  return doubled.reshape(new_shape)


def bilinear_weights(
  source_count: int, target_count: int, source_size: Array, target_size: Array
) -> Array:
  """Returns the matrix [target_count, source_count] that resizes one axis.

  Row t holds the two weights of output t for a resize from `source_size` to
  `target_size` samples, half-pixel centres, edges clamped: exact zeros elsewhere,
  so a product with it is an interpolation.

  Args:
    source_count: static length of the source axis.
    target_count: static length of the target axis.
    source_size: number of samples in use, integer scalar.
    target_size: integer scalar.
  """
  source_size = source_size.astype(jnp.float32)
  scale = source_size / target_size.astype(jnp.float32)
  centre = (jnp.arange(target_count, dtype=jnp.float32) + 0.5) * scale - 0.5
  centre = jnp.clip(centre, 0, source_size - 1)
  lower = jnp.floor(centre)
  fraction = (centre - lower)[:, None]
  upper = jnp.minimum(lower + 1, source_size - 1)
  column = jnp.arange(source_count, dtype=jnp.float32)
  return jnp.where(column == lower[:, None], 1 - fraction, 0) + jnp.where(
    column == upper[:, None], fraction, 0
  )
