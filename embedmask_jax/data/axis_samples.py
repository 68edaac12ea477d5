"""Reading stored masks at the pixels of the network canvas, one axis at a time."""

import numpy as np


class AxisSamples:
  """Where the pixels of a canvas axis are read along an axis of stored masks."""

  def __init__(self, positions: np.ndarray, canvas_side: int):
    """Takes int64 positions, ascending or descending, of the view's pixels."""
    self.bounds = int(positions.min()), int(positions.max())
    self._count = len(positions)
    self._is_descending = positions[0] > positions[-1]
    self._ascending = positions[::-1] if self._is_descending else positions
    # The padding is read beyond the end, where windows have their margin.
    self._table = np.full(canvas_side, np.iinfo(np.int64).max // 2)
    self._table[: self._count] = positions

  @property
  def is_dense(self) -> bool:
    """Whether every position between the bounds is read."""
    return bool(np.diff(self._ascending).max(initial=0) <= 1)

  def pixels_in(
    self, first: np.ndarray, last: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """First pixel, and the one after the last, that are read in first..last."""
    start = np.searchsorted(self._ascending, first, 'left')
    stop = np.searchsorted(self._ascending, last, 'right')
    if self._is_descending:
      start, stop = self._count - stop, self._count - start
    return start, stop

  def read(self, pixels: slice, origin: int, size: int) -> np.ndarray:
    """Indices into a window of `size` that begins, with its margin, at `origin`."""
    indices = self._table[pixels] - origin
    np.minimum(indices, size - 1, out=indices)
    return np.maximum(indices, 0, out=indices)
