"""What a COCO data set says about its images, but for the masks, and what is used."""

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from embedmask_jax.data.segmentations import MaskState
from embedmask_jax.errors import shorten


@dataclass(frozen=True)
class AnnotationTable:
  """All images and annotations of a data set; rows of an image lie together.

  Attributes:
    image_ids: int64 [images].
    file_names: of the images, relative to their folder(s).
    sizes: int32 [images, 2], (height, width).
    categories: (id, name), ascending ids.
    first: int64 [images + 1], where the annotations of each image begin.
    annotation_ids: int64 [n].
    category_ids: int64 [n].
    boxes: float64 [n, 4], x, y, width, height in original pixels; NaN where missing.
    is_crowd: bool [n].
    mask_states: uint8 [n], a MaskState each.
    has_short_polygons: bool [n], whether polygons of less than 3 points were dropped
      beside others.
  """

  image_ids: np.ndarray
  file_names: tuple[str, ...]
  sizes: np.ndarray
  categories: tuple[tuple[int, str], ...]
  first: np.ndarray
  annotation_ids: np.ndarray
  category_ids: np.ndarray
  boxes: np.ndarray
  is_crowd: np.ndarray
  mask_states: np.ndarray
  has_short_polygons: np.ndarray

  @property
  def image_index(self) -> np.ndarray:
    """int64 [n], the position of every annotation's image."""
    return np.repeat(np.arange(len(self.image_ids)), np.diff(self.first))


class Use(IntEnum):
  """Whether an annotation becomes a training instance, or why not."""

  INSTANCE = 0
  CROWD = 1
  NO_BOX = 2
  NO_MASK = 3
  MALFORMED_MASK = 4
  EMPTY_MASK = 5
  ZERO_AREA = 6
  OUTSIDE = 7
  TOO_SMALL = 8


# How reports name what is left out.
USE_WORDS = {
  Use.CROWD: 'crowd regions',
  Use.NO_BOX: 'without a bbox of four finite numbers',
  Use.NO_MASK: 'without a segmentation',
  Use.MALFORMED_MASK: 'whose segmentation is malformed or not of the image size',
  Use.EMPTY_MASK: 'whose segmentation is empty',
  Use.ZERO_AREA: 'whose bbox has no area',
  Use.OUTSIDE: 'whose bbox lies outside the image',
  Use.TOO_SMALL: 'whose bbox, clipped to the image, is too small (data.min_box_side)',
}


_FAR = 1e9


def clip_boxes(boxes: np.ndarray, sizes: np.ndarray, *, extent: int = 1) -> np.ndarray:
  """COCO boxes -> xyxy, clipped to their images, float32.

  Args:
    boxes: float64 [n, 4], x, y, width, height.
    sizes: int [n, 2], (height, width) of the images.
    extent: 1 where x2 is to be the last pixel, 0 where it is to be the edge.
  """
  # Nothing reaches that far, but float32 does not go on for ever.
  x, y, width, height = np.clip(boxes, -_FAR, _FAR).astype(np.float32).T
  last = np.asarray(sizes, np.float32)[:, ::-1].T - extent
  less = np.float32(extent)
  corners = [x, y, x + np.maximum(width - less, 0), y + np.maximum(height - less, 0)]
  return np.stack(
    [np.clip(side, 0, last[i % 2]) for i, side in enumerate(corners)], axis=1
  )


