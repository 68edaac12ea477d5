"""Bilinear resizing inside a dynamic valid area."""

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
  offsets = (-0.25, 0.25)
  features = _upsample_axis(features, size[:, 0], offsets, axis=1)
  return _upsample_axis(features, size[:, 1], offsets, axis=2)


def aligned_upsample(features: Array, size: Array, factor: int) -> Array:
  """Upsamples features bilinearly so that output `factor // 2 + factor * i` is input i.

  Edges are clamped at each image's own area (AdelaiDet's `aligned_bilinear`).

  Args:
    features: [B, rows, columns, channels].
    size: int32 [B, 2], valid rows and columns.
    factor: 1 or more.

  Returns:
    [B, factor * rows, factor * columns, channels].
  """
  offsets = _aligned_offsets(factor)
  features = _upsample_axis(features, size[:, 0], offsets, axis=1)
  return _upsample_axis(features, size[:, 1], offsets, axis=2)


def aligned_weights(count: int, size: Array, factor: int) -> Array:
  """Returns the matrix [factor * count, count] of `aligned_upsample` along one axis.

  Args:
    count: static length of the axis.
    size: integer scalar, samples in use.
    factor: 1 or more.
  """
  identity = jnp.eye(count)[None]
  return _upsample_axis(identity, size[None], _aligned_offsets(factor), axis=1)[0]


def _aligned_offsets(factor: int) -> tuple[float, ...]:
  return tuple((i - factor // 2) / factor for i in range(factor))


def _upsample_axis(
  features: Array, length: Array, offsets: tuple[float, ...], axis: int
) -> Array:
  """Puts in place of input i the values at the positions i + offset, in (-1, 1).

  Args:
    features: [B, ...].
    length: int32 [B], valid samples of the axis.
    offsets: of the outputs that come from one input, ascending.
    axis: which.
  """
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
  parts = [
    -offset * before + (1 + offset) * features
    if offset < 0
    else (1 - offset) * features + offset * after
    for offset in offsets
  ]
  new_shape = list(features.shape)
  new_shape[axis] = len(offsets) * count
  return jnp.stack(parts, axis=axis + 1).reshape(new_shape)


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
