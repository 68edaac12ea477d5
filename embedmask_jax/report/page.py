"""The report of an evaluation: one HTML file that needs nothing else."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np

from embedmask_jax.charts import Line, bar_chart, line_chart, shaded_table
from embedmask_jax.metrics.coco import SIZES, Metrics, Scored
from embedmask_jax.metrics.score_tables import ScoreTables, defined_mean
from embedmask_jax.report.examples import example_pictures
from embedmask_jax.report.findings import (
  OperatingPoint,
  best_operating_point,
  calibration,
  confusion,
)
from embedmask_jax.report.matching import MATCH_IOU, ImageMatches, match_images

_TYPE_NAMES = {'segm': 'mask', 'bbox': 'box'}
# Classes with curves of their own.
_MOST_CURVES = 10

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1040px;
  margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0 } h2 { margin-top: 2em; font-size: 1.25em }
table { border-collapse: collapse; margin: 1em 0 }
td, th { padding: 2px 12px; text-align: right; border-bottom: 1px solid #e6e6e6;
  font-variant-numeric: tabular-nums }
td:first-child, th:first-child { text-align: left }
figure { margin: 1em 0 } figcaption { color: #555 } img { max-width: 100% }
.charts { display: flex; flex-wrap: wrap; gap: 10px } .wide { overflow-x: auto }
"""


def make_page(
  scored: Scored,
  read_image: Callable[[int], np.ndarray],
  *,
  title: str,
  training_curves: str | None = None,
) -> str:
  """Makes the report.

  Args:
    scored: what `score_results` returns; masks count where there are any.
    read_image: id of an image -> uint8 [h, w, 3], RGB, as stored.
    title: of the page.
    training_curves: an SVG document, see `draw_training_curves`.

  Returns:
    HTML that asks for no other file; a policy in its head forbids it.
  """
  main = next(iter(scored.tables))
  images = match_images(scored.truth, scored.detections, main)
  point = best_operating_point(images)
  parts = [
    f'<h1>{escape(title)}</h1>',
    _overview(scored, main, point),
    '<h2>COCO metrics</h2>',
    _metrics_table(scored.metrics, list(scored.tables)),
    '<h2>Precision and recall</h2>',
    _curves(scored, main),
    '<h2>Classes and sizes</h2>',
    _class_table(scored, main),
    '<h2>Are the scores to be trusted?</h2>',
    _calibration(images),
    '<h2>What is taken for what</h2>',
    _confusion(scored, images, point),
    *example_pictures(scored, images, point, read_image),
  ]
  if training_curves:
    parts += ['<h2>Training</h2>', f'<div class="wide">{training_curves}</div>']
  return (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "img-src data:; style-src 'unsafe-inline'\">"
    '<meta name="viewport" content="width=device-width">'
    f'<title>{escape(title)}</title><style>{_STYLE}</style></head>'
    f'<body>{"".join(parts)}</body></html>\n'
  )


def _overview(scored: Scored, main: str, point: OperatingPoint) -> str:
  metrics = scored.metrics
  sentences = [
    f'{metrics["count/images"]} images with {metrics["count/instances"]} instances of '
    f'{len(scored.class_names)} classes and {metrics["count/crowds"]} crowd regions; '
    f'{metrics["count/results"]} detections.',
    f'At a score of {point.threshold:.2f} the F1 is best ({point.f1:.3f}): '
    f'{point.precision:.1%} of the detections are right and {point.recall:.1%} of the '
    f'instances are found, counting {_TYPE_NAMES[main]} IoU from {MATCH_IOU} on. '
    'Confusion and pictures below are at that score.',
  ]
  for what in ('instances', 'results'):
    if over := metrics[f'count/{what}_over_cap']:
      sentences.append(
        f'{over} {what} are beyond the cap on detections per image and class.'
      )
  if capped := metrics.get('count/images_at_cap'):
    sentences.append(f'In {capped} images the cap on detections has cut some off.')
  return ''.join(f'<p>{escape(sentence)}</p>' for sentence in sentences)


def _metrics_table(metrics: Metrics, types: Sequence[str]) -> str:
  prefix = f'{types[0]}/'
  rows = [
    key.removeprefix(prefix)
    for key in metrics
    if key.startswith(prefix) and not key.startswith(f'{prefix}AP/')
  ]
  return _table(
    ['', *(_TYPE_NAMES[iou_type] for iou_type in types)],
    [[row, *(_value(metrics[f'{t}/{row}']) for t in types)] for row in rows],
  )


