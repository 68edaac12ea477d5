"""Files to predict on, and names for what is made of them."""

import codecs
import glob
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np
from absl import logging

from embedmask_jax.data.decode import decode_shown
from embedmask_jax.errors import UserError, shorten

SUFFIXES = frozenset(
  f'.{name}'
  for name in (
    *('bmp', 'gif', 'jp2', 'jpeg', 'jpg', 'mpo'),
    *('pgm', 'png', 'ppm', 'tif', 'tiff', 'webp'),
  )
)
VIDEO_SUFFIXES = frozenset(
  f'.{name}' for name in ('avi', 'm4v', 'mkv', 'mov', 'mp4', 'mpeg', 'mpg', 'webm')
)
# Stands for the paths that standard input lists.
STANDARD_INPUT = '-'


def find_images(arguments: Sequence[str | os.PathLike]) -> list[Path]:
  """The files that the arguments name: images, and videos by their suffix.

  Args:
    arguments: files; folders, of which the images and videos count, by their suffix
      and sorted by name, without those in subfolders and those that `is_hidden`;
      patterns such as 'a/**/*.jpg'; and '-' for a list of files on standard input,
      one a line or with a zero byte after each.

  Returns:
    Every file once, in the order of the arguments.

  Raises:
    UserError: an argument names nothing, or no image.
  """
  if not arguments:
    raise UserError('no images: name files, folders or patterns, or - for a list')
  paths: dict[Path, None] = {}
  again: set[Path] = set()
  for argument in arguments:
    for path in _expand(argument):
      if path in paths:
        again.add(path)
      paths[path] = None
  if again:
    logging.info('%d files are named more than once; each counts once', len(again))
  return list(paths)


def is_hidden(path: PurePath) -> bool:
  """Whether a part of a path begins with a dot, or is `__MACOSX`.

  So are the files that systems put beside the user's own: `._a.png` for a.png, in an
  archive made on a Mac.

  Args:
    path: relative to the folder that the user has named.
  """
  return any(part.startswith('.') or part == '__MACOSX' for part in path.parts)


def is_video(path: Path) -> bool:
  """Whether a file is a video by its suffix."""
  return path.suffix.lower() in VIDEO_SUFFIXES


def _expand(argument: str | os.PathLike) -> list[Path]:
  if os.fspath(argument) == STANDARD_INPUT:
    return _listed_on_standard_input()
  path = Path(os.path.expanduser(argument))
  # Those of `os.path` bear names that are too long or may not be looked at.
  if os.path.isfile(path):
    return [path]
  if os.path.isdir(path):
    try:
      entries = sorted(path.iterdir())
    except OSError as error:
      raise UserError(f'{argument}: cannot be listed ({error.strerror})') from error
    return _by_suffix(
      # A link to nowhere is named when it is read.
      [e for e in entries if not (is_hidden(PurePath(e.name)) or os.path.isdir(e))],
      f'{argument}: no image in this folder',
    )
  if glob.has_magic(str(path)):
    found = sorted(map(Path, glob.glob(str(path), recursive=True)))
    return _by_suffix(
      [entry for entry in found if not entry.is_dir()],
      f'{argument}: no image has such a name',
    )
  raise UserError(f'{argument}: no such file or folder')


def _by_suffix(files: list[Path], complaint: str) -> list[Path]:
  known = SUFFIXES | VIDEO_SUFFIXES
  paths = [entry for entry in files if entry.suffix.lower() in known]
  others = [entry.name for entry in files if entry.suffix.lower() not in known]
  if not paths:
    raise UserError(f'{complaint} (known are {", ".join(sorted(known))})')
  if others:
    logging.info(
      '%d files are no images by their suffix: %s', len(others), shorten(others)
    )
  return paths


def _listed_on_standard_input() -> list[Path]:
  # Windows may put a byte order mark before the first name.
  content = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
  lines = content.split(b'\0' if b'\0' in content else b'\n')
  try:
    names = [line.decode().strip('\r') for line in lines if line.strip()]
  except UnicodeDecodeError as error:
    raise UserError(
      'standard input is not a list of files, one a line; give an image as a file'
    ) from error
  if not names:
    raise UserError('standard input lists no files')
  paths = [Path(os.path.expanduser(name)) for name in names]
  missing = [str(path) for path in paths if not os.path.isfile(path)]
  if missing:
    raise UserError(
      f'standard input: {len(missing)} of {len(paths)} files are not there, such as '
      f'{missing[0][:200]!r}'
    )
  return paths


def read_image(path: str | os.PathLike) -> np.ndarray:
  """The image as uint8 [h, w, 3], RGB, turned as its EXIF orientation says.

  Raises:
    UserError: the file cannot be read or decoded.
  """
  return read_shown(path)[0]


def read_shown(path: str | os.PathLike) -> tuple[np.ndarray, bool]:
  """What `read_image` returns, and whether it is turned without another size.

  Raises:
    UserError: the file cannot be read or decoded.
  """
  try:
    content = Path(path).read_bytes()
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror})') from error
  return decode_shown(content, os.fspath(path))


def output_names(paths: Sequence[Path]) -> dict[Path, str]:
  """A name of its own, without suffix, for what is made of every image.

  The stem, or the file name where several images have that stem, with a number where
  even that is taken. Upper and lower case count as equal, since to some file systems
  they are.
  """
  times = Counter(path.stem.lower() for path in paths)
  names: dict[Path, str] = {}
  taken: set[str] = set()
  # Stems without a twin come first: they keep their name whatever the others get.
  for path in sorted(paths, key=lambda path: times[path.stem.lower()] > 1):
    stem = path.stem if times[path.stem.lower()] == 1 else path.name
    name, number = stem, 2
    while name.lower() in taken:
      name, number = f'{stem}-{number}', number + 1
    taken.add(name.lower())
    names[path] = name
  return names
