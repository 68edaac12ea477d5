"""Where the proposals sit: the locations of the feature levels P3..P7.

NumPy only, so that the host-side data code can use it: everything here is known
from the canvas size alone.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

STRIDES = (8, 16, 32, 64, 128)


def level_shapes(canvas: Sequence[int]) -> tuple[tuple[int, int], ...]:
  """Returns the (rows, columns) of P3..P7 for a canvas of multiples of 32.

  P6 and P7 halve the level before, rounding up.

  Raises:
    ValueError: a side of the canvas is not a positive multiple of 32.
  """
  height, width = canvas
  if height <= 0 or width <= 0 or height % 32 or width % 32:
    raise ValueError(f'canvas {height}x{width}: sides must be multiples of 32')
  shapes = [(height // s, width // s) for s in STRIDES[:3]]
  for _ in STRIDES[3:]:
    rows, columns = shapes[-1]
    shapes.append(((rows + 1) // 2, (columns + 1) // 2))
  return tuple(shapes)


@lru_cache(maxsize=64)
def locations(canvas: tuple[int, int]) -> np.ndarray:
  """Returns int32 [P, 2], the (x, y) of every location in network pixels."""
  points = []
  for stride, (rows, columns) in zip(STRIDES, level_shapes(canvas), strict=True):
    y, x = np.mgrid[:rows, :columns] * stride + stride // 2
    points.append(np.stack([x.ravel(), y.ravel()], axis=-1))
  return np.concatenate(points).astype(np.int32)


@lru_cache(maxsize=64)
def location_levels(canvas: tuple[int, int]) -> np.ndarray:
  """Returns int32 [P], the level index 0..4 (P3..P7) of every location."""
  counts = [rows * columns for rows, columns in level_shapes(canvas)]
  return np.repeat(np.arange(len(counts)), counts).astype(np.int32)


def location_strides(canvas: tuple[int, int]) -> np.ndarray:
  """Returns int32 [P], the stride of every location in network pixels."""
  return np.asarray(STRIDES, np.int32)[location_levels(canvas)]
