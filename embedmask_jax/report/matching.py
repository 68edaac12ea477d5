"""Which detection found which instance: at one IoU, image by image."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as rle

# From this IoU on a detection has found an instance.
MATCH_IOU = 0.5
# In place of an instance: nothing, or a crowd region, which counts neither way.
NOTHING, CROWD = -1, -2


@dataclass(frozen=True, eq=False)
class ImageMatches:
  """The d detections of an image, best score first, and its g instances.

  Attributes:
    image_id: of the ground truth.
    detections: d positions in the list of all detections.
    scores: float [d].
    labels: int [d], class index.
    found: int [d], the instance of the same class that each has found, `NOTHING` or
      `CROWD`. Detections choose in the order of their scores, so what the first few
      find does not depend on the others.
    truth: g positions in the list of all annotations.
    truth_labels: int [g].
    ious: float [d, g].
  """

  image_id: int
  detections: np.ndarray
  scores: np.ndarray
  labels: np.ndarray
  found: np.ndarray
  truth: np.ndarray
  truth_labels: np.ndarray
  ious: np.ndarray


def match_images(
  truth: dict, detections: Sequence[dict], iou_type: str
) -> list[ImageMatches]:
  """Matches the detections of every image of a ground truth.

  Args:
    truth: what `read_ground_truth` returns.
    detections: what `read_results` returns.
    iou_type: 'segm' or 'bbox'.
  """
  ids = sorted(category['id'] for category in truth['categories'])
  label_of = {category_id: index for index, category_id in enumerate(ids)}
  of_image: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
  for index, entry in enumerate(truth['annotations']):
    of_image[entry['image_id']][0].append(index)
  for index, entry in enumerate(detections):
    of_image[entry['image_id']][1].append(index)
  return [
    _match_image(
      image['id'],
      *of_image[image['id']],
      truth=truth['annotations'],
      detections=detections,
      label_of=label_of,
      iou_type=iou_type,
    )
    for image in truth['images']
  ]


def _match_image(
  image_id: int,
  truth_indices: list[int],
  indices: list[int],
  *,
  truth: Sequence[dict],
  detections: Sequence[dict],
  label_of: dict[int, int],
  iou_type: str,
) -> ImageMatches:
  indices = sorted(indices, key=lambda i: -detections[i]['score'])
  # Crowds last: a detection is theirs only where it is no instance's.
  truth_indices = sorted(truth_indices, key=lambda i: truth[i]['iscrowd'])
  is_crowd = np.asarray([truth[i]['iscrowd'] for i in truth_indices], bool)
  field = 'segmentation' if iou_type == 'segm' else 'bbox'
  ious = np.zeros((len(indices), len(truth_indices)))
  if ious.size:
    ious[:] = rle.iou(
      [detections[i][field] for i in indices],
      [truth[i][field] for i in truth_indices],
      is_crowd.astype(np.uint8).tolist(),
    )
  labels, truth_labels = (
    np.asarray([label_of[entries[i]['category_id']] for i in chosen], np.int64)
    for entries, chosen in ((detections, indices), (truth, truth_indices))
  )
  is_class = labels[:, None] == truth_labels[None, :]
  found = _choose(np.where(is_class, ious, 0), is_crowd)
  is_instance = ~is_crowd
  return ImageMatches(
    image_id=image_id,
    detections=np.asarray(indices, np.int64),
    scores=np.asarray([detections[i]['score'] for i in indices], np.float64),
    labels=labels,
    found=found,
    truth=np.asarray(truth_indices, np.int64)[is_instance],
    truth_labels=truth_labels[is_instance],
    ious=ious[:, is_instance],
  )


def _choose(ious: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
  """Each row in turn takes the best free column; crowds are never taken."""
  found = np.full(len(ious), NOTHING, np.int64)
  free = np.ones(ious.shape[1], bool)
  for row in range(len(ious)):
    candidates = np.where(free & ~is_crowd, ious[row], 0)
    if candidates.size and candidates.max() >= MATCH_IOU:
      found[row] = candidates.argmax()
      free[found[row]] = False
    elif (ious[row][is_crowd] >= MATCH_IOU).any():
      found[row] = CROWD
  return found


def confused(image: ImageMatches, threshold: float) -> list[tuple[int, int]]:
  """Pairs (detection, instance) at one place, but of different classes.

  Among the detections from `threshold` on and the instances that no detection of
  their own class has found.
  """
  shown = image.scores >= threshold
  left = shown & (image.found == NOTHING)
  missed = np.ones(len(image.truth), bool)
  missed[image.found[shown & (image.found >= 0)]] = False
  rows, columns = np.flatnonzero(left), np.flatnonzero(missed)
  chosen = _choose(image.ious[np.ix_(rows, columns)], np.zeros(len(columns), bool))
  return [(int(rows[i]), int(columns[k])) for i, k in enumerate(chosen) if k != NOTHING]
