"""One image of instance numbers per image: 0 is background, every other value one."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from embedmask_jax.data.masks import encode_mask
from embedmask_jax.errors import UserError
from embedmask_jax.prepare.image_folder import (
  ImageFolder,
  check_label_size,
  check_pairs,
  existing_folder,
  label_files,
  read_label_image,
  visible_files,
)
from embedmask_jax.prepare.label_format import LabelledImage, LabelledObject


class InstanceIdLabels:
  """See `LabelFormat`. Values are taken as stored: 1-, 8- and 16-bit, palettes too."""

  def __init__(
    self, labels: str, images: str, category: str, ignored: Collection[int] = ()
  ):
    """Finds the files.

    Args:
      labels: folder of the PNGs, with subfolders.
      images: folder of the images, with subfolders; an image has its labels' name.
      category: of all objects.
      ignored: values that are no object either.

    Raises:
      UserError: a folder is missing, or images and labels do not belong together.
    """
    self.categories = (category,)
    self._background = {0, *ignored}
    shown = ', '.join(map(str, sorted(ignored)))
    self.notes = [f'no objects by --ignore: {shown}'] if ignored else []
    self._images = ImageFolder(images)
    folder = existing_folder(labels, '--labels')
    files = label_files(visible_files(folder, '.png'), '.png')
    by_stem = self._images.by_stem()
    check_pairs(files, by_stem, labels, images)
    self._files = {name: files[stem] for stem, name in by_stem.items()}
    self.keys = tuple(self._files)

  def files(self, key: str) -> list[Path]:
    """See `LabelFormat`."""
    return [self._images.folder / key, self._files[key]]

  def read(self, key: str) -> LabelledImage:
    """See `LabelFormat`."""
    height, width = self._images.size(key)
    path = self._files[key]
    values = read_label_image(path)
    if values.ndim != 2:
      raise UserError(
        f'{path}: {values.shape[2]} channels; instance numbers are one channel'
      )
    check_label_size(path, values, (height, width), key)
    numbers = [n for n in np.unique(values).tolist() if n not in self._background]
    objects = [
      LabelledObject(self.categories[0], encode_mask(values == number))
      for number in numbers
    ]
    return LabelledImage(key, height, width, objects, found=len(numbers))
