"""Pillow's bilinear resize of 8-bit images, bit for bit, with dynamic sizes.

Pillow filters along the rows and then along the columns, each time with a triangle as
wide as the coarser of the two grids. Its weights are fixed-point numbers of 22 bits,
and every pass rounds to 8 bits: all of it fits int32, so that nothing is left to the
rounding of a device. Where the height shrinks while the width grows, which no resize
that keeps the aspect does, Pillow goes the other way around and the last bit differs.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from embedmask_jax.structures import Array

_WEIGHT_BITS = 22  # of Pillow: 32, less 8 of a pixel and 2 to spare
_HALF_BITS = 11
# The division of the weights in two steps stays within int32 up to here: a sum of
# weights is at most twice the longer side times the taps.
_MAX_SUM = 1 << 20


def num_taps(source_size: Array | int, target_size: Array | int) -> int:
  """How many pixels the filter spans at most, in the worst case of integer sizes."""
  return max(int(np.max(-(-2 * source_size // target_size))), 2)


def is_exact(side: int, taps: int) -> bool:
  """Whether sides up to `side`, on either grid, are within what int32 holds."""
  return side * (taps + 2) <= _MAX_SUM


def resize_image(
  image: Array, size: Array, target_size: Array, canvas: tuple[int, int], taps: int
) -> Array:
  """Returns uint8 [*canvas, 3], the resized image in the corner, zeros around it.

  Args:
    image: uint8 [rows, columns, 3], the image in the corner.
    size: int32 [2], height and width of the image.
    target_size: int32 [2], those of the resized image.
    canvas: (height, width) of the result.
    taps: at least `num_taps` of either axis; with it the sides are `is_exact`.
  """
  image = _resize_axis(image, size[1], target_size[1], canvas[1], taps, axis=1)
  return _resize_axis(image, size[0], target_size[0], canvas[0], taps, axis=0)


def _resize_axis(
  image: Array, size: Array, target_size: Array, count: int, taps: int, axis: int
) -> Array:
  """Resizes one axis of uint8 [rows, columns, 3] to `count` pixels."""
  first, weights = _filter(size, target_size, count, taps)
  total = jnp.int32(1 << (_WEIGHT_BITS - 1))
  for tap in range(taps):
    place = jnp.clip(first + tap, 0, image.shape[axis] - 1)
    pixels = jnp.take(image, place, axis=axis, mode='clip').astype(jnp.int32)
    shape = [1, 1, 1]
    shape[axis] = count
    total = total + pixels * weights[:, tap].reshape(shape)
  return lax.div(total, jnp.int32(1 << _WEIGHT_BITS)).astype(jnp.uint8)


def _filter(
  size: Array, target_size: Array, count: int, taps: int
) -> tuple[Array, Array]:
  """Returns the first pixel and the fixed-point weights of every output.

  In units of 1 / (2 target) the middle of output t lies at (2 t + 1) size, that of
  pixel x at (2 x + 1) target, and the triangle falls to zero at 2 max(size, target):
  all whole numbers.

  Returns:
    int32 [count], which may be negative, and int32 [count, taps], zeros for outputs
    beyond the target.
  """
  output = jnp.arange(count, dtype=jnp.int32)
  middle = (2 * output + 1) * size
  reach = 2 * jnp.maximum(size, target_size)
  # The first x with (2 x + 1) target > middle - reach; the numerator is positive.
  shift = size + target_size
  first = lax.div(
    middle - reach - target_size + 2 * target_size * shift, 2 * target_size
  )
  first = first - shift + 1
  place = first[:, None] + jnp.arange(taps, dtype=jnp.int32)
  distance = jnp.abs((2 * place + 1) * target_size - middle[:, None])
  is_inside = (place >= 0) & (place < size) & (output < target_size)[:, None]
  heights = jnp.where(is_inside, jnp.maximum(reach - distance, 0), 0)
  total = jnp.maximum(jnp.sum(heights, axis=1, keepdims=True), 1)
  # round(2^22 heights / total), in two steps of 11 bits.
  scaled = heights * (1 << _HALF_BITS)
  coarse = lax.div(scaled, jnp.broadcast_to(total, scaled.shape))
  rest = (scaled - coarse * total) * (1 << _HALF_BITS)
  fine = lax.div(
    rest + lax.div(total, jnp.int32(2)), jnp.broadcast_to(total, rest.shape)
  )
  return first, coarse * (1 << _HALF_BITS) + fine
