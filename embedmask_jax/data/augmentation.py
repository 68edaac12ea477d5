"""How each image of the stream is shown, drawn from the seed.

What is drawn for an image depends on the seed, the epoch and the image's id alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedmask_jax.data.canvases import Canvas
from embedmask_jax.data.draws import Stream, draw_bits, draw_uniform
from embedmask_jax.data.transforms import show_boxes
from embedmask_jax.data.views import Paste, View, resize_sizes
from embedmask_jax.errors import UserError
from embedmask_jax.presets import PRESETS, Preset

# Of an instance of an image that is pasted from.
_CHOICE_PROBABILITY = 0.5


@dataclass(frozen=True)
class AugmentationSettings:
  """What is drawn for an image in training.

  Attributes:
    short_sides: network pixels; one is drawn for each image.
    long_side: network pixels, upper bound.
    flip_probability: of mirroring.
    crop_size: (height, width) of a random cut of the resized image; () for none.
    scale_jitter: (low, high), between which a factor of the resized size is drawn
      uniformly for each image; () for none. (0.1, 2) is the large-scale jitter of
      Ghiasi et al. (arXiv 2012.07177).
    copy_paste_probability: of laying a random half of the instances of another
      image, drawn from all that have some and shown in its own way, over an image
      (the same paper's simple copy-paste, without blending).
    preset: for sizes, and what a view means.
  """

  short_sides: Sequence[int]
  long_side: int
  flip_probability: float
  crop_size: Sequence[int] = ()
  scale_jitter: Sequence[float] = ()
  copy_paste_probability: float = 0.0
  preset: Preset = PRESETS['2021']


class Augmentation:
  """Views of the images of a data set, and what is pasted onto them.

  Attributes:
    largest_sizes: int32 [m, 2], (height, width); whatever is shown of an image is, on
      both sides, no larger than one of them.
  """

  def __init__(
    self,
    *,
    image_ids: Sequence[int],
    sizes: np.ndarray,
    boxes: np.ndarray,
    instance_counts: np.ndarray,
    seed: int,
    settings: AugmentationSettings,
  ):
    """Takes the data set and the seed as `TrainPlan` does.

    Raises:
      UserError: there is nothing to copy from.
    """
    self._image_ids = np.asarray(image_ids, np.int64)
    self._original_sizes = np.asarray(sizes)
    self._boxes = boxes
    self._counts = np.asarray(instance_counts)
    self._first_box = np.concatenate([[0], np.cumsum(self._counts)])
    self._seed = seed
    self._settings = settings
    # [short side, image, 2].
    self._resized = np.stack(
      [
        resize_sizes(
          sizes, side, settings.long_side, rounds=settings.preset.rounds_sizes
        )
        for side in settings.short_sides
      ]
    )
    largest = self._resized.reshape(-1, 2)
    if settings.scale_jitter:
      largest = _scale(largest, np.full(len(largest), settings.scale_jitter[1]))
    self.largest_sizes = self._cut(largest)
    # Images with instances, by id.
    order = np.argsort(self._image_ids)
    self._donors = order[self._counts[order] > 0]
    probability = settings.copy_paste_probability
    if probability and len(self._donors) < 2:
      raise UserError(
        f'data.copy_paste_probability is {probability}, but there are '
        f'{len(self._donors)} images with instances; it takes 2, or set it to 0'
      )

  def shown_sizes(self, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns int32 [n, 2], (height, width) of what is seen of n images."""
    return self._cut(self._resize(self._seed, epochs, indices))

  def views(
    self, epochs: np.ndarray, indices: np.ndarray, canvas: Canvas
  ) -> list[View]:
    """How n images are shown on a canvas."""
    resized = self._resize(self._seed, epochs, indices)
    is_crop = bool(self._settings.crop_size)
    return self._views(
      self._seed, epochs, indices, resized, self._cut(resized), canvas, is_crop
    )

  def pastes(
    self, epochs: np.ndarray, indices: np.ndarray, views: Sequence[View]
  ) -> list[Paste | None]:
    """What is pasted onto n images that are shown as `views` say."""
    if not self._settings.copy_paste_probability:
      return [None] * len(views)
    is_pasted = self._draw(self._seed, Stream.PASTE, epochs, indices)
    is_pasted = is_pasted < self._settings.copy_paste_probability
    return [
      self._paste(epochs[i : i + 1], indices[i : i + 1], view) if is_pasted[i] else None
      for i, view in enumerate(views)
    ]

  def count_instances(self, index: int, view: View, paste: Paste | None) -> int:
    """How many instances an image can have that is shown like that.

    It is exact but for masks that a cut misses and those that a paste covers.
    """
    own = len(self._seen(index, view)) if view.is_crop else int(self._counts[index])
    return own + (len(paste.chosen) if paste else 0)

  def _paste(self, epoch: np.ndarray, index: np.ndarray, view: View) -> Paste | None:
    """What is pasted onto an image; None where none of it is seen."""
    (seed,) = draw_bits(
      self._seed, Stream.PASTE_SEED, epoch, self._image_ids[index]
    ).tolist()
    is_donor = self._donors == index
    others = self._donors[~is_donor]
    place = self._draw(seed, Stream.PASTE_SOURCE, epoch, index) * len(others)
    other = others[place.astype(np.int64)]
    resized = self._resize(seed, epoch, other)
    shown = np.minimum(resized, view.image_size)
    (pasted,) = self._views(seed, epoch, other, resized, shown, view.canvas, True)
    room = view.image_size - shown[0] + 1
    top = self._draw(seed, Stream.PASTE_TOP, epoch, other) * room[0]
    left = self._draw(seed, Stream.PASTE_LEFT, epoch, other) * room[1]
    seen = self._seen(int(other[0]), pasted)
    drawn = draw_uniform(seed, Stream.PASTE_INSTANCE, epoch, seen)
    chosen = seen[drawn < _CHOICE_PROBABILITY]
    if not len(chosen):
      return None
    corner = int(top[0]), int(left[0])
    return Paste(int(other[0]), pasted, corner, tuple(chosen.tolist()))

  def _seen(self, index: int, view: View) -> np.ndarray:
    """Positions of those instances of an image whose boxes are seen in a cut."""
    boxes = self._boxes[self._first_box[index] : self._first_box[index + 1]]
    height, width = self._original_sizes[index].tolist()
    return np.flatnonzero(show_boxes(boxes, (height, width), view)[1])

  def _views(
    self,
    seed: int,
    epochs: np.ndarray,
    indices: np.ndarray,
    resized: np.ndarray,
    shown: np.ndarray,
    canvas: Canvas,
    is_crop: bool,
  ) -> list[View]:
    """Views of n resized images, of which windows of the size `shown` are seen."""
    is_flipped = self._draw(seed, Stream.FLIP, epochs, indices)
    is_flipped = is_flipped < self._settings.flip_probability
    room = resized - shown + 1
    top = self._draw(seed, Stream.CROP_TOP, epochs, indices) * room[:, 0]
    left = self._draw(seed, Stream.CROP_LEFT, epochs, indices) * room[:, 1]
    windows = np.stack([top.astype(np.int64), left.astype(np.int64), *shown.T], axis=1)
    return [
      View(tuple(size), flip, tuple(window), canvas, is_crop, self._settings.preset)
      for size, flip, window in zip(
        resized.tolist(), is_flipped.tolist(), windows.tolist(), strict=True
      )
    ]

  def _resize(self, seed: int, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns int32 [n, 2], the sizes that n images are resized to."""
    drawn = self._draw(seed, Stream.SCALE, epochs, indices)
    resized = self._resized[(drawn * len(self._resized)).astype(np.int64), indices]
    if not self._settings.scale_jitter:
      return resized
    low, high = self._settings.scale_jitter
    drawn = self._draw(seed, Stream.JITTER, epochs, indices)
    return _scale(resized, low + drawn * (high - low))

  def _cut(self, sizes: np.ndarray) -> np.ndarray:
    crop = self._settings.crop_size
    return np.minimum(sizes, crop).astype(np.int32) if crop else sizes

  def _draw(
    self, seed: int, stream: Stream, epochs: np.ndarray, indices: np.ndarray
  ) -> np.ndarray:
    return draw_uniform(seed, stream, epochs, self._image_ids[indices])


def _scale(sizes: np.ndarray, factors: np.ndarray) -> np.ndarray:
  """Sizes times factors, rounded, no side below 1."""
  return np.maximum(np.rint(sizes * factors[:, None]), 1).astype(np.int32)
