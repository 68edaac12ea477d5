"""How an image gets onto the network canvas: resized, mirrored, cut out, padded."""

from dataclasses import dataclass

import numpy as np

from embedmask_jax.presets import PRESETS, Preset

STRIDE = 32  # Canvases and valid areas are multiples of it.


@dataclass(frozen=True)
class View:
  """One way of looking at an image. Sizes are (height, width).

  Attributes:
    resized: size of the whole image after resizing.
    is_flipped: whether the resized image is mirrored left to right.
    window: top, left, height, width of what is seen of the resized, mirrored image.
    canvas: size of the network input, at least that of the window, multiples of 32.
    is_crop: whether the window is one cut at random. Instances that cannot be seen in
      it are then left out; otherwise all are kept.
    preset: for the meaning of boxes and of stride-4 cells.
  """

  resized: tuple[int, int]
  is_flipped: bool
  window: tuple[int, int, int, int]
  canvas: tuple[int, int]
  is_crop: bool = False
  preset: Preset = PRESETS['2021']

  @property
  def image_size(self) -> tuple[int, int]:
    """What is seen of the image, without padding."""
    return self.window[2:]

  @property
  def valid_size(self) -> tuple[int, int]:
    """`image_size` rounded up to multiples of 32."""
    height, width = self.image_size
    return round_up(height), round_up(width)


@dataclass(frozen=True)
class Paste:
  """Instances of another image that are laid over an image.

  Attributes:
    index: the other image's position in its source.
    view: how it is shown; its window is no larger than the image's.
    corner: (top, left) of its window in the image's.
    chosen: which of its instances, at least one, ascending.
  """

  index: int
  view: View
  corner: tuple[int, int]
  chosen: tuple[int, ...]


def round_up(side: int) -> int:
  """The next multiple of 32."""
  return -(-side // STRIDE) * STRIDE


def whole_view(
  resized: tuple[int, int],
  canvas: tuple[int, int],
  *,
  is_flipped: bool = False,
  preset: Preset = PRESETS['2021'],
) -> View:
  """The view of a whole image."""
  return View(resized, is_flipped, (0, 0, *resized), canvas, preset=preset)


def resize_sizes(
  sizes: np.ndarray, short_side: int, long_side: int, *, rounds: bool = False
) -> np.ndarray:
  """Sizes that images are resized to, as the authors' code computes them.

  The short side becomes `short_side`; where the long one would then exceed
  `long_side`, the short side becomes `round(long_side * short / long)` instead. The
  long side follows in proportion, truncated (so that after rounding up it may still
  exceed `long_side` by a few pixels, in narrow images).

  Or, with `rounds`, both sides are scaled by one factor and rounded to the nearest,
  halves up, as detectron2 does.

  Args:
    sizes: int [n, 2], (height, width) of the images as stored.
    short_side: network pixels.
    long_side: network pixels.
    rounds: see above.

  Returns:
    int32 [n, 2], (height, width); no side is below 1.
  """
  sizes = np.asarray(sizes, np.int64)
  short, long = sizes.min(axis=1), sizes.max(axis=1)
  if rounds:
    scale = short_side / short
    # In this order of operations, which decides the last bit.
    scaled = np.where(
      sizes == short[:, None], float(short_side), scale[:, None] * sizes
    )
    longest = scaled.max(axis=1)
    shrink = np.where(longest > long_side, long_side / longest, 1.0)
    return np.maximum((scaled * shrink[:, None] + 0.5).astype(np.int32), 1)
  is_too_long = long / short * short_side > long_side
  limited = np.maximum(np.rint(long_side * short / long), 1).astype(np.int64)
  new_short = np.where(is_too_long, limited, short_side)
  new_long = new_short * long // short
  is_portrait = (sizes[:, 0] > sizes[:, 1])[:, None]
  resized = np.stack([new_short, new_long], axis=1)
  return np.where(is_portrait, resized[:, ::-1], resized).astype(np.int32)
