"""The network size of every image that a canvas can hold, as a table."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embedmask_jax.data.views import round_up
from embedmask_jax.errors import UserError
from embedmask_jax.ops.integer_resize import is_exact, num_taps

Canvas = tuple[int, int]


@dataclass(frozen=True, eq=False)
class SizeTable:
  """How images up to a canvas are resized.

  A table rather than a formula: it has what the host computes, to the last pixel.

  Attributes:
    sizes: int32 [Hc, Wc, 2], (height, width) in network pixels of the image of
      (row + 1) x (column + 1) pixels.
    network_canvas: (height, width), multiples of 32, which holds all of them.
    taps: how many pixels the resize spans at most.
    num_smaller: how many of the sizes are smaller than the host's, to fit the network
      canvas.
  """

  sizes: np.ndarray
  network_canvas: Canvas
  taps: int
  num_smaller: int

  @property
  def canvas(self) -> Canvas:
    """(height, width) of the largest image."""
    return self.sizes.shape[0], self.sizes.shape[1]


def make_size_table(
  resized: Callable[[np.ndarray], np.ndarray],
  canvas: Canvas,
  *,
  long_side: int,
  network_canvas: Canvas | None = None,
) -> SizeTable:
  """Tabulates the sizes.

  Args:
    resized: int [n, 2] -> int32 [n, 2], sizes of images -> network sizes.
    canvas: (height, width), at least 1.
    long_side: what `resized` makes the long side at most, network pixels; images of a
      few pixels in width come out longer for its rounding, and count for nothing in
      the default of the network canvas.
    network_canvas: what the images have to fit, made smaller if need be; by default
      the smallest that holds them all as the host resizes them.

  Raises:
    UserError: the canvas is larger than the arithmetic of the resize allows.
  """
  rows, columns = (np.arange(1, side + 1) for side in canvas)
  originals = np.stack(np.meshgrid(rows, columns, indexing='ij'), axis=-1)
  wanted = resized(originals.reshape(-1, 2)).reshape(originals.shape)
  longest = np.minimum(wanted.max(axis=(0, 1)), round_up(long_side)).tolist()
  network_canvas = network_canvas or (round_up(longest[0]), round_up(longest[1]))
  limit = np.asarray(network_canvas)
  factor = np.minimum(limit / wanted, 1).min(axis=-1, keepdims=True)
  fitting = np.clip((wanted * factor + 1e-6).astype(np.int32), 1, limit)
  sizes = np.where(factor < 1, fitting, wanted).astype(np.int32)
  taps = num_taps(originals, sizes)
  side = max(*canvas, *network_canvas)
  if not is_exact(side, taps):
    raise UserError(
      f'--canvas={canvas[0]}x{canvas[1]} is too large to be resized to '
      f'{network_canvas[0]}x{network_canvas[1]} in the graph; name a smaller one'
    )
  return SizeTable(sizes, network_canvas, taps, int((factor < 1).sum()))
