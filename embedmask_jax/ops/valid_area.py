"""Keeping padding out of results.

An image lies in the top left corner of its canvas. Its valid area, the image
rounded up to multiples of 32, is all that the network may see: what lies beyond
is held at zero before every convolution that would reach it, so that an image
gives the same result in any canvas.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from embedmask_jax.ops.locations import STRIDES, level_shapes
from embedmask_jax.structures import Array


def level_sizes(valid_size: Array) -> list[Array]:
  """Returns the valid (rows, columns), int32 [B, 2], of each level P3..P7.

  Args:
    valid_size: int32 [B, 2], network pixels, multiples of 32.
  """
  sizes = [valid_size // s for s in STRIDES[:3]]
  for _ in STRIDES[3:]:
    sizes.append(sizes[-1] - sizes[-1] // 2)  # half, rounded up
  return sizes


def area_mask(shape: Sequence[int], size: Array) -> Array:
  """Returns bool [B, rows, columns], True inside each image's area.

  Args:
    shape: (rows, columns) of the feature map.
    size: int32 [B, 2], valid rows and columns on this map.
  """
  rows, columns = shape
  in_rows = jnp.arange(rows) < size[:, :1]
  in_columns = jnp.arange(columns) < size[:, 1:]
  return in_rows[:, :, None] & in_columns[:, None, :]


def clear_outside(features: Array, size: Array) -> Array:
  """Zeroes features [B, rows, columns, channels] outside each image's area."""
  mask = area_mask(features.shape[1:3], size)
  return jnp.where(mask[..., None], features, 0)


def location_mask(canvas: Sequence[int], valid_size: Array) -> Array:
  """Returns bool [B, P], True for locations of levels inside the valid area."""
  masks = [
    area_mask(shape, size).reshape(size.shape[0], int(np.prod(shape)))
    for shape, size in zip(level_shapes(canvas), level_sizes(valid_size), strict=True)
  ]
  return jnp.concatenate(masks, axis=1)