def classify(
  table: AnnotationTable, min_box_side: float, *, extent: int = 1
) -> np.ndarray:
  """Returns uint8 [n], a Use for every annotation; the first reason found counts.

  Args:
    table: the data set.
    min_box_side: original pixels; a box, clipped to its image, is used where both
      sides (x2 - x1 + extent) are larger. 1 is what the authors' code does, or 1e-5
      where `extent` is 0.
    extent: see `clip_boxes`.
  """
  sizes = table.sizes[table.image_index]
  x, y, width, height = table.boxes.T
  x1, y1, x2, y2 = clip_boxes(np.nan_to_num(table.boxes), sizes, extent=extent).T
  least = np.float32(min_box_side - extent)
  reasons = [
    (Use.CROWD, table.is_crowd),
    (Use.NO_BOX, ~np.isfinite(table.boxes).all(axis=1)),
    (Use.NO_MASK, table.mask_states == MaskState.MISSING),
    (Use.MALFORMED_MASK, table.mask_states == MaskState.MALFORMED),
    (Use.EMPTY_MASK, table.mask_states == MaskState.EMPTY),
    (Use.ZERO_AREA, (width <= 0) | (height <= 0)),
    (
      Use.OUTSIDE,
      (x + width <= 0) | (y + height <= 0) | (x >= sizes[:, 1]) | (y >= sizes[:, 0]),
    ),
    (Use.TOO_SMALL, (x2 - x1 <= least) | (y2 - y1 <= least)),
  ]
  uses = np.full(len(table.boxes), Use.INSTANCE, np.uint8)
  for use, is_so in reversed(reasons):
    uses[is_so] = use
  return uses


def can_be_scored(table: AnnotationTable) -> np.ndarray:
  """Returns bool [n], whether an annotation has the mask and box that scores need."""
  is_usable = table.mask_states == MaskState.USABLE
  return is_usable & np.isfinite(table.boxes).all(axis=1)


@dataclass(frozen=True)
class SourceReport:
  """What of a data set is used for training and for scores, and what is not.

  Attributes:
    num_images: images, all of them kept.
    num_images_without_instances: those that nothing is to be found in.
    num_annotations: annotations in the JSON.
    num_instances: those that are used; with those in `left_out` they are all.
    left_out: in words why -> annotation ids.
    short_polygons: ids of annotations used without some of their polygons, which have
      less than 3 points.
    not_scored: ids of annotations without a usable segmentation or bbox, which
      evaluation does without; crowd regions and small objects it knows.
  """

  num_images: int
  num_images_without_instances: int
  num_annotations: int
  num_instances: int
  left_out: dict[str, tuple[int, ...]] = field(default_factory=dict)
  short_polygons: tuple[int, ...] = ()
  not_scored: tuple[int, ...] = ()

  def __str__(self) -> str:
    lines = [
      f'{self.num_images} images ({self.num_images_without_instances} without '
      f'instances), {self.num_annotations} annotations, {self.num_instances} used'
    ]
    for words, ids in self.left_out.items():
      lines.append(f'  left out of training: {len(ids)} {words}: {_first(ids)}')
    if self.short_polygons:
      lines.append(
        f'  {len(self.short_polygons)} used without their polygons of less than 3 '
        f'points: {_first(self.short_polygons)}'
      )
    return '\n'.join(lines)

  def of_evaluation(self) -> str:
    """What evaluation uses and what it does without, in place of training."""
    count = self.num_annotations - len(self.not_scored)
    line = f'{self.num_images} images, {self.num_annotations} annotations, {count} used'
    if self.not_scored:
      line += (
        f'\n  left out of the scores: {len(self.not_scored)} without a usable '
        f'segmentation or bbox: {_first(self.not_scored)}'
      )
    return line


def _first(ids: tuple[int, ...]) -> str:
  return f'annotation ids {shorten(ids)}'


def make_report(table: AnnotationTable, uses: np.ndarray) -> SourceReport:
  """Counts and names what `classify` found."""
  is_used = uses == Use.INSTANCE
  counts = np.bincount(table.image_index[is_used], minlength=len(table.image_ids))

  def ids(chosen: np.ndarray) -> tuple[int, ...]:
    return tuple(table.annotation_ids[chosen].tolist())

  return SourceReport(
    num_images=len(table.image_ids),
    num_images_without_instances=int((counts == 0).sum()),
    num_annotations=len(uses),
    num_instances=int(is_used.sum()),
    left_out={
      words: ids(uses == use) for use, words in USE_WORDS.items() if (uses == use).any()
    },
    short_polygons=ids(is_used & table.has_short_polygons),
    not_scored=ids(~can_be_scored(table)),
  )
