"""Masks on the canvas, computed the long way."""

import numpy as np
from pycocotools import mask as coco_mask

from embedmask_jax.data.masks import rasterize_polygons
from embedmask_jax.ops.locations import locations


def decode(counts, size):
  return coco_mask.decode({'size': list(size), 'counts': counts}).astype(bool)


def network_mask(segmentation, original_size, view):
  """Bool [H, W], what a view shows of a mask."""
  height, width = view.resized
  if isinstance(segmentation, bytes):
    stored = decode(segmentation, original_size)
    rows = np.floor((np.arange(height) + 0.5) * original_size[0] / height)
    columns = np.floor((np.arange(width) + 0.5) * original_size[1] / width)
    mask = stored[rows.astype(int)][:, columns.astype(int)]
    mask = mask[:, ::-1] if view.is_flipped else mask
  else:
    counts = rasterize_polygons(
      segmentation,
      original_size,
      view.resized,
      is_flipped=view.is_flipped,
      preset=view.preset,
    )
    mask = decode(counts, view.resized)
  top, left, window_height, window_width = view.window
  canvas = np.zeros(view.canvas, bool)
  canvas[:window_height, :window_width] = mask[
    top : top + window_height, left : left + window_width
  ]
  return canvas


def packed(mask, view):
  """Returns the stride-4 cells and the values at locations of a mask on the canvas."""
  cells = mask[2::4, 2::4]
  if view.preset.mask_cell == 'any':
    cells = mask[1::4, 1::4] | mask[2::4, 1::4] | mask[1::4, 2::4] | cells
  points = locations(view.canvas)
  padded = np.pad(mask, ((0, 256), (0, 256)))
  return np.packbits(cells, axis=1), np.packbits(padded[points[:, 1], points[:, 0]])
