"""Box and mask AP and AR of COCO results, as pycocotools gives them.

  python -m embedmask_jax.metrics.coco GT.json RESULTS.json

Unlike `COCOeval.summarize`, which knows the caps 1, 10 and 100 only, any caps on the
detections of one class in one image can be given; AP and the figures by size are
taken at the largest.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.metrics.ground_truth import read_ground_truth
from embedmask_jax.metrics.results import read_results
from embedmask_jax.metrics.score_tables import ScoreTables, defined_mean, make_tables
from embedmask_jax.writing import write_json

# None where nothing is defined, as the AP of a class without instances is.
Metrics = dict[str, float | int | None]

IOU_TYPES = ('segm', 'bbox')
# As metrics have them -> as tables do.
SIZES = {'s': 'small', 'm': 'medium', 'l': 'large'}


@dataclass(frozen=True, eq=False)
class Scored:
  """Metrics, and what they were computed from.

  Attributes:
    metrics: see `evaluate_results`.
    tables: one for each type that was scored.
    truth: what `read_ground_truth` returns.
    detections: what `read_results` returns.
    class_names: category id -> name, in ascending order of the ids.
  """

  metrics: Metrics
  tables: dict[str, ScoreTables]
  truth: dict
  detections: list[dict]
  class_names: dict[int, str]


def evaluate_results(
  ground_truth: dict | str | Path,
  results: Sequence[dict] | str | Path,
  *,
  max_dets: Sequence[int] = (1, 10, 100),
  iou_types: Sequence[str] | None = None,
) -> Metrics:
  """Scores COCO results against a COCO ground truth.

  Every image of the ground truth counts, with or without results. Objects are small
  below 32^2 pixels and large above 96^2, detections by the area of their mask (box,
  for boxes), ground truth by its `area`.

  Args:
    ground_truth: content of a COCO instances JSON, or the path of one.
    results: dicts with image_id, category_id, score, and segmentation (RLE or
      polygons) or bbox [x, y, width, height] or both, or the path of a JSON of them.
      Not changed. Results with a mask only get their box from it; without masks, boxes
      alone are scored.
    max_dets: caps on the detections per image and class, the best ones counting.
    iou_types: what to score, of 'segm' and 'bbox'; by default all that both sides
      allow.

  Returns:
    For each type T, in 0..1 or None where undefined: 'T/AP', 'T/AP50', 'T/AP75',
    'T/APs', 'T/APm', 'T/APl', 'T/AR<cap>' for each cap, 'T/ARs', 'T/ARm', 'T/ARl',
    and 'T/AP/<class>'. Further 'count/images', 'count/instances', 'count/crowds',
    'count/results', 'count/instances/<class>', and what the largest cap cuts off:
    'count/instances_over_cap' and 'count/results_over_cap'.

  Raises:
    UserError: unusable ground truth, results or caps; names the entry.
  """
  return score_results(
    ground_truth, results, max_dets=max_dets, iou_types=iou_types
  ).metrics


def score_results(
  ground_truth: dict | str | Path,
  results: Sequence[dict] | str | Path,
  *,
  max_dets: Sequence[int] = (1, 10, 100),
  iou_types: Sequence[str] | None = None,
) -> Scored:
  """As `evaluate_results`, with the tables that the metrics are means of."""
  caps = _checked_caps(max_dets)
  truth = read_ground_truth(ground_truth)
  detections = read_results(results, truth)
  categories = sorted(truth['categories'], key=lambda category: category['id'])
  names = _unique_names(categories)
  tables = {
    iou_type: make_tables(truth, detections, iou_type, caps)
    for iou_type in _checked_types(iou_types, truth, detections)
  }
  metrics: Metrics = {}
  for table in tables.values():
    metrics |= _metrics_of(table, caps, names)
  metrics |= _counts(truth, detections, caps[-1], names)
  return Scored(metrics, tables, truth, detections, names)


def _checked_caps(max_dets: Sequence[int]) -> list[int]:
  caps = sorted(set(max_dets))
  if not caps or caps[0] < 1 or any(int(cap) != cap for cap in caps):
    raise UserError(f'max_dets must be positive integers, not {tuple(max_dets)}')
  return caps


def _unique_names(categories: list[dict]) -> dict[int, str]:
  """Name of every category id; equal names are told apart by their ids."""
  names = [category['name'] for category in categories]
  times = Counter(names)
  return {
    category['id']: name if times[name] == 1 else f'{name} ({category["id"]})'
    for category, name in zip(categories, names, strict=True)
  }


def _checked_types(
  iou_types: Sequence[str] | None, truth: dict, detections: list[dict]
) -> list[str]:
  """The types to score; masks need all of both sides to have them."""
  unknown = set(iou_types or ()) - set(IOU_TYPES)
  if unknown:
    raise UserError(f'unknown iou_type {sorted(unknown)[0]}; there are {IOU_TYPES}')
  bare = {}
  for side, entries in (
    ('ground truth', truth['annotations']),
    ('results', detections),
  ):
    without = [entry['id'] for entry in entries if 'segmentation' not in entry]
    if not without:
      continue
    bare[side] = f'{len(without)} of {len(entries)} entries of the {side} have no mask'
    if iou_types is None and len(without) < len(entries):
      raise UserError(f'{bare[side]}; score boxes alone with iou_type bbox')
  if iou_types is None:
    return ['bbox'] if bare else list(IOU_TYPES)
  if 'segm' in iou_types and bare:
    raise UserError(f'masks cannot be scored: {next(iter(bare.values()))}')
  return [iou_type for iou_type in IOU_TYPES if iou_type in iou_types]


def _metrics_of(tables: ScoreTables, caps: list[int], names: dict[int, str]) -> Metrics:
  precision, recall = tables.precision, tables.recall
  sizes = tables.sizes
  overall = precision[:, :, :, sizes.index('all'), -1]
  metrics = {
    'AP': defined_mean(overall),
    'AP50': defined_mean(overall[np.isclose(tables.iou_thresholds, 0.5)]),
    'AP75': defined_mean(overall[np.isclose(tables.iou_thresholds, 0.75)]),
  }
  for letter, size in SIZES.items():
    metrics[f'AP{letter}'] = defined_mean(precision[:, :, :, sizes.index(size), -1])
  for index, cap in enumerate(caps):
    metrics[f'AR{cap}'] = defined_mean(recall[:, :, sizes.index('all'), index])
  for letter, size in SIZES.items():
    metrics[f'AR{letter}'] = defined_mean(recall[:, :, sizes.index(size), -1])
  for index, category_id in enumerate(tables.category_ids):
    metrics[f'AP/{names[category_id]}'] = defined_mean(overall[:, :, index])
  return {f'{tables.iou_type}/{key}': value for key, value in metrics.items()}


def _counts(
  truth: dict, detections: list[dict], cap: int, names: dict[int, str]
) -> Metrics:
  instances = [entry for entry in truth['annotations'] if not entry['iscrowd']]
  per_class = Counter(entry['category_id'] for entry in instances)

  def over_cap(entries: list[dict]) -> int:
    groups = Counter((entry['image_id'], entry['category_id']) for entry in entries)
    return sum(max(0, count - cap) for count in groups.values())

  return {
    'count/images': len(truth['images']),
    'count/instances': len(instances),
    'count/crowds': len(truth['annotations']) - len(instances),
    'count/results': len(detections),
    'count/instances_over_cap': over_cap(instances),
    'count/results_over_cap': over_cap(detections),
    **{f'count/instances/{name}': per_class[key] for key, name in names.items()},
  }


def format_table(metrics: Metrics) -> str:
  """The metrics of `evaluate_results` as lines to print; n/a where undefined."""
  types = [iou_type for iou_type in IOU_TYPES if f'{iou_type}/AP' in metrics]
  prefix = f'{types[0]}/'
  rows = [key.removeprefix(prefix) for key in metrics if key.startswith(prefix)]

  def cells(row: str) -> str:
    values = (metrics[f'{iou_type}/{row}'] for iou_type in types)
    texts = ('n/a' if value is None else f'{value:.3f}' for value in values)
    return ''.join(f'{text:>9}' for text in texts)

  classes = [row.removeprefix('AP/') for row in rows if row.startswith('AP/')]
  wide = max([8, *(len(name) for name in classes)])
  lines = [
    f'{metrics["count/images"]} images, {metrics["count/instances"]} instances, '
    f'{metrics["count/crowds"]} crowd regions, {metrics["count/results"]} results',
    '',
    f'{"":{wide}}' + ''.join(f'{iou_type:>9}' for iou_type in types),
  ]
  lines += [f'{row:{wide}}{cells(row)}' for row in rows if not row.startswith('AP/')]
  lines += ['', f'{"AP of":{wide}}' + ' ' * 9 * len(types) + '  instances']
  for name in classes:
    count = metrics[f'count/instances/{name}']
    lines.append(f'{name:{wide}}{cells(f"AP/{name}")}{count:>11}')
  for what in ('instances', 'results'):
    over = metrics[f'count/{what}_over_cap']
    if over:
      lines.append(
        f'{over} {what} are beyond the cap on detections per image and class; raise '
        'the largest of max_dets to count them'
      )
  return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
  """Command line; returns the exit status, 2 for a user's mistake."""
  parser = argparse.ArgumentParser(
    prog='python -m embedmask_jax.metrics.coco',
    description='Scores a COCO results file: box and mask AP and AR.',
  )
  parser.add_argument('ground_truth', help='COCO instances JSON')
  parser.add_argument('results', help='COCO results JSON')
  parser.add_argument(
    '--iou_type', choices=IOU_TYPES, help='score this alone; default: all there is'
  )
  parser.add_argument(
    '--max_dets',
    default='1,10,100',
    help='caps on detections per image and class, default 1,10,100; dense images '
    'need more, such as 1,10,500',
  )
  parser.add_argument('--json', help='write the metrics to this file')
  options = parser.parse_args(arguments)
  try:
    caps = _parse_caps(options.max_dets)
    metrics = evaluate_results(
      options.ground_truth,
      options.results,
      max_dets=caps,
      iou_types=options.iou_type and [options.iou_type],
    )
    if options.json:
      write_json(Path(options.json), metrics, indent=2)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(format_table(metrics))
  return 0


def _parse_caps(text: str) -> list[int]:
  try:
    return [int(cap) for cap in text.split(',')]
  except ValueError as error:
    raise UserError(f'--max_dets={text} is not a list such as 1,10,100') from error


if __name__ == '__main__':
  sys.exit(main())
