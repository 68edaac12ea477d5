"""One COCO JSON -> two, to train on and to evaluate on."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedmask_jax.data.coco_json import load_json
from embedmask_jax.errors import UserError
from embedmask_jax.folders import local_folder
from embedmask_jax.writing import remove_json, write_json


@dataclass(frozen=True)
class Part:
  """One of the two.

  Attributes:
    path: of the JSON.
    num_images, num_annotations: in it.
    without_instance: names of the categories that none of them is of, but for crowds.
  """

  path: Path
  num_images: int
  num_annotations: int
  without_instance: tuple[str, ...]

  def __str__(self) -> str:
    text = f'{self.path}: {self.num_images} images, {self.num_annotations} annotations'
    if self.without_instance:
      text += f'\n  without an instance: {", ".join(self.without_instance)}'
    return text


def split_coco(
  annotations: str, output: str | os.PathLike, *, fraction: float = 0.1, seed: int = 0
) -> tuple[Part, Part]:
  """Writes OUTPUT/train.json and OUTPUT/val.json; every category is in both.

  Entries of `images` with one file name stay together. Which go where is a function of
  their names and the seed.

  Args:
    annotations: a COCO JSON.
    output: folder; neither file may be in it.
    fraction: of the files that go to val.json; at least one does, and one stays.
    seed: any integer; another one draws other files.

  Raises:
    UserError: the fraction is not between 0 and 1, the JSON cannot be used or names
      less than two files, or an output exists or cannot be written.
  """
  if not 0 < fraction < 1:
    raise UserError(f'--fraction={fraction} is not a number between 0 and 1')
  content = load_json(annotations)
  # In the order of a hash, so that it is the same with every version of NumPy.
  names = sorted(
    {image['file_name'] for image in content['images']},
    key=lambda name: hashlib.sha256(f'{seed} {name}'.encode()).digest(),
  )
  if len(names) < 2:
    raise UserError(f'{annotations} names one image file, which cannot be split')
  count = min(max(round(fraction * len(names)), 1), len(names) - 1)
  folder = local_folder(output, '--output')
  train, val = folder / 'train.json', folder / 'val.json'
  for path in (train, val):
    if path.exists():
      raise UserError(f'{path} exists; remove it or name another --output')
  parts = _part(content, set(names[count:])), _part(content, set(names[:count]))
  write_json(train, parts[0])
  try:
    write_json(val, parts[1])
  except BaseException:
    # One without the other would be refused when the command is run again.
    remove_json(train)
    raise
  return _described(train, parts[0]), _described(val, parts[1])


def _part(content: dict[str, Any], names: set[str]) -> dict[str, Any]:
  images = [image for image in content['images'] if image['file_name'] in names]
  ids = {image['id'] for image in images}
  kept = [entry for entry in content['annotations'] if entry['image_id'] in ids]
  return {**content, 'images': images, 'annotations': kept}


def _described(path: Path, content: dict[str, Any]) -> Part:
  there = {a['category_id'] for a in content['annotations'] if not a.get('iscrowd')}
  return Part(
    path=path,
    num_images=len(content['images']),
    num_annotations=len(content['annotations']),
    without_instance=tuple(
      category['name']
      for category in content['categories']
      if category['id'] not in there
    ),
  )
