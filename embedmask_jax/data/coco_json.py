"""COCO's JSON: read, checked from end to end, turned into tables."""

import reprlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from embedmask_jax.data.annotations import AnnotationTable, can_be_scored
from embedmask_jax.data.segmentations import (
  MaskState,
  Segmentation,
  SegmentationStore,
  check_run_lengths,
  parse_segmentation,
)
from embedmask_jax.errors import UserError, shorten
from embedmask_jax.storage import read_json

_KEYS = {
  'images': ('id', 'file_name', 'height', 'width'),
  'annotations': ('id', 'image_id', 'category_id'),
  'categories': ('id', 'name'),
}
# What the columns of `AnnotationTable` hold.
_BITS = {'height': 32, 'width': 32}


def load_json(path: str) -> dict[str, Any]:
  """Reads a COCO JSON and checks that its parts are there.

  Raises:
    UserError: no such file, not JSON, a list or key missing, ids that are not
      integers, too large, or that appear twice, an annotation of an unknown image or
      category or with another `iscrowd` than 0, 1, true, false or null, no images, no
      categories.
  """
  content = read_json(path, remedy='; annotations are a COCO-format JSON file')
  if not isinstance(content, dict):
    raise UserError(
      f'{path}: not a COCO data set: the JSON is a {type(content).__name__}, not an '
      f'object with {", ".join(_KEYS)}'
    )
  for part, keys in _KEYS.items():
    _check_part(path, content, part, keys)
  _check_references(path, content)
  return content


def _check_part(path: str, content: dict, part: str, keys: Sequence[str]) -> None:
  if not isinstance(content.get(part), list):
    found = ', '.join(map(repr, content)) or 'nothing'
    raise UserError(f'{path}: not a COCO data set: no list {part!r}; found {found}')
  if not content[part] and part != 'annotations':
    raise UserError(f'{path}: empty data set: {part!r} has no entries')
  for index, entry in enumerate(content[part]):
    if not isinstance(entry, dict):
      raise UserError(f'{path}: {part}[{index}] is not an object: {entry!r}')
    missing = [key for key in keys if key not in entry]
    if missing:
      raise UserError(
        f'{path}: {part}[{index}] has no {missing[0]!r}; it has '
        f'{", ".join(map(repr, entry)) or "nothing"}'
      )
    for key in keys:
      is_text = key in ('file_name', 'name')
      kind = str if is_text else int
      if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
        raise UserError(
          f'{path}: {part}[{index}][{key!r}] is {entry[key]!r}, not '
          f'{"a string" if is_text else "an integer"}'
        )
      bits = _BITS.get(key, 64)
      if not is_text and entry[key].bit_length() >= bits:
        raise UserError(
          f'{path}: {part}[{index}][{key!r}] is {reprlib.repr(entry[key])}, which '
          f'does not fit into {bits} bits; use smaller numbers'
        )
  counts = Counter(entry['id'] for entry in content[part])
  twice = [f'{i} ({n} times)' for i, n in counts.items() if n > 1]
  if twice:
    raise UserError(
      f'{path}: {len(twice)} ids in {part!r} are not unique: {shorten(twice)}'
    )


def _check_references(path: str, content: dict) -> None:
  for entry in content['images']:
    if entry['height'] < 1 or entry['width'] < 1:
      raise UserError(
        f'{path}: image {entry["id"]} ({entry["file_name"]}) has height '
        f'{entry["height"]} and width {entry["width"]}; both must be at least 1'
      )
  for part, key in (('images', 'image_id'), ('categories', 'category_id')):
    known = {entry['id'] for entry in content[part]}
    lost = [entry for entry in content['annotations'] if entry[key] not in known]
    if lost:
      shown = [f'annotation {entry["id"]} names {entry[key]}' for entry in lost]
      raise UserError(
        f'{path}: {len(lost)} annotations name a {key} that is not in {part!r}: '
        f'{shorten(shown)}'
      )
  odd = [a for a in content['annotations'] if a.get('iscrowd') not in (0, 1, None)]
  if odd:
    shown = [f'{entry["id"]} ({reprlib.repr(entry["iscrowd"])})' for entry in odd]
    raise UserError(
      f'{path}: {len(odd)} annotations have neither 0 nor 1 as iscrowd: '
      f'{shorten(shown)}; set it to 0, or to 1 for a crowd'
    )


def group_by_image(content: dict[str, Any]) -> list[list[dict[str, Any]]]:
  """The annotations of every image, in the order of the JSON."""
  groups: dict[int, list[dict[str, Any]]] = {i['id']: [] for i in content['images']}
  for annotation in content['annotations']:
    groups[annotation['image_id']].append(annotation)
  return list(groups.values())