def _curves(scored: Scored, main: str) -> str:
  tables = scored.tables[main]
  name = _TYPE_NAMES[main]
  recall = tables.recall_thresholds
  lines = []
  for iou, shown in ((0.5, 'IoU 0.5'), (0.75, 'IoU 0.75'), (None, 'IoU 0.5 to 0.95')):
    precision = _precision(tables, iou)
    defined = (precision > -1).any(axis=0)
    if defined.any():
      means = precision[:, defined].mean(axis=1)
      lines.append(Line(shown, recall.tolist(), means.tolist()))
  unit = (0.0, 1.0)
  axes: dict[str, Any] = {'x_name': 'recall', 'x_range': unit, 'y_range': unit}
  axes['has_low_legend'] = True
  charts = [line_chart(lines, title=f'precision of {name}s, mean of classes', **axes)]
  precision = _precision(tables, 0.5)
  counts = _instance_counts(scored)
  order = sorted(range(len(tables.category_ids)), key=lambda c: -counts[c])
  chosen = [c for c in order if precision[0, c] > -1][:_MOST_CURVES]
  per_class = [
    Line(
      scored.class_names[tables.category_ids[c]],
      recall.tolist(),
      precision[:, c].tolist(),
    )
    for c in chosen
  ]
  which = 'of each class' if len(chosen) == len(order) else 'of the commonest classes'
  charts.append(line_chart(per_class, title=f'{which}, IoU 0.5', **axes))
  sizes = []
  for size in SIZES.values():
    precision = _precision(tables, 0.5, size)
    defined = (precision > -1).any(axis=0)
    if defined.any():
      means = precision[:, defined].mean(axis=1)
      sizes.append(Line(size, recall.tolist(), means.tolist()))
  charts.append(line_chart(sizes, title='by size, IoU 0.5', **axes))
  return f'<div class="charts">{"".join(charts)}</div>'


def _precision(tables: ScoreTables, iou: float | None, size: str = 'all') -> np.ndarray:
  """Precision [recall, class] at one IoU, or the mean of all; -1 where undefined."""
  precision = tables.precision[:, :, :, tables.sizes.index(size), -1]
  if iou is None:
    return precision.mean(axis=0)
  return precision[np.flatnonzero(np.isclose(tables.iou_thresholds, iou))[0]]


def _instance_counts(scored: Scored) -> list[int]:
  return [
    int(scored.metrics[f'count/instances/{name}'] or 0)
    for name in scored.class_names.values()
  ]


def _class_table(scored: Scored, main: str) -> str:
  tables = scored.tables[main]
  rows = []
  for c, count in enumerate(_instance_counts(scored)):
    everywhere = tables.precision[:, :, c, :, -1]
    by_size = [
      defined_mean(everywhere[:, :, tables.sizes.index(size)])
      for size in SIZES.values()
    ]
    overall = everywhere[:, :, tables.sizes.index('all')]
    at = [
      defined_mean(overall[np.isclose(tables.iou_thresholds, iou)])
      for iou in (0.5, 0.75)
    ]
    recall = defined_mean(tables.recall[:, c, tables.sizes.index('all'), -1])
    rows.append(
      [
        scored.class_names[tables.category_ids[c]],
        str(count),
        *map(_value, (defined_mean(overall), *at, *by_size, recall)),
      ]
    )
  header = ['class', 'instances', 'AP', 'AP50', 'AP75']
  header += [f'AP {size}' for size in SIZES.values()]
  note = (
    f'<p>Of {_TYPE_NAMES[main]}s. Small is below 32² pixels, large above 96². n/a: no '
    'such instance.</p>'
  )
  return note + _table([*header, 'AR'], rows)


def _calibration(images: Sequence[ImageMatches]) -> str:
  found = calibration(images)
  if not found.counts:
    return '<p>There are no detections.</p>'
  unit = (0.0, 1.0)
  chart = line_chart(
    [
      Line('what was found', found.scores, found.shares, has_dots=True),
      Line('ideal', [0, 1], [0, 1], is_dashed=True),
    ],
    title='share of right detections',
    x_name='score',
    x_range=unit,
    y_range=unit,
  )
  counts = bar_chart(
    [f'{score:.2f}' for score in found.scores],
    found.counts,
    title='detections',
    x_name='mean score of the bin',
  )
  return (
    '<p>A score of 0.8 would ideally mean that 80 % of such detections are right. The '
    f'expected calibration error is {found.error:.3f}.</p>'
    f'<div class="charts">{chart}{counts}</div>'
  )


def _confusion(
  scored: Scored, images: Sequence[ImageMatches], point: OperatingPoint
) -> str:
  names = list(scored.class_names.values())
  table = confusion(images, len(names), point.threshold)
  rows = [*names, 'nothing there']
  columns = [*names, 'missed']
  pairs = [
    (int(table[r, c]), names[r], names[c])
    for r in range(len(names))
    for c in range(len(names))
    if r != c and table[r, c]
  ]
  pairs.sort(key=lambda pair: -pair[0])
  if pairs:
    worst = '; '.join(f'{truth} as {taken}: {n}' for n, truth, taken in pairs[:8])
    words = f'Most often confused: {worst}.'
  else:
    words = 'No instance is taken for another class.'
  chart = shaded_table(
    table.tolist(), rows, columns, title='instances (rows) by what they were found as'
  )
  return (
    f'<p>{escape(words)} The last row counts detections where nothing is, or a second '
    f'time; the last column instances that were missed.</p><div class="wide">{chart}'
    '</div>'
  )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [''.join(f'<th>{escape(cell)}</th>' for cell in header)]
  lines += [''.join(f'<td>{escape(cell)}</td>' for cell in row) for row in rows]
  return f'<table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def _value(value: float | int | None) -> str:
  return 'n/a' if value is None else f'{value:.3f}'
