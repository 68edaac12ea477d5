"""The images that labels belong to."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embedmask_jax.data.coco_source import read_image_file
from embedmask_jax.data.decode import keeps_size, open_rgb, stored_form
from embedmask_jax.errors import UserError, shorten
from embedmask_jax.image_files import SUFFIXES, is_hidden
from embedmask_jax.storage import read_json

# Of what `read_label_image` reads.
LABEL_SUFFIXES = ('.png', '.tif', '.tiff', '.bmp')


class ImageFolder:
  """The image files of a folder and its subfolders.

  Attributes:
    folder: the folder.
    names: relative paths, '/' between their parts, sorted.
  """

  def __init__(self, folder: str, flag: str = '--images'):
    """Lists the files.

    Args:
      folder: where to look.
      flag: what the user calls it.

    Raises:
      UserError: there is no such folder, or no image in it.
    """
    self.folder = existing_folder(folder, flag)
    self.names = tuple(
      path.relative_to(self.folder).as_posix()
      for path in visible_files(self.folder, '')
      # A link to nowhere is named when it is read.
      if path.suffix.lower() in SUFFIXES and not path.is_dir()
    )
    if not self.names:
      remedy = '' if flag == '--images' else '; name the folder of images with --images'
      raise UserError(f'{flag}={folder}: no image in this folder{remedy}')

  def by_stem(self) -> dict[str, str]:
    """File name without folder and suffix -> name.

    Raises:
      UserError: two images share that.
    """
    found: dict[str, str] = {}
    for name in self.names:
      stem = Path(name).stem
      if stem in found:
        raise UserError(
          f'{self.folder}: {found[stem]} and {name} are alike but for folder and '
          'suffix, so it is not known to which of them labels belong; rename one'
        )
      found[stem] = name
    return found

  def size(self, name: str, told: tuple[int, int] | None = None) -> tuple[int, int]:
    """Decodes an image, and returns its (height, width).

    Args:
      name: relative to the folder.
      told: what its labels say. The size as turned by EXIF where they say nothing.

    Raises:
      UserError: it cannot be decoded, is of another size than the labels say, or is
        turned by EXIF without another size, so that nothing tells what the labels mean.
    """
    path = os.fspath(self.folder / name)
    data = read_image_file(path)
    image = open_rgb(data, path, told)
    stored, orientation = stored_form(data)
    if keeps_size(orientation, stored):
      raise UserError(
        f'{path}: has the EXIF orientation {orientation}, and its size does not tell '
        'whether the labels are of its pixels as stored or as shown; if they are as '
        'shown, turn the pixels; remove the tag in either case'
      )
    return image.height, image.width


def visible_files(folder: Path, ending: str) -> list[Path]:
  """What a folder and its subfolders hold under names that end so, sorted.

  Capitals count as small letters. What `is_hidden` is left out.
  """
  return sorted(
    path
    for path in folder.rglob('*')
    if path.name.lower().endswith(ending.lower())
    and not is_hidden(path.relative_to(folder))
  )


def label_files(paths: Iterable[Path], ending: str) -> dict[str, Path]:
  """File name without folder and ending -> file, of files that `visible_files` finds.

  Raises:
    UserError: two files share that.
  """
  found: dict[str, Path] = {}
  for path in paths:
    name = path.name[: -len(ending)]
    if name in found:
      raise UserError(
        f'{found[name]} and {path} are alike but for folder, so it is not known which '
        'of them an image has; rename one'
      )
    found[name] = path
  return found


def check_pairs(
  labels: Collection[str], images: Collection[str], label_folder: str, image_folder: str
) -> None:
  """Checks that labels and images belong together.

  Args:
    labels: names of what has labels.
    images: names of the images, spelt alike.
    label_folder: what the user has named, for the message.
    image_folder: likewise.

  Raises:
    UserError: some have no counterpart; names them.
  """
  for here, there, folder, what in (
    (labels, images, label_folder, f'image in {image_folder}'),
    (images, labels, image_folder, f'labels in {label_folder}'),
  ):
    lost = sorted(set(here) - set(there))
    if lost:
      raise UserError(f'{folder}: {len(lost)} names have no {what}: {shorten(lost)}')


def existing_folder(folder: str, flag: str) -> Path:
  """The folder as a path.

  Raises:
    UserError: none is named, or there is none.
  """
  if not folder:
    raise UserError(f'{flag} is missing; see embedmask prepare --help')
  path = Path(os.path.expanduser(folder))
  if not path.is_dir():
    kind = 'is a file, not a folder' if path.exists() else 'no such folder'
    raise UserError(f'{flag}={folder}: {kind}')
  return path


def read_label_image(path: Path) -> np.ndarray:
  """The values of an image of labels, as stored: no palette, no scaling.

  Returns:
    int64 [h, w], or [h, w, channels].

  Raises:
    UserError: it cannot be read.
  """
  try:
    with Image.open(path, formats=('PNG', 'TIFF', 'BMP')) as image:
      values = np.asarray(image)
  # Pillow's readers answer broken files with nearly every kind of exception.
  except Exception as error:
    raise UserError(
      f'{path}: labels cannot be read ({str(error) or type(error).__name__})'
    ) from error
  if values.dtype.kind not in 'biu':
    raise UserError(f'{path}: labels must be integers, not {values.dtype}')
  return values.astype(np.int64)


def check_label_size(
  path: Path, values: np.ndarray, size: tuple[int, int], image: str
) -> None:
  """Raises `UserError` where labels are of another (height, width) than their image."""
  if values.shape[:2] != tuple(size):
    raise UserError(
      f'{path}: labels of {values.shape[1]}x{values.shape[0]} pixels (width x height) '
      f'for image {image} of {size[1]}x{size[0]}'
    )


def read_json_object(path: Path) -> dict[str, Any]:
  """The content of a JSON file that holds an object.

  Raises:
    UserError: it cannot be read, or holds something else.
  """
  content = read_json(path)
  if not isinstance(content, dict):
    raise UserError(f'{path}: a JSON object is needed, not a {type(content).__name__}')
  return content


def read_names(path: str) -> tuple[str, ...]:
  """Names of classes: one a line, or the `names` of a YOLO data set's YAML.

  Raises:
    UserError: the file cannot be read, or holds no names.
  """
  try:
    # Files of Windows may begin with a byte order mark.
    text = Path(os.path.expanduser(path)).read_text(encoding='utf-8-sig')
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f'--names={path}: cannot be read ({error})') from error
  if Path(path).suffix.lower() not in ('.yaml', '.yml'):
    names = [line.strip() for line in text.splitlines() if line.strip()]
  else:
    names = _names_of_yaml(path, text)
  if not names or len(set(names)) < len(names):
    raise UserError(f'--names={path}: {"names twice" if names else "no names"} in it')
  return tuple(names)


def _names_of_yaml(path: str, text: str) -> list[str]:
  import yaml

  try:
    names = yaml.safe_load(text)['names']
    if isinstance(names, dict):
      names = [names[index] for index in range(len(names))]
    if not isinstance(names, list):
      raise TypeError(f'{names!r} is neither')
    return [str(name) for name in names]
  except (yaml.YAMLError, KeyError, TypeError) as error:
    raise UserError(
      f'--names={path}: there must be `names`, a list or a map from 0 up '
      f'({type(error).__name__} {str(error).splitlines()[0]})'
    ) from error
