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

from embedmask_jax.data.axis_samples import AxisSamples
from embedmask_jax.data.rle import cut_windows
from embedmask_jax.data.views import View
from embedmask_jax.ops.locations import STRIDES, level_shapes

# Polygons, each float32 [2 * points] as x, y, x, y ... in original pixels; or a
# compressed run-length mask of the original image.
Segmentation = tuple[np.ndarray, ...] | bytes

CELL = 4  # Stride of the masks.


def rasterize_polygons(
  polygons: Sequence[np.ndarray],
  original_size: tuple[int, int],
  size: tuple[int, int],
  *,
  is_flipped: bool = False,
) -> bytes:
  """Resizes, mirrors and rasterises the polygons of an instance.

  In float32 like the authors' code, because the rasteriser rounds.

  Args:
    polygons: float32 [2 * points] each, x, y, ... in original pixels.
    original_size: (height, width) of the image as stored.
    size: (height, width) of the resized image.
    is_flipped: whether the resized polygons are mirrored, x -> width - 1 - x.

  Returns:
    The union's compressed run-length mask, of size `size`.
  """
  height, width = size
  scale_x = np.float32(width / original_size[1])
  scale_y = np.float32(height / original_size[0])
  moved = []
  for polygon in polygons:
    points = np.asarray(polygon, np.float32).reshape(-1, 2)
    x, y = points[:, 0] * scale_x, points[:, 1] * scale_y
    if is_flipped:
      x = np.float32(width) - x - np.float32(1)
    moved.append(np.stack([x, y], axis=1).astype(np.float64).ravel())
  parts = coco_mask.frPyObjects(moved, height, width)
  return (parts[0] if len(parts) == 1 else coco_mask.merge(parts))['counts']


