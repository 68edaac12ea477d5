"""Pixel and proposal embeddings -> masks on a grid -> the size of the original image.

The parts of `postprocess.assemble_masks` that differ between presets.
"""

from functools import partial

import jax
import jax.numpy as jnp

from embedmask_jax.ops.masks import (
  OUTSIDE_LOG_PROBABILITY,
  box_mask,
  mask_log_probability,
  window_mask,
)
from embedmask_jax.ops.resize import aligned_weights, bilinear_weights, double_size
from embedmask_jax.presets import Preset
from embedmask_jax.structures import Array


def mask_stride(preset: Preset) -> int:
  """Network pixels between the cells of the grid of `read_mask`: 4, or 8.

  Args:
    preset: its `read_out` is used.
  """
  return 8 if preset.read_out == 'whole_probability' else 4


def mask_pixels(pixel_embedding: Array, valid_size: Array, preset: Preset) -> Array:
  """Returns the pixel embedding on the grid of `read_mask`, of stride `mask_stride`.

  Args:
    pixel_embedding: float32 [B, H/8, W/8, D].
    valid_size: int32 [B, 2], network pixels.
    preset: its `read_out` is used.
  """
  if mask_stride(preset) == 8:
    return pixel_embedding
  return double_size(pixel_embedding, valid_size // 8)


def read_mask(
  pixel: Array,
  embedding: Array,
  margin: Array,
  boxes: Array,
  grid_size: Array,
  *,
  preset: Preset,
) -> Array:
  """Returns log p or p of the proposals, [K, rows, columns].

  Outside the window of a proposal, if it has one, log p is -10 and p is 0.

  Args:
    pixel: float32 [rows, columns, D], of `mask_pixels`.
    embedding: float32 [K, D].
    margin: float32 [K, M].
    boxes: float32 [K, 4], network pixels.
    grid_size: int32 [2], rows and columns of the grid in the valid area.
    preset: its `read_out` and `spatial_dims` are used.
  """
  log_p = mask_log_probability(
    pixel, embedding, margin, spatial_dims=preset.spatial_dims
  )
  if preset.read_out == 'log_probability':
    window = window_mask(boxes, pixel.shape[:2], grid_size)
    return jnp.where(window, log_p, OUTSIDE_LOG_PROBABILITY)
  if preset.read_out == 'whole_probability':
    return jnp.exp(log_p)
  return jnp.where(box_mask(boxes, pixel.shape[:2], grid_size), jnp.exp(log_p), 0)


def resize_weights(
  grid: tuple[int, int],
  output_canvas: tuple[int, int],
  image_size: Array,
  valid_size: Array,
  original_size: Array,
  *,
  stride: int,
) -> tuple[Array, Array]:
  """Returns the matrices that resize rows and columns of a grid of masks.

  From stride 4 to `ceil(valid size * original size / image size)`; or from stride 8
  with aligned corners 2x, 4x, cut to the image, and from there to the original size.

  Args:
    grid: (rows, columns) of the grid.
    output_canvas, image_size, valid_size, original_size: see `postprocess.detect`; of
      one image.
    stride: of the grid, 4 or 8; see `mask_stride`.
  """
  if stride == 8:
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def weights(axis: int) -> Array:
      count, cells = grid[axis], valid_size[axis] // 8
      doubled = aligned_weights(count, cells, 2)
      whole = product(aligned_weights(2 * count, 2 * cells, 4), doubled)
      to_original = bilinear_weights(
        8 * count, output_canvas[axis], image_size[axis], original_size[axis]
      )
      return product(to_original, whole)

    return weights(0), weights(1)
  target = jnp.ceil(
    valid_size.astype(jnp.float32) * original_size / image_size.astype(jnp.float32)
  )
  rows, columns = (
    bilinear_weights(grid[i], output_canvas[i], valid_size[i] // 4, target[i])
    for i in range(2)
  )
  return rows, columns


def resize_grid(grid: Array, row_weights: Array, column_weights: Array) -> Array:
  """Resizes [K, rows, columns] with the matrices of `resize_weights`."""
  product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  return product(
    'kyw,xw->kyx', product('yh,khw->kyw', row_weights, grid), column_weights
  )
