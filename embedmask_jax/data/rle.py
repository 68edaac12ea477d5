"""COCO's run-length encoded masks, read many at a time.

A mask of height x width is written column after column as the lengths of its runs,
off and on in turn, beginning with off. The compressed form writes each length, from
the fourth on as the difference to the length two before, in base 32, least digit
first, as characters from '0' on: bit 5 of a digit says that more follow, bit 4 of the
last one is the sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def decode_counts(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
  """Reads the run lengths of compressed masks.

  Args:
    strings: n compressed masks. What malformed ones give is unspecified, but they do
      not disturb the others.

  Returns:
    int64, the lengths of all masks one after another, and int64 [n + 1], the index
    of every mask's first one.
  """
  digits = np.frombuffer(b''.join(strings), np.uint8).astype(np.int64) - ord('0')
  string_ends = np.cumsum([len(string) for string in strings])
  is_last = (digits & 32) == 0
  is_last[string_ends[string_ends > 0] - 1] = True
  ends = np.flatnonzero(is_last)
  first = np.concatenate([[0], np.searchsorted(ends, string_ends)])
  if not ends.size:
    return np.zeros(0, np.int64), first
  starts = np.concatenate([[0], ends[:-1] + 1])
  lengths = ends - starts + 1
  places = np.arange(len(digits)) - np.repeat(starts, lengths)
  values = np.add.reduceat((digits & 31) << np.minimum(5 * places, 58), starts)
  values -= ((digits[ends] & 16) != 0) * (1 << np.minimum(5 * lengths, 62))

  position = np.arange(len(values)) - np.repeat(first[:-1], np.diff(first))
  is_on = position % 2 == 1
  counts = values.copy()
  for chain in (is_on, ~is_on & (position > 0)):
    sums = np.cumsum(np.where(chain, values, 0))
    counts[chain] = (sums - _before(sums, first))[chain]
  return counts, first


def _before(sums: np.ndarray, first: np.ndarray) -> np.ndarray:
  """What cumulative sums had reached before the group that each item is in."""
  reached = np.concatenate([[0], sums])[first[:-1]]
  return np.repeat(reached, np.diff(first))


def mask_areas(strings: Sequence[bytes], sizes: np.ndarray) -> np.ndarray:
  """Returns int64 [n], pixels that are on; -1 where a mask is malformed.

  Args:
    strings: n compressed masks.
    sizes: int [n, 2], the (height, width) their runs must add up to.
  """
  if not strings:
    return np.zeros(0, np.int64)
  counts, first = decode_counts(strings)
  is_on = (np.arange(len(counts)) - np.repeat(first[:-1], np.diff(first))) % 2 == 1
  characters = np.frombuffer(b''.join(strings), np.uint8)
  string_first = np.cumsum([0, *map(len, strings)])
  is_foreign = (characters < ord('0')) | (characters >= ord('0') + 64)
  is_bad = _sums(counts, first) != np.asarray(sizes, np.int64).prod(axis=1)
  is_bad |= _sums(counts < 0, first) > 0
  is_bad |= _sums(is_foreign, string_first) > 0
  # A last digit that says that more follow.
  is_bad |= [string[-1:] >= b'P' for string in strings]
  return np.where(is_bad, -1, _sums(np.where(is_on, counts, 0), first))


def _sums(values: np.ndarray, first: np.ndarray) -> np.ndarray:
  """Sums over groups, the i-th from `first[i]` up to `first[i + 1]`."""
  return np.diff(np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[first])


@dataclass(frozen=True)
class Windows:
  """Masks cut down to what holds all their pixels, with one pixel of margin.

  Attributes:
    pixels: bool, all windows one after another.
    first: int64 [n + 1], where each begins in `pixels`.
    bounds: int64 [n, 4], first column, first row, last column and last row of each,
      margin not counted. Where a mask has no pixels, 0, 0, -1, -1.
  """

  pixels: np.ndarray
  first: np.ndarray
  bounds: np.ndarray

  def __getitem__(self, index: int) -> np.ndarray:
    """Returns bool [columns + 2, rows + 2], off on the margin."""
    left, top, right, bottom = self.bounds[index].tolist()
    pixels = self.pixels[self.first[index] : self.first[index + 1]]
    return pixels.reshape(right - left + 3, bottom - top + 3)


def cut_windows(
  strings: Sequence[bytes],
  height: int,
  columns: tuple[int, int],
  rows: tuple[int, int],
) -> Windows:
  """Decodes the part of masks that lies in a rectangle, without whole masks.

  Args:
    strings: n compressed masks, well-formed.
    height: rows of every mask.
    columns: first and last column of the rectangle.
    rows: first and last row of the rectangle.
  """
  counts, first = decode_counts(strings)
  stops = np.cumsum(counts)
  stops -= _before(stops, first)
  owner = np.repeat(np.arange(len(strings)), np.diff(first))
  is_on = (np.arange(len(counts)) - first[owner]) % 2 == 1
  starts = (stops - counts)[is_on]
  owner, column, top, bottom = _column_segments(
    owner[is_on], starts, stops[is_on], height, columns
  )
  top, bottom = np.maximum(top, rows[0]), np.minimum(bottom, rows[1])
  is_inside = top <= bottom
  owner, column = owner[is_inside], column[is_inside]
  top, bottom = top[is_inside], bottom[is_inside]

  bounds = np.tile(np.asarray([0, 0, -1, -1], np.int64), (len(strings), 1))
  if owner.size:
    group = np.flatnonzero(np.diff(owner, prepend=-1))
    bounds[owner[group]] = np.stack(
      [
        np.minimum.reduceat(column, group),
        np.minimum.reduceat(top, group),
        np.maximum.reduceat(column, group),
        np.maximum.reduceat(bottom, group),
      ],
      axis=1,
    )
  shapes = bounds[:, 2:] - bounds[:, :2] + 3
  window_first = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
  edges = np.empty((len(owner), 2), np.int64)
  edges[:, 0] = window_first[owner] + top - bounds[owner, 1] + 1
  edges[:, 0] += (column - bounds[owner, 0] + 1) * shapes[owner, 1]
  edges[:, 1] = edges[:, 0] + bottom - top + 1
  lengths = np.diff(edges.ravel(), prepend=0, append=window_first[-1])
  pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
  return Windows(pixels, window_first, bounds)


def _column_segments(
  owner: np.ndarray,
  starts: np.ndarray,
  stops: np.ndarray,
  height: int,
  columns: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Cuts runs at the columns' ends: owner, column, first row, last row of the pieces.

  Runs of no pixels and pieces outside the range of columns are left out.
  """
  left, right = starts // height, (stops - 1) // height
  is_kept = (starts < stops) & (right >= columns[0]) & (left <= columns[1])
  owner, starts, stops = owner[is_kept], starts[is_kept], stops[is_kept]
  first = np.maximum(left[is_kept], columns[0])
  pieces = np.minimum(right[is_kept], columns[1]) - first + 1
  run = np.repeat(np.arange(len(pieces)), pieces)
  column = (
    first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
  )
  top = np.maximum(starts[run] - column * height, 0)
  bottom = np.minimum(stops[run] - 1 - column * height, height - 1)
  return owner[run], column, top, bottom
