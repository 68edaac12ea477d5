"""Instances of one image laid over another.

Simple copy-paste (Ghiasi et al., arXiv 2012.07177): pixels under the chosen masks are
replaced, without blending, and what they cover is cut from the masks beneath.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from embedmask_jax.data.decode import open_rgb
from embedmask_jax.data.image_source import ImageRecord
from embedmask_jax.data.masks import pack_runs, runs_of_view
from embedmask_jax.data.rle import ColumnRuns, expand
from embedmask_jax.data.transforms import cut_out, show_boxes, write_instances
from embedmask_jax.data.views import Paste, View

# An instance of which less than this share of its pixels is left uncovered goes.
_LEAST_SHARE = 0.1


def paste_instances(
  batch: Mapping[str, np.ndarray],
  row: int,
  record: ImageRecord,
  view: View,
  other: ImageRecord,
  paste: Paste,
) -> None:
  """Lays the chosen instances of another image over an image, and writes both's.

  Those pasted come after the image's own and get the box around the pixels of their
  masks. So do the image's own that lose pixels; those that keep less than a tenth of
  them, or of whose box no more than a row or column of inclusive pixels remains, are
  left out. What is not touched stays as it is.

  Args:
    batch: has room for the instances of both.
    row: that `fill_image` has filled.
    record: the image.
    view: how it is shown.
    other: what is pasted from.
    paste: which instances, how that image is shown, and where.

  Raises:
    UserError: the other image cannot be decoded.
  """
  extent = view.preset.box_extent
  size = (other.height, other.width)
  top, left = paste.corner
  chosen = np.asarray(paste.chosen)
  over = runs_of_view([other.segmentations[i] for i in chosen], size, paste.view)
  over = over._replace(
    column=over.column + left, first=over.first + top, last=over.last + top
  )
  over_boxes, has_size = _boxes_around(over, len(chosen), extent)
  over = _select(over, has_size)
  over_boxes, over_labels = over_boxes[has_size], other.labels[chosen[has_size]]
  covered = _lay_out(over, view.image_size)

  boxes, is_kept = show_boxes(record.boxes, (record.height, record.width), view)
  under = runs_of_view(record.segmentations, (record.height, record.width), view)
  left_over = _uncovered(under, covered)
  area, area_left = (_areas(runs, len(boxes)) for runs in (under, left_over))
  is_touched = area_left < area
  tight, has_size = _boxes_around(left_over, len(boxes), extent)
  boxes[is_touched] = tight[is_touched]
  if view.is_crop:
    is_kept &= area > 0
  is_kept &= ~is_touched | (has_size & (area_left >= _LEAST_SHARE * area))
  boxes = boxes[is_kept]
  left_over = _select(left_over, is_kept)

  runs = left_over, over._replace(owner=over.owner + len(boxes))
  merged = ColumnRuns(*map(np.concatenate, zip(*runs, strict=True)))
  count = len(boxes) + len(over_boxes)
  write_instances(
    batch,
    row,
    np.concatenate([boxes, over_boxes]),
    np.concatenate([record.labels[is_kept], over_labels]),
    pack_runs(merged, count, view),
  )
  image = cut_out(open_rgb(other.encoded, other.file_name, size), paste.view)
  if paste.view.is_flipped:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  window = np.s_[top : top + image.height, left : left + image.width]
  is_pasted = covered[window]
  batch['images'][row][window][is_pasted] = np.asarray(image)[is_pasted]


def _lay_out(runs: ColumnRuns, size: tuple[int, int]) -> np.ndarray:
  """Returns bool [height, width], the pixels of all masks together."""
  pixels = np.zeros(size, bool)
  run, rows = expand(runs.first, runs.last)
  pixels[rows, runs.column[run]] = True
  return pixels


def _uncovered(runs: ColumnRuns, covered: np.ndarray) -> ColumnRuns:
  """What is left of masks where bool [height, width] is off."""
  run, rows = expand(runs.first, runs.last)
  is_left = ~covered[rows, runs.column[run]]
  run, rows = run[is_left], rows[is_left]
  is_first = (np.diff(run, prepend=-1) != 0) | (np.diff(rows, prepend=-1) != 1)
  first = np.flatnonzero(is_first)
  last = np.append(first[1:], len(run))[: len(first)] - 1
  run = run[first]
  return ColumnRuns(runs.owner[run], runs.column[run], rows[first], rows[last])


def _select(runs: ColumnRuns, is_kept: np.ndarray) -> ColumnRuns:
  """The masks where bool [n] is on, numbered anew."""
  number = np.cumsum(is_kept) - 1
  runs = ColumnRuns(*(side[is_kept[runs.owner]] for side in runs))
  return runs._replace(owner=number[runs.owner])


def _areas(runs: ColumnRuns, count: int) -> np.ndarray:
  """Pixels of n masks, float64 [n]."""
  return np.bincount(runs.owner, runs.last - runs.first + 1, count)


def _boxes_around(
  runs: ColumnRuns, count: int, extent: int
) -> tuple[np.ndarray, np.ndarray]:
  """The tightest boxes of n masks.

  Returns:
    float32 [n, 4], xyxy, the last pixel being x2 - 1 + extent; and bool [n], whether
    x1 < x2 and y1 < y2, False where a mask has no pixel.
  """
  low, high = np.full((2, count), np.inf), np.full((2, count), -np.inf)
  for axis, (first, last) in enumerate(
    ((runs.column, runs.column), (runs.first, runs.last))
  ):
    np.minimum.at(low[axis], runs.owner, first)
    np.maximum.at(high[axis], runs.owner, last)
  high += 1 - extent
  has_size = np.all(low < high, axis=0)
  return np.concatenate([low, high]).T.astype(np.float32), has_size
