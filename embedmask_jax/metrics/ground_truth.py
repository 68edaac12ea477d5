"""A COCO ground truth, read and checked for scoring."""

import json
from pathlib import Path
from typing import Any

from pycocotools import mask as rle

from embedmask_jax.data.segmentations import FAR
from embedmask_jax.errors import UserError
from embedmask_jax.storage import read_bytes, reason


def read_json(path: str | Path) -> Any:
  """Content of a JSON file; UserError where it is missing or not JSON."""
  try:
    return json.loads(read_bytes(path))
  except OSError as error:
    raise UserError(f'cannot read {path}: {reason(error)}') from error
  except ValueError as error:
    raise UserError(f'{path} is not a JSON file: {error}') from error


def encode_segmentation(segmentation: Any, height: int, width: int) -> dict:
  """Compressed RLE of a COCO segmentation.

  Args:
    segmentation: polygons (lists of x, y, x, y, ... in pixels), RLE with a list of
      counts, or compressed RLE. Polygons of fewer than three points enclose nothing.
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
    if sum(counts) != height * width:
      raise ValueError(
        f'RLE counts add up to {sum(counts)} pixels instead of {height * width}'
      )
    return rle.frPyObjects(segmentation, height, width)
  if not isinstance(counts, (str, bytes)):
    raise ValueError('RLE counts are neither a list nor a string')
  encoded = counts.encode('ascii') if isinstance(counts, str) else counts
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
  for field, needed in (
    ('images', ('id', 'height', 'width')),
    ('categories', ('id', 'name')),
    ('annotations', ('id', 'image_id', 'category_id')),
  ):
    for entry in ground_truth[field]:
      missing = [key for key in needed if key not in entry]
      if missing:
        shown = str(entry)[:120]
        raise UserError(f'{name}: an entry of {field} has no {missing[0]}: {shown}')
  images = {image['id']: image for image in ground_truth['images']}
  categories = {category['id'] for category in ground_truth['categories']}
  for field, unique in (('images', images), ('categories', categories)):
    if len(unique) < len(ground_truth[field]):
      raise UserError(f'{name}: two entries of {field} have the same id')
  annotations = []
  for number, annotation in enumerate(ground_truth['annotations'], start=1):
    where = f'{name}: annotation {annotation["id"]}'
    if annotation['image_id'] not in images:
      raise UserError(f'{where} names the unknown image {annotation["image_id"]}')
    if annotation['category_id'] not in categories:
      raise UserError(f'{where} names the unknown category {annotation["category_id"]}')
    image = images[annotation['image_id']]
    try:
      completed = _completed(annotation, image['height'], image['width'])
    except ValueError as error:
      raise UserError(f'{where}: {error}') from error
    annotations.append({**completed, 'id': number})
  return {**ground_truth, 'annotations': annotations}


def _completed(annotation: dict, height: int, width: int) -> dict:
  """The annotation with RLE, iscrowd, bbox and area."""
  completed = {**annotation, 'iscrowd': int(annotation.get('iscrowd', 0))}
  encoded = None
  if 'segmentation' in annotation:
    encoded = encode_segmentation(annotation['segmentation'], height, width)
    completed['segmentation'] = encoded
  if 'bbox' not in completed:
    if encoded is None:
      raise ValueError('it has neither bbox nor segmentation')
    completed['bbox'] = rle.toBbox(encoded).tolist()
  if len(completed['bbox']) != 4:
    raise ValueError(f'bbox {completed["bbox"]} is not [x, y, width, height]')
  if 'area' not in completed:
    box_area = completed['bbox'][2] * completed['bbox'][3]
    completed['area'] = box_area if encoded is None else int(rle.area(encoded))
  return completed
