"""What a source of annotated images is, wherever the files lie."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedmask_jax.data.annotations import (
  AnnotationTable,
  SourceReport,
  Use,
  classify,
  clip_boxes,
  make_report,
)
from embedmask_jax.data.masks import Segmentation
from embedmask_jax.errors import UserError, shorten
from embedmask_jax.presets import Preset

Categories = tuple[tuple[int, str], ...]  # (id, name), the class's index by position


@dataclass(frozen=True)
class ImageRecord:
  """An image file and its n training instances, in the order of the JSON.

  Attributes:
    image_id: id in the JSON.
    file_name: as messages should name it.
    height: pixels, of the stored image.
    width: pixels, of the stored image.
    encoded: content of the image file.
    annotation_ids: int64 [n].
    labels: int32 [n], class indices.
    boxes: float32 [n, 4], xyxy, original pixels, clipped to the image.
    segmentations: n segmentations in original pixels.
  """

  image_id: int
  file_name: str
  height: int
  width: int
  encoded: bytes
  annotation_ids: np.ndarray
  labels: np.ndarray
  boxes: np.ndarray
  segmentations: tuple[Segmentation, ...]


class ImageSource(ABC):
  """Annotated images by position.

  Attributes:
    image_ids: ids in the JSON.
    file_names: as messages should name them.
    sizes: int32 [images, 2], (height, width) of the stored images.
    instance_counts: int32 [images], training instances.
    boxes: float32 [instances, 4], those of all images one after another; xyxy,
      original pixels, clipped.
    categories: (id, name) of the classes 0..C-1.
    report: counts and names of what is not used.
    table: all that the data set says, but for the masks.
  """

  def __init__(
    self,
    table: AnnotationTable,
    location: str,
    categories: Sequence[tuple[int, str]] | None,
    min_box_side: float,
    preset: Preset,
  ):
    """Decides which annotations become instances.

    Args:
      table: the data set.
      location: where it was read from, for messages.
      categories: (id, name) of the classes to use, such as a checkpoint's; those of
        the data set by default.
      min_box_side: see `classify`.
      preset: for the meaning of boxes.

    Raises:
      UserError: the data set has a category that is not among `categories`.
    """
    chosen = table.categories if categories is None else tuple(categories)
    self.categories: Categories = tuple((int(i), str(name)) for i, name in chosen)
    _check_categories(table.categories, self.categories, location)
    self.image_ids: tuple[int, ...] = tuple(table.image_ids.tolist())
    self.file_names = table.file_names
    self.sizes = table.sizes
    extent = preset.box_extent
    uses = classify(table, min_box_side, extent=extent)
    self.report: SourceReport = make_report(table, uses)
    # Rows of the table that are instances.
    self._rows = np.flatnonzero(uses == Use.INSTANCE)
    self._first = np.searchsorted(self._rows, table.first)
    self.instance_counts = np.diff(self._first).astype(np.int32)
    index = table.image_index[self._rows]
    self.boxes = clip_boxes(table.boxes[self._rows], table.sizes[index], extent=extent)
    ids = np.asarray([i for i, _ in self.categories])
    order = np.argsort(ids)
    places = np.searchsorted(ids[order], table.category_ids[self._rows])
    self._labels = order[places].astype(np.int32)
    self._annotation_ids = table.annotation_ids[self._rows]
    self.table = table

  @property
  def category_ids(self) -> tuple[int, ...]:
    """The ids of the classes 0..C-1 in the JSON."""
    return tuple(i for i, _ in self.categories)

  @property
  def class_names(self) -> tuple[str, ...]:
    """The names of the classes 0..C-1."""
    return tuple(name for _, name in self.categories)

  def __len__(self) -> int:
    return len(self.image_ids)

  def __getitem__(self, index: int) -> ImageRecord:
    """Reads an image.

    Raises:
      UserError: it cannot be read.
    """
    first, stop = self._first[index : index + 2].tolist()
    # Rows of the table counted from the image's first.
    rows = self._rows[first:stop] - self.table.first[index]
    encoded, segmentations = self._read(index, rows)
    height, width = self.sizes[index].tolist()
    return ImageRecord(
      image_id=self.image_ids[index],
      file_name=self.file_names[index],
      height=height,
      width=width,
      encoded=encoded,
      annotation_ids=self._annotation_ids[first:stop],
      labels=self._labels[first:stop],
      boxes=self.boxes[first:stop],
      segmentations=segmentations,
    )

  @abstractmethod
  def _read(
    self, index: int, rows: np.ndarray
  ) -> tuple[bytes, tuple[Segmentation, ...]]:
    """The image file and the segmentations of the given annotations of the image."""

  @abstractmethod
  def ground_truth(self) -> dict[str, Any]:
    """The data set in the form of a COCO JSON, for pycocotools."""


def _check_categories(found: Categories, known: Categories, location: str) -> None:
  unknown = [category for category in found if category not in known]
  if unknown:
    shown, classes = (
      shorten([f'{i} {name!r}' for i, name in categories])
      for categories in (unknown, known)
    )
    raise UserError(
      f'{location}: {len(unknown)} categories are unknown to the model: {shown}; its '
      f'{len(known)} classes are {classes}. Ids and names must both agree; with '
      '`embedmask prepare`, convert both data sets with the same --names'
    )
