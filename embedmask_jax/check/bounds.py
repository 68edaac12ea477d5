"""What the ground truth scores when it is predicted: as it is, and as targets."""

from collections.abc import Sequence
from typing import Any

from pycocotools import mask as coco_mask

from embedmask_jax.check.assignment import Representation
from embedmask_jax.check.findings import Finding, Section, spread
from embedmask_jax.metrics.coco import IOU_TYPES, evaluate_results
from embedmask_jax.metrics.ground_truth import read_ground_truth
from embedmask_jax.metrics.results import ground_truth_as_results

_LEVELS = ('P3', 'P4', 'P5', 'P6', 'P7')
_KEYS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')


def check_ground_truth(truth: dict[str, Any], max_dets: Sequence[int]) -> Section:
  """Scores the ground truth as predictions, which gives AP 1 or says why not.

  Args:
    truth: of the data set.
    max_dets: caps on the detections of a class in an image, of the config.
  """
  section = Section('Ground truth scored as predictions')
  results = ground_truth_as_results(truth)
  metrics = evaluate_results(truth, results, max_dets=max_dets)
  section.facts |= {f'{kind} AP': metrics[f'{kind}/AP'] for kind in IOU_TYPES}
  if not results:
    section.facts['why'] = 'there is no object that can be evaluated'
    return section
  over = int(metrics['count/instances_over_cap'] or 0)
  if over:
    words = (
      f'objects are beyond the largest of eval.max_dets, {max_dets[-1]} of a category '
      'in an image, and cannot be found; raise it, and eval.max_detections'
    )
    section.findings.append(Finding('over_cap', over, words))
    cap = max(len(results), *max_dets)
    metrics = evaluate_results(truth, results, max_dets=(cap,))
    section.facts |= {
      f'{kind} AP without that cap': metrics[f'{kind}/AP'] for kind in IOU_TYPES
    }
  # COCOeval's sums of many ones are not exact.
  if all((metrics[f'{kind}/AP'] or 0) > 1 - 1e-6 for kind in IOU_TYPES):
    return section
  if flat := _without_area(truth):
    words = 'objects have a mask or a box without area, which not even they match'
    section.findings.append(Finding('no_area', len(flat), words, flat))
  else:
    names = tuple(k for k, v in metrics.items() if '/AP/' in k and v and v < 1 - 1e-6)
    words = 'scores of categories against themselves are below 1'
    section.findings.append(Finding('self_score', len(names), words, names, 'metrics'))
  return section


def _without_area(truth: dict[str, Any]) -> tuple[int, ...]:
  """Annotation ids of objects whose mask or box has no area."""
  # What is scored is numbered anew.
  scored = read_ground_truth(truth)['annotations']
  return tuple(
    entry['id']
    for entry, completed in zip(truth['annotations'], scored, strict=True)
    if not entry['iscrowd']
    and (min(entry['bbox'][2:]) <= 0 or not coco_mask.area(completed['segmentation']))
  )


def check_representation(
  source_instances: int,
  truth: dict[str, Any],
  found: Representation,
  max_dets: Sequence[int],
) -> Section:
  """Says what targets can represent, and the AP that follows.

  The bound: every training instance that has a positive location when the image is
  shown as evaluation shows it is predicted with the score 1, its annotated box and its
  stride-4 mask, resized bilinearly to the image and cut where that fits best (see
  `read_back`); all others are missed. The whole ground truth counts, crowds and
  objects too small for training included. So it is what a network scores that has
  learnt its targets by heart, without a false detection and under the given caps. It
  says what can be hoped for and is no theorem: embeddings may draw an edge finer than
  the cells, and a location may find an object that it never learnt. Objects that
  suppression would merge are not taken away.

  Args:
    source_instances: training instances of the data set, at least one.
    truth: the ground truth.
    found: what `represent` found.
    max_dets: caps on the detections of a class in an image, of the config.
  """
  section = Section('Objects as targets, at the size of evaluation')
  represented = len(found.locations_of)
  section.facts |= {
    'instances with a positive location': represented,
    'share': represented / source_instances,
    'positive locations of an instance': spread(found.locations_of),
    'positive locations by level': dict(
      zip(_LEVELS, found.by_level.tolist(), strict=True)
    ),
  }
  metrics = evaluate_results(truth, found.results, max_dets=max_dets)
  for kind in IOU_TYPES:
    section.facts[f'bound on {kind}'] = {key: metrics[f'{kind}/{key}'] for key in _KEYS}
  for kind, words, ids in (
    (
      'no_location',
      'objects have no positive location: none near their centre regresses their '
      'size; a larger input size helps small ones',
      found.without_location,
    ),
    (
      'off_mask',
      'objects have no positive location: those near their centre lie beside them',
      found.off_mask,
    ),
    (
      'taken_location',
      'objects have no positive location: smaller boxes take all that they could have',
      found.taken,
    ),
    (
      'no_cell',
      'objects have an empty stride-4 mask; a larger input size helps',
      found.without_cell,
    ),
  ):
    if ids:
      section.findings.append(Finding(kind, len(ids), words, tuple(ids)))
  return section
