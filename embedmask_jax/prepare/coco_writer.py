"""Labelled images of any format -> a COCO JSON, complete or absent.

What has been read is kept, image by image, in OUTPUT.partial; an interrupted
conversion goes on from there, but for labels that have changed since. OUTPUT appears
in one go, and OUTPUT.partial goes, when everything has been read.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from embedmask_jax.errors import UserError, shorten
from embedmask_jax.folders import local_file
from embedmask_jax.metrics.ground_truth import encode_segmentation
from embedmask_jax.prepare.label_format import LabelFormat, LabelledImage
from embedmask_jax.writing import write_json

# Images read at a time, by as many threads as there are cores.
_GROUP = 32

# Name, time and size of each file that an image's labels were read from.
Stamp = list[list[Any]]


@dataclass(frozen=True)
class ConversionReport:
  """What went in and what came out.

  Attributes:
    images_in, images_out: numbers of images.
    entries_in: objects, shapes, masks ... as the format has them.
    entries_out: those that became part of an object.
    objects: annotations written; several entries may have made one.
    categories: names.
    left_out: what was not taken over, and why; an entry or an image each.
    resumed: images that an earlier, interrupted conversion had read.
    notes: what else is to be said.
  """

  images_in: int
  images_out: int
  entries_in: int
  entries_out: int
  objects: int
  categories: tuple[str, ...]
  left_out: tuple[str, ...]
  resumed: int
  notes: tuple[str, ...]

  def __str__(self) -> str:
    lines = [
      f'images: {self.images_in} in, {self.images_out} out',
      f'entries: {self.entries_in} in, {self.entries_out} out, '
      f'in {self.objects} objects',
      f'categories: {", ".join(self.categories)}',
    ]
    if self.resumed:
      lines.append(f'{self.resumed} images had been read before')
    lines += self.notes
    lines += [f'left out: {what}' for what in self.left_out]
    return '\n'.join(lines)


def write_coco(
  labels: LabelFormat,
  output: str | os.PathLike,
  *,
  settings: dict[str, Any],
  skips_broken: bool = False,
) -> ConversionReport:
  """Reads all images of a format and writes a COCO JSON.

  Args:
    labels: what to read.
    output: JSON file to write; must not exist.
    settings: of the conversion, in JSON types. What another conversion has left in
      OUTPUT.partial is not gone on with.
    skips_broken: whether images whose labels cannot be used are left out, and named;
      else nothing is written.

  Raises:
    UserError: the output exists or cannot be written, what is in OUTPUT.partial is of
      another conversion, or labels or images cannot be used.
  """
  output = local_file(output, '--output')
  if output.exists():
    raise UserError(f'--output={output} exists; remove it or name another file')
  partial = output.with_name(f'{output.name}.partial')
  try:
    categories = list(labels.categories or ())
    before = _open_partial(partial, settings, categories)
    done = {
      key: before[key][0]
      for key in labels.keys
      if key in before and before[key][1] == _stamp(labels.files(key))
    }
    broken: dict[str, str] = {}
    waiting = [key for key in labels.keys if key not in done]
    with partial.open('a', encoding='utf-8') as file:
      for key, image, stamp, problem in _read_all(labels, waiting, len(labels.keys)):
        if image is None:
          broken[key] = problem
          continue
        done[key] = image
        entry = [key, image.as_json(), stamp]
        file.write(json.dumps(entry) + '\n')
        file.flush()
    if broken and not (skips_broken and done):
      raise _unusable(broken, len(labels.keys), partial)
    images = [done[key] for key in labels.keys if key in done]
    _check_unique(images)
    content = _assemble(images, labels.categories)
    write_json(output, content)
    partial.unlink()
  except OSError as error:
    raise UserError(f'--output={output} cannot be written ({error})') from error
  return ConversionReport(
    images_in=len(labels.keys),
    images_out=len(content['images']),
    entries_in=sum(image.found for image in images),
    entries_out=sum(entry.parts for image in images for entry in image.objects),
    objects=len(content['annotations']),
    categories=tuple(category['name'] for category in content['categories']),
    left_out=(
      *(what for image in images for what in image.skipped),
      *(f'image: {message}' for message in broken.values()),
    ),
    resumed=len(labels.keys) - len(waiting),
    notes=tuple(labels.notes),
  )


def _check_unique(images: Sequence[LabelledImage]) -> None:
  times = Counter(image.file_name for image in images)
  twice = [name for name, count in times.items() if count > 1]
  if twice:
    raise UserError(
      f'{len(twice)} images have several label files: {shorten(twice)}; an '
      'image needs one'
    )


def _unusable(broken: dict[str, str], count: int, partial: Path) -> UserError:
  shown = shorten(list(broken.values()), joint='; ')
  return UserError(
    f'{len(broken)} of {count} images or their labels cannot be used: {shown}. Correct '
    f'them and run the same command again (what was read is in {partial}), or leave '
    'them out with --skip-broken'
  )


def _stamp(files: Sequence[Path]) -> Stamp:
  """By which it is seen that files have changed: times in ns, and bytes."""
  stats = [(file.name, file.stat()) for file in files if file.exists()]
  return [[name, stat.st_mtime_ns, stat.st_size] for name, stat in stats]


def _open_partial(
  partial: Path, settings: dict[str, Any], categories: list[str]
) -> dict[str, tuple[LabelledImage, Stamp]]:
  """What an earlier conversion has read, with the stamp of each image's files.

  Starts the file where there is none, or where it knows other categories: these come
  from a file that may have been corrected.
  """
  head = {'settings': settings, 'categories': categories}
  if not partial.exists():
    partial.write_text(json.dumps(head) + '\n', encoding='utf-8')
    return {}
  text = partial.read_text(encoding='utf-8')
  # A line that was not finished is read again.
  whole = text[: text.rfind('\n') + 1]
  first, *lines = whole.splitlines() or ['']
  try:
    stored = json.loads(first)
    is_same = stored['settings'] == settings
    entries = map(json.loads, lines)
    done = {
      key: (LabelledImage.from_json(entry), stamp) for key, entry, stamp in entries
    }
  except (ValueError, TypeError, KeyError):
    is_same, done = False, {}
  if not is_same:
    raise UserError(
      f'{partial} is of another conversion; remove it, or name another --output'
    )
  if stored['categories'] != categories:
    partial.write_text(json.dumps(head) + '\n', encoding='utf-8')
    return {}
  if whole != text:
    partial.write_text(whole, encoding='utf-8')
  return done


def _read_all(
  labels: LabelFormat, keys: Sequence[str], total: int
) -> Iterator[tuple[str, LabelledImage | None, Stamp, str]]:
  """Key, image or None, stamp, and what is wrong or ''; in the order of the keys."""

  def read(key: str) -> tuple[str, LabelledImage | None, Stamp, str]:
    # Before reading: what is saved meanwhile is read again next time.
    stamp = _stamp(labels.files(key))
    try:
      return key, labels.read(key), stamp, ''
    except UserError as error:
      return key, None, stamp, str(error)

  with (
    ThreadPoolExecutor(os.cpu_count()) as pool,
    tqdm(
      total=total,
      initial=total - len(keys),
      desc='reading',
      unit='image',
      leave=False,
      disable=None,  # where stderr is no terminal
    ) as bar,
  ):
    for first in range(0, len(keys), _GROUP):
      for found in pool.map(read, keys[first : first + _GROUP]):
        yield found
        bar.update()


def _assemble(
  images: Sequence[LabelledImage], names: Sequence[str] | None
) -> dict[str, Any]:
  """The content of the JSON; all ids count from 1."""
  if names is None:
    names = sorted({entry.category for image in images for entry in image.objects})
  if not names:
    raise UserError('no object in any of the images: there would be no category')
  ids = {name: number for number, name in enumerate(names, start=1)}
  annotations: list[dict[str, Any]] = []
  for image_id, image in enumerate(images, start=1):
    for entry in image.objects:
      runs = encode_segmentation(entry.segmentation, image.height, image.width)
      annotations.append(
        {
          'id': len(annotations) + 1,
          'image_id': image_id,
          'category_id': ids[entry.category],
          'segmentation': entry.segmentation,
          'bbox': _box(entry.segmentation, runs),
          'area': float(coco_mask.area(runs)),
          'iscrowd': int(entry.is_crowd),
        }
      )
  return {
    'images': [
      {
        'id': image_id,
        'file_name': image.file_name,
        'height': image.height,
        'width': image.width,
      }
      for image_id, image in enumerate(images, start=1)
    ],
    'annotations': annotations,
    'categories': [{'id': number, 'name': name} for name, number in ids.items()],
  }


def _box(segmentation: Any, runs: dict) -> list[float]:
  """[x, y, width, height] of the polygons' corners, or of the mask's pixels.

  Corners outside of the image are brought to its edge: scores take boxes as they are.
  """
  if isinstance(segmentation, dict):
    return coco_mask.toBbox(runs).tolist()
  points = np.concatenate([np.reshape(part, (-1, 2)) for part in segmentation])
  height, width = runs['size']
  points = points.clip(0, (width, height))
  return [*points.min(axis=0).tolist(), *np.ptp(points, axis=0).tolist()]
