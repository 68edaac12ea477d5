"""Masks cut to their bounding windows, so that huge images with many objects fit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as rle


@dataclass(frozen=True, eq=False)
class MaskWindow:
  """A mask, stored as the smallest window that holds all of its pixels.

  Attributes:
    top: first row of the window in the image.
    left: first column.
    pixels: bool [rows, columns]; 0 x 0 where the mask is empty.
  """

  top: int
  left: int
  pixels: np.ndarray

  @property
  def bottom(self) -> int:
    """The row below the window."""
    return self.top + self.pixels.shape[0]

  @property
  def right(self) -> int:
    """The column right of the window."""
    return self.left + self.pixels.shape[1]

  @property
  def area(self) -> int:
    """Pixels that are on."""
    return int(np.count_nonzero(self.pixels))

  def dense(self, size: tuple[int, int]) -> np.ndarray:
    """The mask as bool [height, width] of an image of that size."""
    mask = np.zeros(size, bool)
    mask[self.top : self.bottom, self.left : self.right] = self.pixels
    return mask

  def moved(self, rows: int, columns: int) -> 'MaskWindow':
    """The same mask further down and right."""
    return MaskWindow(self.top + rows, self.left + columns, self.pixels)

  def cut(self, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """What the mask is in a region that may lie anywhere; its ends are exclusive.

    Returns:
      bool [bottom - top, right - left].
    """
    found = np.zeros((max(bottom - top, 0), max(right - left, 0)), bool)
    y1, y2 = max(top, self.top), min(bottom, self.bottom)
    x1, x2 = max(left, self.left), min(right, self.right)
    if y1 < y2 and x1 < x2:
      found[y1 - top : y2 - top, x1 - left : x2 - left] = self.pixels[
        y1 - self.top : y2 - self.top, x1 - self.left : x2 - self.left
      ]
    return found


def window_of(mask: np.ndarray) -> MaskWindow:
  """Cuts a bool [h, w] mask to its window."""
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  if not len(rows):
    return MaskWindow(0, 0, np.zeros((0, 0), bool))
  top, left = int(rows[0]), int(columns[0])
  return MaskWindow(top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy())


def unpack_window(packed: np.ndarray, size: tuple[int, int]) -> MaskWindow:
  """Cuts a packed mask to its window without unpacking the rest.

  Args:
    packed: uint8 [Ho, Wo/8], packed along the last axis.
    size: (height, width) of the image, at most (Ho, Wo); the rest is left out.
  """
  height, width = size
  packed = packed[:height, : -(-width // 8)]
  rows, octets = np.flatnonzero(packed.any(1)), np.flatnonzero(packed.any(0))
  if not len(rows):
    return MaskWindow(0, 0, np.zeros((0, 0), bool))
  top, first = int(rows[0]), int(octets[0])
  part = np.unpackbits(
    packed[top : rows[-1] + 1, first : octets[-1] + 1],
    axis=-1,
    count=min(8 * int(octets[-1] + 1), width) - 8 * first,
  )
  return window_of(part.view(bool)).moved(top, 8 * first)


def union(windows: Sequence[MaskWindow]) -> MaskWindow:
  """The pixels of any of the masks."""
  solid = [window for window in windows if window.pixels.size]
  if len(solid) < 2:
    return solid[0] if solid else windows[0]
  top, left = min(w.top for w in solid), min(w.left for w in solid)
  bottom, right = max(w.bottom for w in solid), max(w.right for w in solid)
  pixels = np.zeros((bottom - top, right - left), bool)
  for window in solid:
    pixels |= window.cut(top, left, bottom, right)
  return MaskWindow(top, left, pixels)


def encode_window(window: MaskWindow, size: tuple[int, int]) -> dict:
  """Compresses a mask of an image to COCO's RLE, {'size': [h, w], 'counts': str}."""
  height, width = size
  changes = np.diff(np.pad(window.pixels, ((1, 1), (0, 0))), axis=0)
  row, column = np.divmod(np.flatnonzero(changes), max(changes.shape[1], 1))
  # Column after column, as COCO counts; a run's end is the place after its last pixel.
  places = np.sort((column + window.left) * height + row + window.top)
  # A run to the foot of a column that goes on at the head of the next one.
  goes_on = np.flatnonzero(places[1:] == places[:-1])
  places = np.delete(places, np.concatenate([goes_on, goes_on + 1]))
  counts = np.diff(np.concatenate([[0], places, [height * width]]))
  if len(counts) > 1 and not counts[-1]:
    counts = counts[:-1]  # nothing is off after the last run
  encoded = rle.frPyObjects({'size': [height, width], 'counts': counts}, height, width)
  return {'size': [height, width], 'counts': encoded['counts'].decode('ascii')}