def pack_masks(
  segmentations: Sequence[Segmentation],
  original_size: tuple[int, int],
  view: View,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Masks of n instances as the targets need them, zero outside the image.

  Args:
    segmentations: polygons or run-length masks in original pixels.
    original_size: (height, width) of the image as stored.
    view: what is seen of the image, and the canvas H x W.

  Returns:
    masks: uint8 [n, H/4, W/32], packed. Cell (y, x) is on where any of the pixels
      (4y+1 .. 4y+2, 4x+1 .. 4x+2) is.
    location_masks: uint8 [n, ceil(P/8)], packed, the mask at every location's pixel.
    is_seen: bool [n], whether any pixel of the view is on.
  """
  count = len(segmentations)
  height, width = view.canvas
  cells = np.zeros((count, height // CELL, width // CELL // 8), np.uint8)
  num_locations = sum(rows * columns for rows, columns in level_shapes(view.canvas))
  locations = np.zeros((count, num_locations), bool)
  is_seen = np.zeros(count, bool)

  outputs = _Outputs(cells, _split_levels(locations, view.canvas), is_seen)
  is_rle = np.asarray([isinstance(item, bytes) for item in segmentations], bool)
  if not is_rle.all():
    strings = [
      rasterize_polygons(item, original_size, view.resized, is_flipped=view.is_flipped)
      for item in segmentations
      if not isinstance(item, bytes)
    ]
    _write(strings, _resized_frame(view), np.flatnonzero(~is_rle), outputs)
  if is_rle.any():
    strings = [item for item in segmentations if isinstance(item, bytes)]
    _write(strings, _stored_frame(original_size, view), np.flatnonzero(is_rle), outputs)
  return cells, np.packbits(locations, axis=1), is_seen


class _Outputs(NamedTuple):
  """What `pack_masks` fills: packed cells, bool [n, rows, columns] levels, is_seen."""

  cells: np.ndarray
  levels: list[np.ndarray]
  is_seen: np.ndarray


def _split_levels(locations: np.ndarray, canvas: tuple[int, int]) -> list[np.ndarray]:
  """Views [n, rows, columns] of the levels in an array [n, P]."""
  levels, first = [], 0
  for rows, columns in level_shapes(canvas):
    level = locations[:, first : first + rows * columns]
    levels.append(level.reshape(-1, rows, columns))
    first += rows * columns
  return levels


class _Frame(NamedTuple):
  """How many rows masks have, and where the view's pixels are read in them."""

  height: int
  rows: AxisSamples
  columns: AxisSamples


def _resized_frame(view: View) -> _Frame:
  """For masks of the resized, mirrored image."""
  top, left, height, width = view.window
  return _Frame(
    view.resized[0],
    AxisSamples(top + np.arange(height), view.canvas[0]),
    AxisSamples(left + np.arange(width), view.canvas[1]),
  )


def _stored_frame(original_size: tuple[int, int], view: View) -> _Frame:
  """For masks of the image as stored: the pixels nearest to the network's centres."""
  top, left, height, width = view.window
  rows = top + np.arange(height)
  columns = left + np.arange(width)
  if view.is_flipped:
    columns = view.resized[1] - 1 - columns
  # floor((pixel + 1/2) * original / resized), in integers.
  rows = (2 * rows + 1) * original_size[0] // (2 * view.resized[0])
  columns = (2 * columns + 1) * original_size[1] // (2 * view.resized[1])
  return _Frame(
    original_size[0],
    AxisSamples(rows, view.canvas[0]),
    AxisSamples(columns, view.canvas[1]),
  )


def _write(
  strings: Sequence[bytes], frame: _Frame, instances: np.ndarray, outputs: _Outputs
) -> None:
  """Writes run-length masks of a frame as the given instances of the outputs."""
  windows = cut_windows(strings, frame.height, frame.columns.bounds, frame.rows.bounds)
  left, top, right, bottom = windows.bounds.T
  rows, columns = (
    frame.rows.pixels_in(top, bottom),
    frame.columns.pixels_in(left, right),
  )
  is_read = (rows[0] < rows[1]) & (columns[0] < columns[1])
  is_dense = frame.rows.is_dense and frame.columns.is_dense
  # [grid, mask, (first row, stop row, first column, stop column)]
  ranges = np.stack(
    [np.stack([*_grid_range(rows, *g), *_grid_range(columns, *g)], -1) for g in _GRIDS]
  )
  for k in np.flatnonzero(is_read).tolist():
    reader = _Reader(windows[k], frame, int(top[k]) - 1, int(left[k]) - 1)
    cell_range, *level_ranges = ranges[:, k].tolist()
    _write_cells(reader, cell_range, outputs.cells[instances[k]])
    for level, stride, (y0, y1, x0, x1) in zip(
      outputs.levels, STRIDES, level_ranges, strict=True
    ):
      if y0 < y1 and x0 < x1:
        rows_k = reader.rows(y0, y1, stride, stride // 2)
        columns_k = reader.columns(x0, x1, stride, stride // 2)
        level[instances[k], y0:y1, x0:x1] = reader.window[columns_k[:, None], rows_k].T
    outputs.is_seen[instances[k]] = is_dense or reader.is_any_on(
      rows[0][k], rows[1][k], columns[0][k], columns[1][k]
    )


# Stride, first and last pixel of an item: the cells, and the locations of every level.
_GRIDS = ((CELL, 1, 2), *((stride, stride // 2, stride // 2) for stride in STRIDES))


def _grid_range(
  pixels: tuple[np.ndarray, np.ndarray], stride: int, first: int, last: int
) -> tuple[np.ndarray, np.ndarray]:
  """First, and the one after the last, of the items i that a range of pixels touches.

  Item i takes the pixels stride * i + first .. stride * i + last.
  """
  start, stop = pixels
  return -((last - start) // stride), (stop - 1 - first) // stride + 1


class _Reader(NamedTuple):
  """A mask's window [columns, rows], and the stored row and column it begins at."""

  window: np.ndarray
  frame: _Frame
  top: int
  left: int

  def rows(self, first: int, stop: int, stride: int, offset: int) -> np.ndarray:
    """The window's rows for pixels stride * i + offset, i = first .. stop - 1."""
    pixels = slice(stride * first + offset, stride * stop, stride)
    return self.frame.rows.read(pixels, self.top, self.window.shape[1])

  def columns(self, first: int, stop: int, stride: int, offset: int) -> np.ndarray:
    """The window's columns, likewise."""
    pixels = slice(stride * first + offset, stride * stop, stride)
    return self.frame.columns.read(pixels, self.left, self.window.shape[0])

  def is_any_on(self, y0: int, y1: int, x0: int, x1: int) -> bool:
    """Whether any of the pixels y0 .. y1 - 1, x0 .. x1 - 1 is on."""
    columns = self.columns(x0, x1, 1, 0)
    return bool(self.window[columns[:, None], self.rows(y0, y1, 1, 0)].any())


def _write_cells(reader: _Reader, cells: Sequence[int], packed: np.ndarray) -> None:
  """Writes a range of cells into one packed mask [H/4, W/32]."""
  y0, y1, x0, x1 = cells
  if y0 >= y1 or x0 >= x1:
    return
  window = reader.window
  on = window[reader.columns(x0, x1, CELL, 1)]
  on |= window[reader.columns(x0, x1, CELL, 2)]
  on = on[:, reader.rows(y0, y1, CELL, 1)] | on[:, reader.rows(y0, y1, CELL, 2)]
  first_byte, stop_byte = x0 // 8, -(-x1 // 8)
  bits = np.zeros((y1 - y0, 8 * (stop_byte - first_byte)), bool)
  bits[:, x0 - 8 * first_byte : x1 - 8 * first_byte] = on.T
  packed[y0:y1, first_byte:stop_byte] = np.packbits(bits).reshape(y1 - y0, -1)
