"""Instance masks in the two forms that the targets need.

Polygons are scaled and mirrored as polygons and rasterised at network size, as the
authors do. Run-length masks are sampled at the centres of the network's pixels. Both
then give, bit-packed, a stride-4 mask and the mask's value at every location; a mask
is only ever laid out inside its own window.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from embedmask_jax.data.rle import ColumnRuns, column_runs, expand
from embedmask_jax.data.views import View
from embedmask_jax.ops.locations import STRIDES, level_shapes
from embedmask_jax.presets import PRESETS, Preset

# Polygons, each float64 [2 * points] as x, y, x, y ... in original pixels; or a
# compressed run-length mask of the original image.
Segmentation = tuple[np.ndarray, ...] | bytes

CELL = 4  # Stride of the masks.


def rasterize_polygons(
  polygons: Sequence[np.ndarray],
  original_size: tuple[int, int],
  size: tuple[int, int],
  *,
  is_flipped: bool = False,
  preset: Preset = PRESETS['2021'],
) -> bytes:
  """Resizes, mirrors and rasterises the polygons of an instance.

  In the precision of the authors' code, because the rasteriser rounds.

  Args:
    polygons: float64 [2 * points] each, x, y, ... in original pixels.
    original_size: (height, width) of the image as stored.
    size: (height, width) of the resized image.
    is_flipped: whether the resized polygons are mirrored, x -> width - extent - x.
    preset: for `box_extent` and `polygon_dtype`.

  Returns:
    The union's compressed run-length mask, of size `size`.
  """
  height, width = size
  number = np.dtype(preset.polygon_dtype).type
  scale_x = number(width / original_size[1])
  scale_y = number(height / original_size[0])
  moved = []
  for polygon in polygons:
    points = np.asarray(polygon, number).reshape(-1, 2)
    x, y = points[:, 0] * scale_x, points[:, 1] * scale_y
    if is_flipped:
      x = number(width) - x - number(preset.box_extent)
    moved.append(np.stack([x, y], axis=1).astype(np.float64).ravel())
  parts = coco_mask.frPyObjects(moved, height, width)
  return (parts[0] if len(parts) == 1 else coco_mask.merge(parts))['counts']


def decode_mask(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
  """Bool [height, width], a well-formed segmentation of an image of this size."""
  if not isinstance(segmentation, bytes):
    segmentation = rasterize_polygons(segmentation, size, size)
  runs = {'size': list(size), 'counts': segmentation}
  return np.asarray(coco_mask.decode([runs])[..., 0], bool)


def encode_mask(mask: np.ndarray) -> dict:
  """Compresses a bool [h, w] mask to RLE {'size': [h, w], 'counts': str}."""
  encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
  return {'size': list(mask.shape), 'counts': encoded['counts'].decode('ascii')}


class PackedMasks(NamedTuple):
  """Masks of n instances, zero outside the image.

  Attributes:
    cells: uint8 [n, H/4, W/32], packed. Cell (y, x) is on where any of the pixels
      (4y+1 .. 4y+2, 4x+1 .. 4x+2) is, or, for `mask_cell` `one`, the last of them.
    at_locations: uint8 [n, ceil(P/8)], packed, the mask at every location's pixel.
    area: int32 [n], pixels of the view that are on.
    centroid: float32 [n, 2], their mean (x, y), zeros where there are none.
  """

  cells: np.ndarray
  at_locations: np.ndarray
  area: np.ndarray
  centroid: np.ndarray


def pack_masks(
  segmentations: Sequence[Segmentation],
  original_size: tuple[int, int],
  view: View,
) -> PackedMasks:
  """Masks of n instances as the targets need them.

  Args:
    segmentations: polygons or run-length masks in original pixels.
    original_size: (height, width) of the image as stored.
    view: what is seen of the image, and the canvas H x W.
  """
  runs = runs_of_view(segmentations, original_size, view)
  return pack_runs(runs, len(segmentations), view)


def pack_runs(runs: ColumnRuns, count: int, view: View) -> PackedMasks:
  """Masks of `count` instances from their runs in the window of a view."""
  height, width = view.canvas
  cells = np.zeros((count, height // CELL, width // CELL), bool)
  _write(cells, runs, CELL, 1 if view.preset.mask_cell == 'any' else 2, 2)
  levels = []
  for stride, (rows, columns) in zip(STRIDES, level_shapes(view.canvas), strict=True):
    level = np.zeros((count, rows, columns), bool)
    _write(level, runs, stride, stride // 2, stride // 2)
    levels.append(level.reshape(count, rows * columns))
  lengths = runs.last - runs.first + 1
  area = _sums(runs.owner, lengths, count)
  moments = [
    _sums(runs.owner, runs.column * lengths, count),
    _sums(runs.owner, (runs.first + runs.last) * lengths / 2, count),
  ]
  centroid = np.stack(moments, axis=1) / np.maximum(area, 1)[:, None]
  return PackedMasks(
    np.packbits(cells, axis=2),
    np.packbits(np.concatenate(levels, axis=1), axis=1),
    area.astype(np.int32),
    centroid.astype(np.float32),
  )


def _sums(owner: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
  """Sums of values by owner, float64 [count], exact for integers and halves."""
  return np.bincount(owner, weights=values, minlength=count)


def runs_of_view(
  segmentations: Sequence[Segmentation], original_size: tuple[int, int], view: View
) -> ColumnRuns:
  """What of n masks is on in the window of a view, counted from its corner.

  Args:
    segmentations, original_size, view: see `pack_masks`.
  """
  parts = [ColumnRuns(*np.zeros((4, 0), np.int64))]
  outlines = {i: s for i, s in enumerate(segmentations) if not isinstance(s, bytes)}
  if outlines:
    strings = [
      rasterize_polygons(
        item,
        original_size,
        view.resized,
        is_flipped=view.is_flipped,
        preset=view.preset,
      )
      for item in outlines.values()
    ]
    runs = _resized_to_view(column_runs(strings, view.resized[0]), view)
    parts.append(runs._replace(owner=np.asarray([*outlines])[runs.owner]))
  stored = {i: s for i, s in enumerate(segmentations) if isinstance(s, bytes)}
  if stored:
    runs = column_runs([*stored.values()], original_size[0])
    runs = _stored_to_view(runs, original_size, view)
    parts.append(runs._replace(owner=np.asarray([*stored])[runs.owner]))
  return ColumnRuns(*map(np.concatenate, zip(*parts, strict=True)))


def _write(
  grid: np.ndarray, runs: ColumnRuns, stride: int, first: int, last: int
) -> None:
  """Switches on the items of bool [n, rows, columns] that runs of pixels touch.

  Item i of an axis takes the pixels stride * i + first .. stride * i + last.
  """
  is_taken = (runs.column - first) % stride <= last - first
  owner, column, top, bottom = (side[is_taken] for side in runs)
  run, row = expand(-((last - top) // stride), (bottom - first) // stride)
  _, rows, columns = grid.shape
  start = owner * (rows * columns) + (column - first) // stride
  # One index is faster than three.
  grid.reshape(-1)[start[run] + row * columns] = True


def _resized_to_view(runs: ColumnRuns, view: View) -> ColumnRuns:
  """Moves runs of the resized, mirrored image into the view."""
  top, left, height, width = view.window
  return _sample(runs, top + np.arange(height), left + np.arange(width), view.resized)


def _stored_to_view(
  runs: ColumnRuns, original_size: tuple[int, int], view: View
) -> ColumnRuns:
  """Samples runs of the image as stored at the centres of the view's pixels."""
  top, left, height, width = view.window
  y = top + np.arange(height)
  x = left + np.arange(width)
  if view.is_flipped:
    x = view.resized[1] - 1 - x
  # floor((pixel + 1/2) * original / resized), in integers.
  y = (2 * y + 1) * original_size[0] // (2 * view.resized[0])
  x = (2 * x + 1) * original_size[1] // (2 * view.resized[1])
  if view.is_flipped:
    x = original_size[1] - 1 - x
    runs = runs._replace(column=original_size[1] - 1 - runs.column)
  return _sample(runs, y, x, original_size)


def _sample(
  runs: ColumnRuns, y: np.ndarray, x: np.ndarray, size: tuple[int, int]
) -> ColumnRuns:
  """Runs of the pixels that read the pixels of other runs.

  Args:
    runs: of an image.
    y: int64, ascending, the row of the image that each row of the result reads.
    x: int64, ascending, the columns likewise.
    size: (height, width) of the image.
  """
  rows, columns = np.arange(size[0]), np.arange(size[1])
  first = np.searchsorted(y, rows, 'left')[runs.first]
  last = np.searchsorted(y, rows, 'right')[runs.last] - 1
  # A column may be read by several, or by none.
  left = np.searchsorted(x, columns, 'left')[runs.column]
  right = np.searchsorted(x, columns, 'right')[runs.column] - 1
  run, column = expand(left, np.where(first <= last, right, left - 1))
  return ColumnRuns(runs.owner[run], column, first[run], last[run])
