"""A COCO ground truth, read and checked for scoring."""

import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from embedmask_jax.data.coco_json import is_box, is_number
from embedmask_jax.data.segmentations import (
  FAR,
  MaskState,
  are_run_lengths,
  check_run_lengths,
)
from embedmask_jax.errors import UserError
from embedmask_jax.storage import read_json

# COCO's masks count pixels in 32 bits.
_MOST_PIXELS = 2**32 - 1


def _is_id(value: Any) -> bool:
  if isinstance(value, int) and not isinstance(value, bool):
    return value.bit_length() < 64
  return isinstance(value, str)


def _is_side(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


_AN_ID = (_is_id, 'an integer (of 64 bits at most) or a string')
_A_SIDE = (_is_side, 'a positive integer')
_NEEDED: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
  'images': {'id': _AN_ID, 'height': _A_SIDE, 'width': _A_SIDE},
  'categories': {'id': _AN_ID, 'name': (_is_text, 'a string')},
  'annotations': {'id': _AN_ID, 'image_id': _AN_ID, 'category_id': _AN_ID},
}


def encode_segmentation(segmentation: Any, height: int, width: int) -> dict:
  """Compressed RLE of a COCO segmentation.

  Args:
    segmentation: polygons (lists of x, y, x, y, ... in pixels), RLE with a list of
      counts, or compressed RLE. Polygons of fewer than three points enclose nothing.
      Compressed RLE is taken on trust: `check_masks` looks at many at once.
    height: height of the image in pixels.
    width: width of the image in pixels.

  Returns:
    {'size': [height, width], 'counts': bytes}.

  Raises:
    ValueError: it is none of these, or of another size than the image.
  """
  if isinstance(segmentation, list):
    return _encode_polygons(segmentation, height, width)
  if not isinstance(segmentation, dict) or not {'size', 'counts'} <= set(segmentation):
    raise ValueError('segmentation is neither polygons nor RLE')
  size, counts = segmentation['size'], segmentation['counts']
  if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
    raise ValueError(
      f'RLE size {size} differs from the image, height {height} and width {width}'
    )
  if isinstance(counts, list):
    if not are_run_lengths(counts, (height, width)):
      raise ValueError(
        f'RLE counts are not integers from 0 on that add up to {height * width} pixels'
      )
    return rle.frPyObjects(segmentation, height, width)
  if not isinstance(counts, (str, bytes)):
    raise ValueError('RLE counts are neither a list nor a string')
  encoded = counts.encode() if isinstance(counts, str) else counts
  return {'size': [height, width], 'counts': encoded}


def _encode_polygons(polygons: list, height: int, width: int) -> dict:
  if not all(
    isinstance(polygon, list) and all(isinstance(x, (int, float)) for x in polygon)
    for polygon in polygons
  ):
    raise ValueError('segmentation is a list, but not of polygons')
  if any(len(polygon) % 2 for polygon in polygons):
    raise ValueError('a polygon has an odd number of coordinates')
  far = FAR * max(height, width)
  # NaN is not near either.
  if not all(abs(side) < far for polygon in polygons for side in polygon):
    raise ValueError('a polygon reaches far beyond the image')
  areas = [polygon for polygon in polygons if len(polygon) >= 6]
  if not areas:
    empty = {'size': [height, width], 'counts': [height * width]}
    return rle.frPyObjects(empty, height, width)
  return rle.merge(rle.frPyObjects(areas, height, width))


def check_masks(entries: Iterable[tuple[str, dict]]) -> None:
  """Checks compressed RLE, which pycocotools reads without looking.

  Args:
    entries: names for messages, and annotations or results whose `segmentation`, where
      there is one, is from `encode_segmentation`.

  Raises:
    UserError: names the first entry whose counts do not cover its image.
  """
  masked = [(name, e['segmentation']) for name, e in entries if 'segmentation' in e]
  states = check_run_lengths(
    [mask['counts'] for _, mask in masked], np.asarray([m['size'] for _, m in masked])
  )
  bad = np.flatnonzero(states == MaskState.MALFORMED)
  if bad.size:
    where, mask = masked[bad[0]]
    height, width = mask['size']
    raise UserError(
      f'{where}: RLE counts {reprlib.repr(mask["counts"].decode(errors="replace"))} do '
      f'not cover the image, height {height} and width {width}'
    )


