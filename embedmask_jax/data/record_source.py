"""Annotated images from ArrayRecord files that our TFDS builder wrote."""

import hashlib
import io
import json
import logging
import os
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from embedmask_jax.data.annotations import AnnotationTable
from embedmask_jax.data.coco_json import make_ground_truth
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.masks import Segmentation
from embedmask_jax.data.segmentations import parse_segmentation
from embedmask_jax.errors import UserError
from embedmask_jax.presets import PRESETS, Preset
from embedmask_jax.storage import (
  copy_files,
  default_folder,
  is_remote,
  located,
  read_bytes,
  reason,
)
from embedmask_jax.writing import replaced_folder

# Beside the records: everything about the data set but images and masks, so that
# opening it reads no records.
INDEX_FILE = 'index.npz'
INDEX_VERSION = 1
# Threads that import TFDS at the same time can wait for each other for ever: it loads
# parts of itself behind locks of its own.
_opening = threading.Lock()


class RecordSource(ImageSource):
  """The same images, in the same order, as the `CocoSource` they were written from."""

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    categories: Sequence[tuple[int, str]] | None = None,
    min_box_side: float = 1.0,
    preset: Preset = PRESETS['2021'],
  ):
    """Reads the index; the records are opened when the first is asked for.

    Their reader knows files of this machine only: records in an object store are copied
    into the cache folder first, unless they are there.

    Args:
      folder: what `prepare_records` wrote.
      categories: (id, name) of the classes to use, such as a checkpoint's; those of
        the data set by default.
      min_box_side: original pixels; smaller objects are left out of training.
      preset: for the meaning of boxes.

    Raises:
      UserError: the folder holds no records of ours, or has a category that is not
        among `categories`, or cannot be copied.
    """
    place = located(folder)
    table, self._split = _load_index(place)
    super().__init__(table, os.fspath(place), categories, min_box_side, preset)
    self._folder = os.fspath(_local_copy(place) if is_remote(place) else place)
    self._records: Any = None

  def _record(self, index: int) -> dict[str, Any]:
    try:
      with _opening:
        if self._records is None:
          import tensorflow_datasets as tfds

          builder = tfds.builder_from_directory(self._folder)
          self._records = builder.as_data_source(split=self._split)
      record = self._records[index]
    # The readers of TFDS and ArrayRecord raise whatever they meet.
    except Exception as error:
      raise UserError(
        f'{self._folder}: record {index} cannot be read ({error}); write the records '
        'again'
      ) from error
    if int(record['image_id']) != self.image_ids[index]:
      raise UserError(
        f'{self._folder}: record {index} is image {record["image_id"]}, the index '
        f'says {self.image_ids[index]}; write the records again'
      )
    return record

  def _read(
    self, index: int, rows: np.ndarray
  ) -> tuple[bytes, tuple[Segmentation, ...]]:
    record = self._record(index)
    annotations = json.loads(record['annotations'])
    height, width = self.sizes[index].tolist()
    return record['image'], tuple(
      parse_segmentation(annotations[row]['segmentation'], (height, width))[0]
      for row in rows.tolist()
    )

  def ground_truth(self) -> dict[str, Any]:
    """See `make_ground_truth`; reads every record."""
    annotations = [
      annotation
      for index in range(len(self))
      for annotation in json.loads(self._record(index)['annotations'])
    ]
    return make_ground_truth(annotations, self.table)


def save_index(folder: epath.Path, table: AnnotationTable, split: str) -> None:
  """Writes what `RecordSource` reads beside the records."""
  arrays = {field.name: getattr(table, field.name) for field in fields(table)}
  arrays['file_names'] = np.asarray(table.file_names, np.str_)
  arrays['categories'] = np.asarray(json.dumps(table.categories))
  content = io.BytesIO()
  np.savez(content, version=INDEX_VERSION, split=split, **arrays)
  (folder / INDEX_FILE).write_bytes(content.getvalue())


def _load_index(folder: epath.Path) -> tuple[AnnotationTable, str]:
  try:
    with np.load(io.BytesIO(read_bytes(folder / INDEX_FILE))) as stored:
      arrays = dict(stored)
    if arrays.pop('version') != INDEX_VERSION:
      raise UserError(
        f'{folder}: written by another version of this program; write the records again'
      )
    split = str(arrays.pop('split'))
    file_names = tuple(arrays.pop('file_names').tolist())
    categories = tuple(
      (i, name) for i, name in json.loads(str(arrays.pop('categories')))
    )
    return AnnotationTable(
      file_names=file_names, categories=categories, **arrays
    ), split
  except (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
  ) as error:
    raise UserError(
      f'{folder}: not a folder of records written by `embedmask prepare --from=coco` '
      f'({error})'
    ) from error


def _local_copy(folder: epath.Path) -> Path:
  """A folder of records on this machine, whole, named after what lies in the original.

  Raises:
    UserError: it cannot be made.
  """
  names = sorted(path.name for path in folder.iterdir())
  states = [(name, (folder / name).stat()) for name in names]
  text = json.dumps([str(folder), *((n, s.length, s.mtime) for n, s in states)])
  key = hashlib.sha256(text.encode()).hexdigest()[:16]
  copy = default_folder() / 'records' / f'{folder.name}-{key}'
  if copy.is_dir():
    return copy
  total = sum(state.length for _, state in states)
  logging.getLogger(__name__).info(
    'copying %d MB of records from %s to %s', total // 10**6, folder, copy
  )
  try:
    with replaced_folder(copy, others_will_do=True) as beside:
      copy_files(folder, epath.Path(beside), names)
  except OSError as error:
    raise UserError(f'{folder} cannot be copied to {copy} ({reason(error)})') from error
  return copy
