"""Segmentations of a COCO JSON: read, checked, and kept compactly."""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from embedmask_jax.data.masks import Segmentation
from embedmask_jax.data.rle import mask_areas

# Polygons that reach beyond so many times the longer side of the image are malformed:
# rasterising takes memory in proportion to the length of the outline.
FAR = 16


class MaskState(IntEnum):
  """What is known of an annotation's segmentation without looking at its pixels."""

  USABLE = 0
  MISSING = 1
  MALFORMED = 2  # Neither polygons nor run lengths, or not of the image's size.
  EMPTY = 3  # No polygon of three points or more, or run lengths of no pixels.


def parse_segmentation(
  value: Any, size: tuple[int, int]
) -> tuple[Segmentation, MaskState]:
  """Reads one segmentation of the JSON.

  Args:
    value: a list of polygons [x, y, x, y, ...], or a dict of `size` and `counts`, the
      latter a list or a compressed string. The run lengths of strings are taken on
      trust: `check_run_lengths` looks at many at once.
    size: (height, width) of the image.

  Returns:
    The polygons of three points or more, or the compressed run lengths, and the
    state; no polygons where that is not USABLE.
  """
  nothing: Segmentation = ()
  if value is None:
    return nothing, MaskState.MISSING
  try:
    if isinstance(value, dict):
      return _parse_runs(value, size)
    if isinstance(value, list):
      polygons = tuple(np.asarray(polygon) for polygon in value)
      # NumPy would turn text into numbers, scoring would not.
      if any(p.dtype.kind not in 'biuf' for p in polygons):
        return nothing, MaskState.MALFORMED
      polygons = tuple(polygon.astype(np.float64) for polygon in polygons)
      far = FAR * max(size)
      # NaN is not near either.
      if any(p.ndim != 1 or len(p) % 2 or not (abs(p) < far).all() for p in polygons):
        return nothing, MaskState.MALFORMED
      polygons = tuple(polygon for polygon in polygons if len(polygon) >= 6)
      return polygons, MaskState.USABLE if polygons else MaskState.EMPTY
  except (TypeError, ValueError, KeyError, OverflowError):
    pass
  return nothing, MaskState.MALFORMED


def are_run_lengths(counts: Any, size: Sequence[int]) -> bool:
  """Whether uncompressed counts are those of a mask of (height, width)."""
  return (
    isinstance(counts, list)
    and all(isinstance(count, int) and count >= 0 for count in counts)
    and sum(counts) == size[0] * size[1]
  )


def _parse_runs(value: dict, size: tuple[int, int]) -> tuple[Segmentation, MaskState]:
  counts = value['counts']
  if list(value['size']) != list(size):
    return (), MaskState.MALFORMED
  if isinstance(counts, str):
    return counts.encode('ascii'), MaskState.USABLE
  if not are_run_lengths(counts, size):
    return (), MaskState.MALFORMED
  if not sum(counts[1::2]):
    return (), MaskState.EMPTY
  runs = {'size': list(size), 'counts': counts}
  return coco_mask.frPyObjects(runs, *size)['counts'], MaskState.USABLE


def check_run_lengths(
  segmentations: Sequence[Segmentation], sizes: np.ndarray
) -> np.ndarray:
  """Looks at compressed run lengths.

  Args:
    segmentations: n of them; polygons pass.
    sizes: int [n, 2], (height, width) of their images.

  Returns:
    uint8 [n], MaskState: USABLE, MALFORMED or EMPTY.
  """
  states = np.full(len(segmentations), MaskState.USABLE, np.uint8)
  runs = [i for i, item in enumerate(segmentations) if isinstance(item, bytes)]
  step = 1 << 16  # Bounds the memory.
  for first in range(0, len(runs), step):
    chosen = runs[first : first + step]
    areas = mask_areas([segmentations[i] for i in chosen], sizes[chosen])  # type: ignore[misc]
    states[chosen] = np.where(
      areas < 0,
      MaskState.MALFORMED,
      np.where(areas == 0, MaskState.EMPTY, MaskState.USABLE),
    )
  return states


class SegmentationStore:
  """Many segmentations in one piece of memory, cheap to hand to a worker process."""

  def __init__(self, segmentations: Iterable[Segmentation]):
    """Copies the segmentations, in their order."""
    parts: list[bytes] = []
    first = [0]
    is_runs = []
    for item in segmentations:
      is_runs.append(isinstance(item, bytes))
      if isinstance(item, bytes):
        parts.append(item)
      else:
        parts.extend(polygon.tobytes() for polygon in item)
      first.append(len(parts))
    self._data = b''.join(parts)
    self._part_ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    self._first_part = np.asarray(first, np.int64)
    self._is_runs = np.asarray(is_runs, bool)

  def __len__(self) -> int:
    return len(self._is_runs)

  def __getitem__(self, index: int) -> Segmentation:
    """Returns polygons, float64 [2 * points] each, or compressed run lengths."""
    first, stop = self._first_part[index : index + 2]
    ends = self._part_ends[first : stop + 1].tolist()
    if self._is_runs[index]:
      return self._data[ends[0] : ends[1]]
    return tuple(
      np.frombuffer(self._data, np.float64, (end - begin) // 8, begin)
      for begin, end in pairwise(ends)
    )
