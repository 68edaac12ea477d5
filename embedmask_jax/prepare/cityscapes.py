"""Cityscapes: gtFine's instance numbers, or its polygons where those are absent.

CITY_SEQUENCE_FRAME_gtFine_instanceIds.png has class * 1000 + number for an instance
and the class alone for a region without instances; regions of a class that has
instances ('cargroup') become crowds. In CITY_SEQUENCE_FRAME_gtFine_polygons.json
objects stand from back to front: of each only what no later one covers is its mask.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from embedmask_jax.data.masks import encode_mask
from embedmask_jax.errors import UserError
from embedmask_jax.prepare.image_folder import (
  ImageFolder,
  check_label_size,
  check_pairs,
  existing_folder,
  label_files,
  read_json_object,
  read_label_image,
  visible_files,
)
from embedmask_jax.prepare.label_format import LabelledImage, LabelledObject

# The classes with instances that are evaluated, by their id.
CLASSES = {
  24: 'person',
  25: 'rider',
  26: 'car',
  27: 'truck',
  28: 'bus',
  31: 'train',
  32: 'motorcycle',
  33: 'bicycle',
}
_IDS, _POLYGONS = '_gtFine_instanceIds.png', '_gtFine_polygons.json'
_IMAGE = '_leftImg8bit'


class CityscapesLabels:
  """See `LabelFormat`. What is no instance (road, sky ...) does not count."""

  def __init__(self, labels: str, images: str):
    """Finds the files.

    Args:
      labels: gtFine or a part of it, such as gtFine/train.
      images: leftImg8bit, or the same part of it.

    Raises:
      UserError: a folder is missing, or images and labels do not belong together.
    """
    self.categories = tuple(CLASSES.values())
    self.notes: list[str] = []
    self._images = ImageFolder(images)
    folder = existing_folder(labels, '--labels')
    files: dict[str, Path] = {}
    # Instance numbers last: they go before polygons.
    for ending in (_POLYGONS, _IDS):
      files |= label_files(visible_files(folder, ending), ending)
    if not files:
      raise UserError(f'--labels={labels}: no *{_IDS} and no *{_POLYGONS} in it')
    by_stem = {
      stem.removesuffix(_IMAGE): name for stem, name in self._images.by_stem().items()
    }
    check_pairs(files, by_stem, labels, images)
    self._files = {by_stem[frame]: file for frame, file in sorted(files.items())}
    self.keys = tuple(self._files)

  def files(self, key: str) -> list[Path]:
    """See `LabelFormat`."""
    return [self._images.folder / key, self._files[key]]

  def read(self, key: str) -> LabelledImage:
    """See `LabelFormat`."""
    size = self._images.size(key)
    file = self._files[key]
    if file.name.endswith(_IDS):
      values = read_label_image(file)
      check_label_size(file, values, size, key)
      if values.ndim != 2:
        raise UserError(f'{file}: {values.shape[2]} channels instead of one')
      objects = _from_ids(values)
      return LabelledImage(key, *size, objects, len(objects))
    objects, skipped = _from_polygons(file, size)
    return LabelledImage(key, *size, objects, len(objects) + len(skipped), skipped)


def _from_ids(values: np.ndarray) -> list[LabelledObject]:
  objects = []
  for number in np.unique(values).tolist():
    label = number if number < 1000 else number // 1000
    if label in CLASSES:
      runs = encode_mask(values == number)
      objects.append(LabelledObject(CLASSES[label], runs, is_crowd=number < 1000))
  return objects


def _from_polygons(
  file: Path, size: tuple[int, int]
) -> tuple[list[LabelledObject], list[str]]:
  content = read_json_object(file)
  try:
    told = (int(content['imgHeight']), int(content['imgWidth']))
    entries = [
      (str(entry['label']), [(float(x), float(y)) for x, y in entry['polygon']])
      for entry in content['objects']
      if not entry.get('deleted')
    ]
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise UserError(
      f'{file}: not the polygons of Cityscapes ({type(error).__name__}: {error})'
    ) from error
  if told != size:
    raise UserError(
      f'{file}: for an image of {told[1]}x{told[0]} pixels (width x height), which is '
      f'{size[1]}x{size[0]}'
    )
  # Which entry is in front, counted from 1.
  front = Image.new('I', size[::-1], 0)
  draw = ImageDraw.Draw(front)
  for number, (label, polygon) in enumerate(entries, start=1):
    if len(polygon) >= 2:
      draw.polygon(polygon, fill=number)
    elif label.removesuffix('group') in CLASSES.values():
      raise UserError(f'{file}: object {number} ({label}) has {len(polygon)} points')
  values = np.asarray(front)
  objects, skipped = [], []
  for number, (label, _) in enumerate(entries, start=1):
    name = label.removesuffix('group')
    if name not in CLASSES.values():
      continue
    mask = values == number
    if mask.any():
      objects.append(LabelledObject(name, encode_mask(mask), is_crowd=name != label))
    else:
      skipped.append(f'{file}: object {number} ({label}) is covered by others')
  return objects, skipped