def make_tables(
  content: dict[str, Any],
) -> tuple[AnnotationTable, SegmentationStore]:
  """Turns what `load_json` returned into tables.

  Returns:
    The table, and for each of its annotations the segmentation; no polygons for crowd
    regions and where there is none that can be read.
  """
  images = content['images']
  sizes = np.asarray([(i['height'], i['width']) for i in images], np.int32)
  groups = group_by_image(content)
  annotations = [annotation for group in groups for annotation in group]
  first = np.cumsum([0, *map(len, groups)], dtype=np.int64)
  owner = np.repeat(np.arange(len(images)), np.diff(first))
  is_crowd = _column(annotations, lambda a: bool(a.get('iscrowd')), bool)

  segmentations: list[Segmentation] = []
  states = np.full(len(annotations), MaskState.USABLE, np.uint8)
  has_short = np.zeros(len(annotations), bool)
  for index, annotation in enumerate(annotations):
    value = annotation.get('segmentation')
    height, width = sizes[owner[index]].tolist()
    parsed, states[index] = parse_segmentation(value, (height, width))
    segmentations.append(parsed)
    has_short[index] = isinstance(value, list) and 0 < len(parsed) < len(value)
  is_usable = states == MaskState.USABLE
  states[is_usable] = check_run_lengths(segmentations, sizes[owner])[is_usable]

  table = AnnotationTable(
    image_ids=_column(images, lambda i: i['id'], np.int64),
    file_names=tuple(image['file_name'] for image in images),
    sizes=sizes,
    categories=tuple(sorted((c['id'], c['name']) for c in content['categories'])),
    first=first,
    annotation_ids=_column(annotations, lambda a: a['id'], np.int64),
    category_ids=_column(annotations, lambda a: a['category_id'], np.int64),
    boxes=np.asarray([_box(a) for a in annotations], np.float64).reshape(-1, 4),
    is_crowd=is_crowd,
    mask_states=states,
    has_short_polygons=has_short,
  )
  return table, SegmentationStore(
    () if crowd else item for item, crowd in zip(segmentations, is_crowd, strict=True)
  )


def _column(rows: Iterable[dict], value: Callable[[dict], Any], dtype) -> np.ndarray:
  return np.asarray([value(row) for row in rows], dtype)


def _box(annotation: dict) -> tuple[float, ...]:
  box: Any = annotation.get('bbox')
  return tuple(map(float, box)) if is_box(box) else (np.nan,) * 4


def is_box(value: Any) -> bool:
  """Whether a value of the JSON is a list of four finite numbers."""
  return (
    isinstance(value, list | tuple) and len(value) == 4 and all(map(is_number, value))
  )


def is_number(value: Any) -> bool:
  """Whether a value of the JSON is a number that a float holds."""
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and abs(value) <= sys.float_info.max
  )


def make_ground_truth(
  annotations: Iterable[dict[str, Any]], table: AnnotationTable
) -> dict[str, Any]:
  """The data set as pycocotools evaluates it.

  Crowd regions and objects too small for training stay. Annotations that cannot be
  evaluated (no usable segmentation or box) are left out, polygons of less than 3
  points are dropped (pycocotools takes them for boxes), a missing `iscrowd` is 0, and
  an `area` that is missing or no number is the mask's.

  Args:
    annotations: the JSON's entries.
    table: the tables of the same data set.

  Returns:
    The dict of a COCO JSON: images, annotations, categories.
  """
  sizes = dict(zip(table.image_ids.tolist(), table.sizes.tolist(), strict=True))
  usable = set(table.annotation_ids[can_be_scored(table)].tolist())
  kept = []
  for annotation in annotations:
    if annotation['id'] not in usable:
      continue
    entry = {**annotation, 'iscrowd': int(bool(annotation.get('iscrowd')))}
    if isinstance(entry['segmentation'], list):
      entry['segmentation'] = [p for p in entry['segmentation'] if len(p) >= 6]
    if not is_number(entry.get('area')):
      entry['area'] = _area(entry['segmentation'], *sizes[entry['image_id']])
    kept.append(entry)
  return {
    'images': [
      {'id': i, 'file_name': name, 'height': size[0], 'width': size[1]}
      for (i, size), name in zip(sizes.items(), table.file_names, strict=True)
    ],
    'annotations': kept,
    'categories': [{'id': i, 'name': name} for i, name in table.categories],
  }


def _area(segmentation: Any, height: int, width: int) -> float:
  if isinstance(segmentation, list):
    runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
  elif isinstance(segmentation['counts'], list):
    runs = coco_mask.frPyObjects(segmentation, height, width)
  else:
    runs = segmentation
  return float(coco_mask.area(runs))
