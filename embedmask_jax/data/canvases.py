"""Canvases: the few sizes that network inputs are padded to, (height, width)."""

from collections.abc import Sequence

import numpy as np

from embedmask_jax.data.views import round_up

Canvas = tuple[int, int]

# A short side gets canvases of its own unless those of a larger one waste less than
# this share of it.
_SPACING = 0.85


def derive_canvases(short_sides: Sequence[int], long_side: int) -> tuple[Canvas, ...]:
  """Canvases for images resized to given short sides.

  For a short side S: S x 4/3 S (photographs), S x `long_side`, both transposed, and
  S x S, rounded up to multiples of 32. Of several short sides those that a little
  larger one serves as well get none.

  Args:
    short_sides: network pixels.
    long_side: network pixels, upper bound of the long side.
  """
  canvases: set[Canvas] = set()
  last = float('inf')
  for short in sorted({min(short, long_side) for short in short_sides}, reverse=True):
    if short > _SPACING * last:
      continue
    last = short
    for long in (short, min(-(-4 * short // 3), long_side), long_side):
      canvas = round_up(short), round_up(long)
      canvases |= {canvas, canvas[::-1]}
  return tuple(sorted(canvases, key=lambda canvas: (canvas[0] * canvas[1], canvas)))


def complete_canvases(
  canvases: Sequence[Canvas], sizes: np.ndarray
) -> tuple[Canvas, ...]:
  """Adds canvases until every size has one that holds it.

  Args:
    canvases: what there is.
    sizes: int [n, 2], (height, width) of images after resizing.

  Returns:
    `canvases`, and after them at most one for the landscapes and one for the
    portraits that no canvas holds.
  """
  complete = list(canvases)
  left_over = sizes[choose_canvases(sizes, canvases) < 0]
  is_portrait = left_over[:, 0] > left_over[:, 1]
  for group in (left_over[~is_portrait], left_over[is_portrait]):
    if len(group):
      height, width = group.max(axis=0).tolist()
      complete.append((round_up(height), round_up(width)))
  return tuple(complete)


def choose_canvases(sizes: np.ndarray, canvases: Sequence[Canvas]) -> np.ndarray:
  """The canvas of smallest area that holds each size.

  Args:
    sizes: int [n, 2], (height, width).
    canvases: (height, width); of equal areas the first counts.

  Returns:
    int32 [n], indices into `canvases`; -1 where none holds the size.
  """
  chosen = np.full(len(sizes), -1, np.int32)
  # From the largest down, of equal ones the first last: what is written last stays.
  areas = [height * width for height, width in canvases]
  for index in sorted(range(len(canvases)), key=lambda i: (-areas[i], -i)):
    chosen[(sizes <= np.asarray(canvases[index])).all(axis=1)] = index
  return chosen
