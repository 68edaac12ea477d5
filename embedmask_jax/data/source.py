"""Opening annotated images, in whichever form they lie on disk."""

import os
from collections.abc import Sequence

from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.record_source import RecordSource
from embedmask_jax.presets import PRESETS, Preset
from embedmask_jax.storage import located


def open_source(
  annotations: str | os.PathLike,
  images: str | os.PathLike = '',
  categories: Sequence[tuple[int, str]] | None = None,
  *,
  min_box_side: float = 1.0,
  preset: Preset = PRESETS['2021'],
) -> ImageSource:
  """Opens a COCO JSON with its image folder(s), or a folder of records.

  Args:
    annotations: path of the JSON, or the folder that `prepare_records` wrote.
    images: image folder, or several joined by commas; unused for records.
    categories: (id, name) of the classes to use, such as a checkpoint's; those of the
      data set by default.
    min_box_side: original pixels; a box is used for training if wider and higher.
    preset: for the meaning of boxes.

  Raises:
    UserError: the data set cannot be used; see `CocoSource` and `RecordSource`.
  """
  if os.fspath(annotations) and located(annotations).is_dir():
    return RecordSource(
      annotations, categories=categories, min_box_side=min_box_side, preset=preset
    )
  return CocoSource(
    annotations,
    images,
    categories=categories,
    min_box_side=min_box_side,
    preset=preset,
  )
