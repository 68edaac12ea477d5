"""YOLO segmentation: a text file per image, a line per object.

A line is the class, from 0 up, and the polygon x y x y ... in fractions of width and
height.
"""

import math
from pathlib import Path

from embedmask_jax.errors import UserError, shorten
from embedmask_jax.prepare.image_folder import (
  ImageFolder,
  check_pairs,
  existing_folder,
  label_files,
  visible_files,
)
from embedmask_jax.prepare.label_format import LabelledImage, LabelledObject

# Of a fraction beyond the image, by rounding.
_SLACK = 0.01


class YoloLabels:
  """See `LabelFormat`. An image without a text file has no objects."""

  def __init__(self, labels: str, images: str, names: tuple[str, ...]):
    """Finds the files.

    Args:
      labels: folder of the text files, with subfolders.
      images: folder of the images, with subfolders; an image has its labels' name.
      names: of the classes.

    Raises:
      UserError: a folder is missing, there is no image, or labels have none or share
        one.
    """
    self.categories = names
    self._images = ImageFolder(images)
    folder = existing_folder(labels, '--labels')
    texts = (p for p in visible_files(folder, '.txt') if p.stem != 'classes')
    files = label_files(texts, '.txt')
    by_stem = self._images.by_stem()
    # An image may do without.
    check_pairs(files, {*by_stem} & {*files}, labels, images)
    self._files = {name: files.get(stem) for stem, name in by_stem.items()}
    self.keys = tuple(self._files)
    bare = [name for name, file in self._files.items() if file is None]
    self.notes = (
      [f'{len(bare)} images have no label file: {shorten(bare)}'] if bare else []
    )

  def files(self, key: str) -> list[Path]:
    """See `LabelFormat`."""
    file = self._files[key]
    image = self._images.folder / key
    return [image] if file is None else [image, file]

  def read(self, key: str) -> LabelledImage:
    """See `LabelFormat`."""
    height, width = self._images.size(key)
    file = self._files[key]
    objects = [] if file is None else self._objects(file, height, width)
    return LabelledImage(key, height, width, objects, found=len(objects))

  def _objects(self, file: Path, height: int, width: int) -> list[LabelledObject]:
    try:
      # Files of Windows may begin with a byte order mark.
      lines = file.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f'{file}: cannot be read ({error})') from error
    return [
      self._object(f'{file} line {number}', line.split(), height, width)
      for number, line in enumerate(lines, start=1)
      if line.strip()
    ]

  def _object(
    self, place: str, words: list[str], height: int, width: int
  ) -> LabelledObject:
    try:
      numbers = [float(word) for word in words]
    except ValueError as error:
      raise UserError(f'{place}: {error}') from error
    label, points = numbers[0], numbers[1:]
    if label not in range(len(self.categories)):
      raise UserError(
        f'{place}: class {words[0]}; --names has {len(self.categories)}, from 0 up'
      )
    if len(points) == 4:
      raise UserError(f'{place}: a box, not a polygon; masks are needed')
    if len(points) < 6 or len(points) % 2:
      raise UserError(
        f'{place}: {len(points)} coordinates; a polygon has an even number, 6 or more'
      )
    if not all(math.isfinite(p) and -_SLACK <= p <= 1 + _SLACK for p in points):
      raise UserError(
        f'{place}: coordinates must be fractions of the image, 0 to 1; found '
        f'{max(points, key=abs):g}'
      )
    sides = (width, height)
    polygon = [min(max(point, 0), 1) * sides[i % 2] for i, point in enumerate(points)]
    return LabelledObject(self.categories[int(label)], [polygon])