def read_ground_truth(ground_truth: dict | str | Path) -> dict:
  """Checks a ground truth and fills in what COCO's scorer relies on.

  Args:
    ground_truth: content of a COCO instances JSON, or the path of one. Not changed.

  Returns:
    A dict with 'images' and 'categories' as given and 'annotations' as new dicts:
    numbered from 1 (the scorer takes a match with the id 0 for none), `segmentation`
    as RLE where there is one, and `iscrowd`, `bbox` and `area` always, from the mask
    or the box where they are missing.

  Raises:
    UserError: names the file and the first entry that cannot be used.
  """
  name = 'the ground truth'
  if not isinstance(ground_truth, dict):
    name, ground_truth = str(ground_truth), read_json(ground_truth)
  if not isinstance(ground_truth, dict) or not all(
    isinstance(ground_truth.get(field), list)
    for field in ('images', 'annotations', 'categories')
  ):
    raise UserError(
      f'{name} is not COCO instances JSON: it must be an object with the lists '
      'images, annotations and categories'
    )
  _check_fields(name, ground_truth)
  images = {image['id']: image for image in ground_truth['images']}
  categories = {category['id'] for category in ground_truth['categories']}
  for field, unique in (('images', images), ('categories', categories)):
    if len(unique) < len(ground_truth[field]):
      raise UserError(f'{name}: two entries of {field} have the same id')
    if len({isinstance(key, str) for key in unique}) > 1:
      raise UserError(
        f'{name}: some ids of {field} are integers, others strings; use one kind'
      )
  annotations: list[tuple[str, dict]] = []
  for number, annotation in enumerate(ground_truth['annotations'], start=1):
    where = f'{name}: annotation {annotation["id"]}'
    if annotation['image_id'] not in images:
      raise UserError(f'{where} names the unknown image {annotation["image_id"]}')
    if annotation['category_id'] not in categories:
      raise UserError(f'{where} names the unknown category {annotation["category_id"]}')
    image = images[annotation['image_id']]
    try:
      checked = _checked(annotation, image['height'], image['width'])
    except ValueError as error:
      raise UserError(f'{where}: {error}') from error
    annotations.append((where, {**checked, 'id': number}))
  check_masks(annotations)
  completed = [_completed(annotation) for _, annotation in annotations]
  return {**ground_truth, 'annotations': completed}


def _check_fields(name: str, ground_truth: dict) -> None:
  for part, needed in _NEEDED.items():
    for index, entry in enumerate(ground_truth[part]):
      where = f'{name}: {part}[{index}]'
      if not isinstance(entry, dict):
        raise UserError(f'{where} is {reprlib.repr(entry)}, not an object')
      for key, (is_right, kind) in needed.items():
        if key not in entry:
          shown = reprlib.repr(entry)
          raise UserError(f'{name}: an entry of {part} has no {key}: {shown}')
        if not is_right(entry[key]):
          raise UserError(f'{where}: {key} is {reprlib.repr(entry[key])}, not {kind}')
      if part == 'images' and entry['height'] * entry['width'] > _MOST_PIXELS:
        raise UserError(
          f'{where}: height and width are more than {_MOST_PIXELS} pixels'
        )


def check_box(box: Any) -> None:
  """Raises ValueError for what is no COCO box."""
  if not is_box(box):
    raise ValueError(
      f'bbox is {reprlib.repr(box)}, not four finite numbers [x, y, width, height]'
    )


def _checked(annotation: dict, height: int, width: int) -> dict:
  """The annotation with RLE and iscrowd, and without an area of null."""
  checked = {**annotation}
  for field in ('iscrowd', 'area'):
    if checked.get(field, 0) is None:
      del checked[field]
  if checked.setdefault('iscrowd', 0) not in (0, 1):
    raise ValueError(f'iscrowd is {reprlib.repr(checked["iscrowd"])}, neither 0 nor 1')
  checked['iscrowd'] = int(checked['iscrowd'])
  if not is_number(checked.get('area', 0)):
    raise ValueError(f'area is {reprlib.repr(checked["area"])}, not a finite number')
  if not {'bbox', 'segmentation'} & set(checked):
    raise ValueError('it has neither bbox nor segmentation')
  if 'bbox' in checked:
    check_box(checked['bbox'])
  if 'segmentation' in checked:
    encoded = encode_segmentation(checked['segmentation'], height, width)
    checked['segmentation'] = encoded
  return checked


def _completed(annotation: dict) -> dict:
  """What `_checked` returned, with bbox and area."""
  completed = {**annotation}
  encoded = completed.get('segmentation')
  if 'bbox' not in completed:
    completed['bbox'] = rle.toBbox(encoded).tolist()
  if 'area' not in completed:
    box_area = completed['bbox'][2] * completed['bbox'][3]
    completed['area'] = box_area if encoded is None else int(rle.area(encoded))
  return completed
