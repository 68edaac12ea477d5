"""Image files to predict on, and names for what is drawn over them."""

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
from absl import logging
from etils import epath

from embedmask_jax.data.decode import decode_image
from embedmask_jax.errors import UserError
from embedmask_jax.storage import located, read_bytes, reason

SUFFIXES = frozenset(
  f'.{name}'
  for name in (
    *('bmp', 'gif', 'jp2', 'jpeg', 'jpg', 'mpo'),
    *('pgm', 'png', 'ppm', 'tif', 'tiff', 'webp'),
  )
)


def find_images(images: str | os.PathLike) -> list[epath.Path]:
  """The image file, or those of a folder by their suffix, sorted by name.

  Raises:
    UserError: there is nothing there, or no image in the folder.
  """
  path = located(images)
  if path.is_file():
    return [path]
  if not path.is_dir():
    raise UserError(f'--images={images}: no such file or folder')
  files = sorted(entry for entry in path.iterdir() if entry.is_file())
  paths = [entry for entry in files if entry.suffix.lower() in SUFFIXES]
  others = [entry.name for entry in files if entry.suffix.lower() not in SUFFIXES]
  if not paths:
    raise UserError(
      f'--images={images}: no image in this folder (known are '
      f'{", ".join(sorted(SUFFIXES))})'
    )
  if others:
    shown = ', '.join(others[:5]) + (', ...' if len(others) > 5 else '')
    logging.info('%d files are no images by their suffix: %s', len(others), shown)
  return paths


def read_image(path: str | os.PathLike) -> np.ndarray:
  """The image as uint8 [h, w, 3], RGB, turned as its EXIF orientation says.

  Raises:
    UserError: the file cannot be read or decoded.
  """
  try:
    content = read_bytes(path)
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({reason(error)})') from error
  return decode_image(content, os.fspath(path))


def overlay_names(paths: Sequence[epath.Path]) -> dict[epath.Path, str]:
  """A name of its own for the overlay of every image.

  <stem>.png, or <file name>.png where several images have that stem, with a number
  where even that is taken. Upper and lower case count as equal, since to some file
  systems they are.
  """
  times = Counter(path.stem.lower() for path in paths)
  names: dict[epath.Path, str] = {}
  taken: set[str] = set()
  # Stems without a twin come first: they keep their name whatever the others get.
  for path in sorted(paths, key=lambda path: times[path.stem.lower()] > 1):
    stem = path.stem if times[path.stem.lower()] == 1 else path.name
    name, number = f'{stem}.png', 2
    while name.lower() in taken:
      name, number = f'{stem}-{number}.png', number + 1
    taken.add(name.lower())
    names[path] = name
  return names
