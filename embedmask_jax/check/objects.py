"""Annotations: sizes, categories, and those that are wrong, twice or overlapping."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from embedmask_jax.check.findings import Finding, Section, spread
from embedmask_jax.data.annotations import USE_WORDS, Use, classify
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.metrics.ground_truth import encode_segmentation
from embedmask_jax.presets import Preset

# COCO's, pixels of the image.
_SMALL, _LARGE = 32**2, 96**2

_DUPLICATE_IOU = 0.95
_OVERLAP_IOU = 0.5
_BOX_IOU = 0.5
# Of the `area` field to the mask's pixels; polygons are exact, rasters are not.
_AREA_SLACK = 0.2
_FEW = 10
_SHOWN_GAPS = 100


def check_objects(
  source: ImageSource, truth: dict[str, Any], *, nms_threshold: float
) -> Section:
  """Looks at the annotations, all in original pixels.

  Args:
    source: the data set.
    truth: its `ground_truth()`.
    nms_threshold: IoU of boxes above which evaluation keeps only one of a class.
  """
  section = Section('Objects')
  report = source.report
  instances = [a for a in truth['annotations'] if not a['iscrowd']]
  masks = _encoded(truth, instances)
  areas = np.asarray([float(coco_mask.area(mask)) for mask in masks], np.float64)
  section.facts |= {
    'annotations': report.num_annotations,
    'used for training': report.num_instances,
    'crowd regions': len(truth['annotations']) - len(instances),
    'small, medium, large': {
      'below 32x32': int((areas < _SMALL).sum()),
      'to 96x96': int(((areas >= _SMALL) & (areas <= _LARGE)).sum()),
      'above': int((areas > _LARGE).sum()),
    },
    'pixels of a mask': spread(areas),
    'instances per image': spread(source.instance_counts),
    'images without instances': report.num_images_without_instances,
  }
  findings = section.findings
  if not report.num_instances:
    words = 'objects can be trained on'
    findings.append(Finding('nothing_to_train_on', 0, words))
  for words, ids in report.left_out.items():
    is_crowd = words == USE_WORDS[Use.CROWD]
    kind = 'crowd' if is_crowd else 'left_out'
    findings.append(
      Finding(
        kind,
        len(ids),
        f'annotations are {words}'
        if is_crowd
        else f'annotations are left out of training, {words}',
        ids,
      )
    )
  if report.short_polygons:
    ids = report.short_polygons
    words = 'annotations are used without their polygons of less than 3 points'
    findings.append(Finding('short_polygon', len(ids), words, ids))
  findings += _beyond_image(source)
  findings += _wrong_boxes(instances, masks)
  findings += _wrong_areas(instances, areas)
  findings += _pairs(instances, masks, nms_threshold)
  return section


def check_categories(
  source: ImageSource, preset: Preset, min_box_side: float
) -> Section:
  """Counts the training instances of every category."""
  section = Section('Categories')
  uses = classify(source.table, min_box_side, extent=preset.box_extent)
  used = source.table.category_ids[uses == Use.INSTANCE].tolist()
  counts = Counter(used)
  section.facts['categories'] = len(source.categories)
  section.facts['instances'] = {name: counts[i] for i, name in source.categories}
  ids = source.category_ids
  if ids != tuple(range(ids[0], ids[0] + len(ids))):
    words = (
      f'gaps in the category ids ({ids[0]} to {ids[-1]} for {len(ids)} categories); '
      'classes are numbered without them'
    )
    missing = ids[-1] - ids[0] + 1 - len(ids)
    known = set(ids)
    gaps = (i for i in range(ids[0], ids[-1]) if i not in known)
    shown = tuple(itertools.islice(gaps, _SHOWN_GAPS))
    section.findings.append(Finding('category_gap', missing, words, shown, unit='ids'))
  for kind, words, is_so in (
    ('category_without_instance', 'categories have no instance', lambda n: n == 0),
    (
      'rare_category',
      f'categories have less than {_FEW} instances',
      lambda n: 0 < n < _FEW,
    ),
  ):
    names = tuple(name for i, name in source.categories if is_so(counts[i]))
    if names:
      section.findings.append(Finding(kind, len(names), words, names, unit='names'))
  times = Counter(name for _, name in source.categories)
  twice = tuple(name for name, count in times.items() if count > 1)
  if twice:
    words = 'names belong to several categories'
    section.findings.append(
      Finding('category_name_twice', len(twice), words, twice, unit='names')
    )
  return section


def _encoded(truth: dict[str, Any], entries: list[dict]) -> list[dict]:
  sizes = {image['id']: (image['height'], image['width']) for image in truth['images']}
  return [
    encode_segmentation(e['segmentation'], *sizes[e['image_id']]) for e in entries
  ]


def _beyond_image(source: ImageSource) -> list[Finding]:
  """Boxes that reach beyond their image."""
  table = source.table
  x, y, width, height = table.boxes.T
  limits = table.sizes[table.image_index]
  # Rounding of coordinates may put an edge up to a pixel outside.
  is_beyond = (x < -1) | (y < -1)
  is_beyond |= (x + width > limits[:, 1] + 1) | (y + height > limits[:, 0] + 1)
  ids = tuple(table.annotation_ids[is_beyond].tolist())
  words = 'boxes reach beyond their image; they are cut in training, but not for scores'
  return [Finding('beyond_image', len(ids), words, ids)] if ids else []


def _wrong_boxes(instances: list[dict], masks: list[dict]) -> list[Finding]:
  """Boxes that are not where the mask is."""
  ids = []
  for entry, encoded in zip(instances, masks, strict=True):
    tight = coco_mask.toBbox(encoded)
    given = np.asarray(entry['bbox'], np.float64)
    if coco_mask.iou(given[None], tight[None], [0]).item() < _BOX_IOU:
      ids.append(entry['id'])
  words = (
    f'boxes overlap the box of their mask by less than {_BOX_IOU:.0%} '
    '(is bbox [x, y, width, height]?)'
  )
  return [Finding('wrong_box', len(ids), words, tuple(ids))] if ids else []


def _wrong_areas(instances: list[dict], areas: np.ndarray) -> list[Finding]:
  given = np.asarray([entry['area'] for entry in instances], np.float64)
  # A pixel more or less all around is no mistake.
  slack = np.maximum(_AREA_SLACK * areas, 4 * np.sqrt(areas) + 4)
  ids = tuple(
    entry['id']
    for entry, is_off in zip(instances, np.abs(given - areas) > slack, strict=True)
    if is_off
  )
  words = "`area` fields are not their mask's; AP of small, medium, large goes by them"
  return [Finding('wrong_area', len(ids), words, ids)] if ids else []


def _pairs(
  instances: list[dict], masks: list[dict], nms_threshold: float
) -> list[Finding]:
  """Objects that are there twice, that overlap, or that suppression would merge."""
  twice: list[str] = []
  overlapping: list[str] = []
  merged: list[str] = []
  for positions in _by_image(instances):
    group = [instances[position] for position in positions]
    runs = [masks[position] for position in positions]
    # pycocotools reads [x, y, width, height].
    boxes = np.asarray([entry['bbox'] for entry in group], np.float64)
    masks_iou = coco_mask.iou(runs, runs, [0] * len(group))
    boxes_iou = coco_mask.iou(boxes, boxes, [0] * len(group))
    labels = np.asarray([entry['category_id'] for entry in group])
    is_alike = labels[:, None] == labels
    is_pair = np.triu(np.ones_like(is_alike), 1)
    is_twice = is_pair & is_alike & (masks_iou >= _DUPLICATE_IOU)
    is_pair &= ~is_twice
    for pairs, is_so in (
      (twice, is_twice),
      (overlapping, is_pair & (masks_iou > _OVERLAP_IOU)),
      (merged, is_pair & is_alike & (boxes_iou > nms_threshold)),
    ):
      pairs += [
        f'{group[first]["id"]}+{group[second]["id"]}'
        for first, second in np.argwhere(is_so).tolist()
      ]
  found = []
  for kind, pairs, words in (
    ('duplicate', twice, 'pairs are the same object of the same category twice'),
    ('overlap', overlapping, f'pairs of masks overlap by more than {_OVERLAP_IOU:.0%}'),
    (
      'suppressed',
      merged,
      f'pairs of a category have boxes that overlap more than eval.nms_threshold '
      f'({nms_threshold}): detections as good as these would leave one of them',
    ),
  ):
    if pairs:
      found.append(Finding(kind, len(pairs), words, tuple(pairs)))
  return found


def _by_image(instances: list[dict]) -> Iterator[list[int]]:
  """Positions of the instances of each image that has several."""
  groups: dict[int, list[int]] = {}
  for position, entry in enumerate(instances):
    groups.setdefault(entry['image_id'], []).append(position)
  return iter(group for group in groups.values() if len(group) > 1)
