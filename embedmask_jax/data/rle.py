"""COCO's run-length encoded masks, read many at a time.

A mask of height x width is written column after column as the lengths of its runs,
off and on in turn, beginning with off. The compressed form writes each length, from
the fourth on as the difference to the length two before, in base 32, least digit
first, as characters from '0' on: bit 5 of a digit says that more follow, bit 4 of the
last one is the sign.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Digits that say that more follow: at the end, or so many that pycocotools, which
# shifts 32-bit integers, reads another number than we do.
_UNREADABLE = re.compile(rb'[P-o]\Z|[P-o]{6}')


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
  string_ends = np.cumsum([len(string) for string in strings], dtype=np.int64)
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
  is_bad |= [_UNREADABLE.search(string) is not None for string in strings]
  return np.where(is_bad, -1, _sums(np.where(is_on, counts, 0), first))


def _sums(values: np.ndarray, first: np.ndarray) -> np.ndarray:
  """Sums over groups, the i-th from `first[i]` up to `first[i + 1]`."""
  return np.diff(np.concatenate([[0], np.cumsum(values, dtype=np.int64)])[first])


class ColumnRuns(NamedTuple):
  """Masks as vertical runs of pixels that are on; int64 [runs] each.

  Attributes:
    owner: which mask.
    column: of the image.
    first: the run's first row.
    last: its last row.
  """

  owner: np.ndarray
  column: np.ndarray
  first: np.ndarray
  last: np.ndarray


def column_runs(strings: Sequence[bytes], height: int) -> ColumnRuns:
  """Reads well-formed compressed masks of images `height` rows high."""
  counts, first = decode_counts(strings)
  sums = np.cumsum(counts)
  ends = sums - _before(sums, first)
  owner = np.repeat(np.arange(len(strings)), np.diff(first))
  is_on = (np.arange(len(counts)) - first[owner]) % 2 == 1
  is_on &= counts > 0
  owner, ends, counts = owner[is_on], ends[is_on], counts[is_on]
  # Runs go on from one column into the next: cut them there.
  starts = ends - counts
  left = starts // height
  run, column = expand(left, (ends - 1) // height)
  top = np.maximum(starts[run] - column * height, 0)
  bottom = np.minimum(ends[run] - 1 - column * height, height - 1)
  return ColumnRuns(owner[run], column, top, bottom)


def expand(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Lists the integers of intervals, ends included; empty where last < first.

  Returns:
    int64, the interval that each integer is from, and the integers.
  """
  lengths = np.maximum(last - first + 1, 0)
  interval = np.repeat(np.arange(len(lengths)), lengths)
  offset = first - (np.cumsum(lengths) - lengths)
  return interval, offset[interval] + np.arange(len(interval))
