"""COCO results: written from detections or from a ground truth, read for scoring."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from embedmask_jax.data.coco_json import is_number
from embedmask_jax.data.mask_windows import encode_window, unpack_window
from embedmask_jax.errors import UserError
from embedmask_jax.metrics.ground_truth import (
  check_box,
  check_masks,
  encode_segmentation,
  read_ground_truth,
)
from embedmask_jax.storage import read_json


def unpack_masks(masks: np.ndarray, original_size: Sequence[int]) -> np.ndarray:
  """Packed masks on an output canvas to masks of the image.

  Args:
    masks: uint8 [..., Ho, Wo/8], packed along the last axis.
    original_size: (height, width) of the stored image, at most (Ho, Wo).

  Returns:
    bool [..., height, width].
  """
  height, width = (int(side) for side in original_size)
  return np.unpackbits(masks[..., :height, :], axis=-1, count=width).astype(bool)


def detections_to_results(
  *,
  boxes: np.ndarray,
  scores: np.ndarray,
  labels: np.ndarray,
  masks: np.ndarray,
  valid: np.ndarray,
  original_size: Sequence[int],
  image_id: int,
  category_ids: Sequence[int],
  extent: int = 1,
) -> list[dict]:
  """One image's rows of `Detections`, as NumPy arrays, to COCO results.

  Args:
    boxes: float32 [K, 4], xyxy, original pixels.
    scores: float32 [K].
    labels: int32 [K], class index.
    masks: uint8 [K, Ho, Wo/8], packed.
    valid: bool [K]; the other rows are left out.
    original_size: (height, width) of the stored image.
    image_id: id of the image in the ground truth.
    category_ids: category id of every class index.
    extent: what a side adds to the difference of its coordinates, see `ops.boxes`.

  Returns:
    A dict for every valid detection, in their order: image_id, category_id, bbox
    [x, y, width, height] with width = x2 - x1 + extent, score, and segmentation as
    compressed RLE. A mask without a pixel is kept: its box still counts.
  """
  size = int(original_size[0]), int(original_size[1])
  results = []
  for i in np.flatnonzero(valid):
    x1, y1, x2, y2 = (float(side) for side in boxes[i])
    width, height = x2 - x1 + extent, y2 - y1 + extent
    results.append(
      {
        'image_id': int(image_id),
        'category_id': int(category_ids[labels[i]]),
        'bbox': [round(side, 3) for side in (x1, y1, width, height)],
        'score': float(scores[i]),
        'segmentation': encode_window(unpack_window(masks[i], size), size),
      }
    )
  return results


def ground_truth_as_results(ground_truth: dict | str | Path) -> list[dict]:
  """The instances of a ground truth as if predicted with the score 1.

  Scoring them must give AP 1 under a cap on detections that does not bite; where it
  does not, the annotations are at fault (an empty mask, for instance). Crowd regions
  are not instances and are left out.

  Args:
    ground_truth: content of a COCO instances JSON, or the path of one.

  Returns:
    COCO results in the order of the annotations, with segmentation as compressed RLE
    where the annotation has one.

  Raises:
    UserError: the ground truth cannot be used.
  """
  results = []
  for annotation in read_ground_truth(ground_truth)['annotations']:
    if annotation['iscrowd']:
      continue
    result = {
      'image_id': annotation['image_id'],
      'category_id': annotation['category_id'],
      'bbox': list(annotation['bbox']),
      'score': 1.0,
    }
    if 'segmentation' in annotation:
      size, counts = (annotation['segmentation'][key] for key in ('size', 'counts'))
      result['segmentation'] = {'size': size, 'counts': counts.decode('ascii')}
    results.append(result)
  return results


def read_results(results: Sequence[dict] | str | Path, truth: dict) -> list[dict]:
  """Checks COCO results for scoring.

  Args:
    results: dicts with image_id, category_id, score, and segmentation or bbox or
      both, or the path of a JSON of them. Not changed.
    truth: what `read_ground_truth` returns.

  Returns:
    New dicts, numbered from 1 in `id`, with `segmentation` as RLE where there is one,
    `bbox` always, from the mask where it is missing, and `iscrowd` 0.

  Raises:
    UserError: names the file and the first result that cannot be used, counted from 0.
  """
  prefix = ''
  entries: Any = results
  if isinstance(results, str | Path):
    prefix = f'{results}: '
    entries = read_json(results)
  if not isinstance(entries, Sequence) or not all(isinstance(e, dict) for e in entries):
    raise UserError(f'{prefix}COCO results must be a list of objects')
  images = {image['id']: image for image in truth['images']}
  categories = {category['id'] for category in truth['categories']}
  detections: list[tuple[str, dict]] = []
  for number, result in enumerate(entries):
    where = f'{prefix}result {number}'
    for field, known in (('image_id', images), ('category_id', categories)):
      value = result.get(field)
      if not isinstance(value, (int, str)) or value not in known:
        raise UserError(
          f'{where}: {field} {reprlib.repr(value)} is not in the ground truth'
        )
    score = result.get('score')
    if not is_number(score):
      raise UserError(f'{where}: score {reprlib.repr(score)} is not a finite number')
    if not {'bbox', 'segmentation'} & set(result):
      raise UserError(f'{where} has neither a segmentation nor a bbox')
    detection = {**result, 'id': number + 1, 'iscrowd': 0}
    image = images[result['image_id']]
    try:
      if 'bbox' in result:
        check_box(result['bbox'])
      if 'segmentation' in result:
        detection['segmentation'] = encode_segmentation(
          result['segmentation'], image['height'], image['width']
        )
    except ValueError as error:
      raise UserError(f'{where}: {error}') from error
    detections.append((where, detection))
  check_masks(detections)
  for _, detection in detections:
    if 'bbox' not in detection:
      detection['bbox'] = rle.toBbox(detection['segmentation']).tolist()
  return [detection for _, detection in detections]
