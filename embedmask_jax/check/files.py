"""Whether every image file is there, can be read, and is what its annotations say."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath

from tqdm import tqdm

from embedmask_jax.check.findings import Finding, Section, spread
from embedmask_jax.data.coco_source import CocoSource, image_folders
from embedmask_jax.data.decode import has_several_frames, open_rgb, stored_form
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.errors import UserError
from embedmask_jax.image_files import SUFFIXES, is_hidden
from embedmask_jax.storage import list_names


def check_files(source: ImageSource, folders: str) -> tuple[Section, frozenset[int]]:
  """Decodes every image of a data set, as training does.

  Args:
    source: the data set.
    folders: where the images lie, joined by commas; '' for records.

  Returns:
    The section, and the positions of the images that cannot be decoded.
  """
  section = Section('Images')
  heights, widths = source.sizes.T.tolist()
  section.facts['images'] = len(source)
  section.facts['height'] = spread(heights)
  section.facts['width'] = spread(widths)
  missing = source.missing_images if isinstance(source, CocoSource) else ()
  if missing:
    section.findings.append(
      Finding('missing_file', len(missing), 'files are missing', missing, 'files')
    )
  broken, turned, stored, animated = _decode_all(source)
  if broken:
    words = 'files cannot be used; one by one'
    section.findings.append(
      Finding('unreadable_file', len(broken), words, tuple(broken.values()), '')
    )
  times = Counter(source.file_names)
  twice = tuple(name for name, count in times.items() if count > 1)
  if twice:
    words = 'files belong to several entries of images, each with a part of the objects'
    section.findings.append(Finding('file_twice', len(twice), words, twice, 'files'))
  for indices, kind, words in (
    (turned, 'exif_turned', 'files are turned by EXIF, as their annotations say'),
    (
      stored,
      'exif_ignored',
      'files have an EXIF rotation that is not applied, since their annotations '
      'have the size of the pixels as stored; look at them in the contact sheet',
    ),
    (
      animated,
      'several_frames',
      'files have several pages or frames, of which the first alone is read',
    ),
  ):
    if indices:
      names = tuple(source.file_names[index] for index in indices)
      section.findings.append(Finding(kind, len(names), words, names, unit='files'))
  unused = _unused(source, folders)
  if unused:
    words = 'image files in the folder are not in the annotations'
    section.findings.append(
      Finding('unlisted_file', len(unused), words, unused, unit='files')
    )
  return section, frozenset(broken)


def _decode_all(
  source: ImageSource,
) -> tuple[dict[int, str], list[int], list[int], list[int]]:
  """Messages of broken images; images turned by EXIF, not turned, of several frames."""
  broken: dict[int, str] = {}
  turned: list[int] = []
  stored: list[int] = []
  animated: list[int] = []

  def look(index: int) -> None:
    size = tuple(source.sizes[index].tolist())
    try:
      record = source[index]
      open_rgb(record.encoded, record.file_name, size)
    except UserError as error:
      broken[index] = str(error)
      return
    stored_size, orientation = stored_form(record.encoded)
    if orientation != 1:
      (stored if stored_size == size else turned).append(index)
    if has_several_frames(record.encoded):
      animated.append(index)

  with ThreadPoolExecutor(os.cpu_count()) as pool:
    looks = pool.map(look, range(len(source)))
    for _ in tqdm(
      looks,
      total=len(source),
      desc='decoding',
      unit='image',
      leave=False,
      disable=None,  # where stderr is no terminal
    ):
      pass
  return dict(sorted(broken.items())), sorted(turned), sorted(stored), sorted(animated)


def _unused(source: ImageSource, folders: str) -> tuple[str, ...]:
  """Image files of the folders that no entry of the data set names."""
  if not isinstance(source, CocoSource):
    return ()
  known = {os.path.normpath(source.path(index)) for index in range(len(source))}
  found = []
  for folder in image_folders(folders):
    for name in list_names(folder):
      is_image = os.path.splitext(name)[1].lower() in SUFFIXES
      is_image = is_image and not is_hidden(PurePath(name))
      if is_image and os.path.normpath(os.path.join(folder, name)) not in known:
        found.append(name)
  return tuple(sorted(found))
