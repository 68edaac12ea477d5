"""A folder per image with a mask image per instance; what is not 0 belongs to it.

The masks of IMAGES/name.jpg lie in LABELS/name/ or LABELS/name/masks/.
"""

from pathlib import Path

from embedmask_jax.data.masks import encode_mask
from embedmask_jax.image_files import is_hidden
from embedmask_jax.prepare.image_folder import (
  LABEL_SUFFIXES,
  ImageFolder,
  check_label_size,
  check_pairs,
  existing_folder,
  read_label_image,
)
from embedmask_jax.prepare.label_format import LabelledImage, LabelledObject


class MaskFolderLabels:
  """See `LabelFormat`. Masks without a pixel and other files are skipped and named."""

  def __init__(self, labels: str, images: str, category: str):
    """Finds the files.

    Args:
      labels: folder of the folders.
      images: folder of the images, with subfolders. Where it is `labels`, images lie
        beside their masks, in LABELS/name/images/.
      category: of all objects.

    Raises:
      UserError: a folder is missing, or images and labels do not belong together.
    """
    self.categories = (category,)
    self.notes: list[str] = []
    folder = existing_folder(labels, '--labels')
    self._images = ImageFolder(images)
    folders = {
      path.name: path
      for path in sorted(folder.iterdir())
      if path.is_dir() and not is_hidden(Path(path.name))
    }
    if folder.resolve() == self._images.folder.resolve():
      self._images.names = tuple(
        name for name in self._images.names if Path(name).parent.name == 'images'
      )
    by_stem = self._images.by_stem()
    check_pairs(folders, by_stem, labels, images)
    self._folders = {name: folders[stem] for stem, name in by_stem.items()}
    self.keys = tuple(self._folders)

  def files(self, key: str) -> list[Path]:
    """See `LabelFormat`."""
    return [self._images.folder / key, *self._masks(key)]

  def _masks(self, key: str) -> list[Path]:
    folder = self._folders[key]
    if (folder / 'masks').is_dir():
      folder /= 'masks'
    return sorted(
      path
      for path in folder.iterdir()
      if not (path.is_dir() or is_hidden(Path(path.name)))
    )

  def read(self, key: str) -> LabelledImage:
    """See `LabelFormat`."""
    size = self._images.size(key)
    objects, skipped = [], []
    files = self._masks(key)
    for file in files:
      if file.suffix.lower() not in LABEL_SUFFIXES:
        skipped.append(
          f'{file}: no mask by its suffix (known are {", ".join(LABEL_SUFFIXES)})'
        )
        continue
      values = read_label_image(file)
      check_label_size(file, values, size, key)
      if values.ndim == 2:
        values = values[..., None]
      # What is opaque says nothing.
      has_alpha = values.shape[2] in (2, 4)
      mask = (values[..., : -1 if has_alpha else None] != 0).any(axis=2)
      if mask.any():
        objects.append(LabelledObject(self.categories[0], encode_mask(mask)))
      else:
        skipped.append(f'{file}: no pixel of the mask is on')
    return LabelledImage(key, *size, objects, len(files), skipped)
