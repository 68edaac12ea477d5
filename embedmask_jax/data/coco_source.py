"""A COCO-format JSON and the folder(s) its images lie in."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from embedmask_jax.data.coco_json import (
  group_by_image,
  load_json,
  make_ground_truth,
  make_tables,
)
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.masks import Segmentation
from embedmask_jax.errors import UserError, shorten
from embedmask_jax.presets import PRESETS, Preset
from embedmask_jax.storage import list_names, located, read_bytes, reason


class CocoSource(ImageSource):
  """Annotated images in COCO form.

  Everything but the content of the images is checked when the source is made.
  """

  def __init__(
    self,
    annotations: str | os.PathLike,
    images: str | os.PathLike,
    *,
    categories: Sequence[tuple[int, str]] | None = None,
    min_box_side: float = 1.0,
    preset: Preset = PRESETS['2021'],
    leaves_out_missing: bool = False,
  ):
    """Reads the JSON and looks for the images.

    Args:
      annotations: path of the JSON.
      images: folder, or several joined by commas; each image lies in one of them.
      categories: (id, name) of the classes to use, such as a checkpoint's; those of
        the JSON by default.
      min_box_side: original pixels; smaller objects are left out of training.
      preset: for the meaning of boxes.
      leaves_out_missing: whether images that are in none of the folders are left out,
        with their annotations, and named in `missing_images`; else they are an error.

    Raises:
      UserError: the JSON cannot be used (see `load_json`), has a category that is not
        among `categories`, or names images that are missing (or all of them, where
        they may be) or in several folders.
    """
    self._annotations = os.fspath(annotations)
    content = load_json(self._annotations)
    folders = image_folders(images)
    names = [image['file_name'] for image in content['images']]
    paths, self.missing_images = _find_images(names, folders, self._annotations)
    if self.missing_images and not (leaves_out_missing and paths):
      raise _missing(self.missing_images, len(names), folders, self._annotations)
    content = self._without_missing(content)
    table, self._segmentations = make_tables(content)
    super().__init__(table, self._annotations, categories, min_box_side, preset)
    self._paths = paths

  def _without_missing(self, content: dict[str, Any]) -> dict[str, Any]:
    if not self.missing_images:
      return content
    missing = set(self.missing_images)
    images = [i for i in content['images'] if i['file_name'] not in missing]
    known = {image['id'] for image in images}
    annotations = [a for a in content['annotations'] if a['image_id'] in known]
    return {**content, 'images': images, 'annotations': annotations}

  def _read(
    self, index: int, rows: np.ndarray
  ) -> tuple[bytes, tuple[Segmentation, ...]]:
    encoded = read_image_file(self._paths[index])
    first = int(self.table.first[index])
    return encoded, tuple(self._segmentations[first + row] for row in rows.tolist())

  def ground_truth(self) -> dict[str, Any]:
    """See `make_ground_truth`; the JSON is read again rather than kept in memory."""
    return make_ground_truth(load_json(self._annotations)['annotations'], self.table)

  def path(self, index: int) -> str:
    """Where an image lies."""
    return self._paths[index]

  def annotations_by_image(self) -> list[list[dict[str, Any]]]:
    """The entries of the JSON, in its order, for every image; read again."""
    return group_by_image(self._without_missing(load_json(self._annotations)))


def image_folders(images: str | os.PathLike) -> list[str]:
  """The folders that are joined by commas; `~` stands for the home folder."""
  parts = (folder.strip() for folder in os.fspath(images).split(','))
  return [os.path.expanduser(folder) for folder in parts]


def read_image_file(path: str) -> bytes:
  """Returns the content of an image file.

  Raises:
    UserError: it cannot be read.
  """
  try:
    return read_bytes(path)
  except OSError as error:
    raise UserError(f'image {path}: cannot be read ({reason(error)})') from error


def _find_images(
  names: Sequence[str], folders: Sequence[str], annotations: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Finds every image, from listings: one call per folder, not per file.

  Returns:
    The paths of those that are there, and the names of those that are not.
  """
  for folder in folders:
    if not folder or not located(folder).is_dir():
      raise UserError(
        f'images folder {folder!r} does not exist; several folders are joined by commas'
      )
  listings: dict[str, frozenset[str]] = {}

  def exists(path: str) -> bool:
    parent, name = os.path.split(path)
    if parent not in listings:
      listings[parent] = list_names(parent)
    return name in listings[parent]

  paths, missing = [], []
  for name in names:
    found = [path for folder in folders if exists(path := os.path.join(folder, name))]
    if len(set(found)) > 1:
      raise UserError(
        f'image {name!r} of {annotations} is in several folders: {", ".join(found)}; '
        'name only one of them, or give the folder in file_name'
      )
    paths += found[:1]
    missing += [] if found else [name]
  return tuple(paths), tuple(missing)


def _missing(
  missing: Sequence[str], count: int, folders: Sequence[str], annotations: str
) -> UserError:
  remedy = 'check the images folder(s)'
  if len(missing) < count:
    remedy += ' or take them out of the JSON (embedmask check-data names them all)'
  return UserError(
    f'{len(missing)} of {count} images of {annotations} are not in '
    f'{", ".join(folders)}: {shorten(missing)}; {remedy}'
  )
