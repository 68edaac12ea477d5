"""What bfloat16 does to the network's outputs and detections: prints tables.

  PYTHONPATH=.:tests python experiments/precision/bfloat16.py FOLDER [--images=4]

FOLDER holds COCO's val2017 and annotations/instances_val2017.json; the first images
with instances are used, at 800x1333. The network is the paper's ResNet-50 with the
golden rule's weights. They are random: its detections show how close calls fall, not
how good they are.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from golden_detections import Sizes, detections_of
from golden_network import forward, model_of, variables_of
from golden_set import GoldenSet
from golden_table import rms

from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.data.transforms import empty_batch, fill_example
from embedmask_jax.data.views import resize_sizes, round_up, whole_view
from embedmask_jax.losses import compute_losses, loss_names, normalisers
from embedmask_jax.ops.boxes import box_iou
from embedmask_jax.postprocess import DetectionSettings
from embedmask_jax.structures import Batch, Detections, HeadOutputs
from embedmask_jax.targets import assign_targets

GOLDEN = GoldenSet(Path(__file__).resolve().parents[2] / 'tests' / 'golden' / '2021')
SEED = 11
SHORT_SIDE, LONG_SIDE = 800, 1333
# Boxes of one class that overlap more than this are taken for one object.
SAME_OBJECT = 0.5
# Pixels; with random weights many masks are smaller or empty, and their IoU is luck.
MIN_MASK = 50


class Result(NamedTuple):
  """Of one image in one precision; `arrays` has features and head outputs."""

  arrays: dict[str, jax.Array]
  losses: dict[str, jax.Array]
  detections: Detections


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('folder', type=Path)
  parser.add_argument('--images', type=int, default=4)
  arguments = parser.parse_args()
  source = CocoSource(
    arguments.folder / 'annotations' / 'instances_val2017.json',
    arguments.folder / 'val2017',
  )
  arrays: dict[str, list[tuple[float, float]]] = {}
  losses, counts, changes, reasons = [], [], [], Counter()
  names = loss_names(GOLDEN.preset)
  for index in np.flatnonzero(source.instance_counts)[: arguments.images].tolist():
    batch = read(source, index)
    exact, rounded = run(batch, jnp.float32), run(batch, jnp.bfloat16)
    for name in exact.arrays:
      arrays.setdefault(name, []).append(errors_of(exact, rounded, name))
    image_id = source.image_ids[index]
    relative = [rounded.losses[name] / exact.losses[name] - 1 for name in names]
    losses.append([image_id, *map(float, relative)])
    pairs, moved, lost, new = match(exact.detections, rounded.detections)
    total = [int(found.detections.valid.sum()) for found in (exact, rounded)]
    counts.append([image_id, *total, len(pairs), moved, len(lost), len(new)])
    changes.append([image_id, *changes_of(exact.detections, rounded.detections, pairs)])
    reasons.update(reason(exact.detections, i, rounded) for i in lost)
    reasons.update(reason(rounded.detections, i, exact) for i in new)

  print('errors relative to the RMS of the float32 values, of the worst image')
  worst = [[name, *np.max(found, axis=0).tolist()] for name, found in arrays.items()]
  print_table(['', 'RMS', 'largest'], worst)
  print('\nrelative errors of the losses')
  print_table(['image', *names], losses)
  print('\ndetections')
  print_table(['image', 'float32', 'bfloat16', 'same', 'moved', 'lost', 'new'], counts)
  print('lost or new because:', *(f'\n  {n} {why}' for why, n in reasons.most_common()))
  print('\nchanges of the same detections')
  print_table(
    ['image', 'score', 'median', 'box, px', 'median', 'mask IoU', 'median', 'masks'],
    changes,
  )


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
  for row in [header, *rows]:
    cells = [f'{cell:.2g}' if isinstance(cell, float) else str(cell) for cell in row]
    print(f'{cells[0]:<20}' + ''.join(f'{cell:>12}' for cell in cells[1:]))


def read(source: CocoSource, index: int) -> Batch:
  """An image with its instances in its tight canvas."""
  size = tuple(resize_sizes(source.sizes[[index]], SHORT_SIDE, LONG_SIDE)[0].tolist())
  canvas = round_up(size[0]), round_up(size[1])
  batch = empty_batch(1, canvas, int(source.instance_counts[index]))
  fill_example(batch, 0, source[index], whole_view(size, canvas), index)
  return Batch(**batch)


def run(batch: Batch, dtype: Any) -> Result:
  outputs, features = forward(model_of(GOLDEN, 'R50').clone(dtype=dtype))(
    variables_of(GOLDEN, 'R50', SEED), batch.images, batch.image_size, batch.valid_size
  )
  canvas = batch.images.shape[1:3]
  sizes = Sizes(batch.image_size, batch.valid_size, batch.original_size, canvas)
  return Result(
    arrays=features | {n: x for n, x in vars(outputs).items() if x is not None},
    losses=losses_of(outputs, batch),
    detections=detections_of(GOLDEN, outputs, sizes, 0),
  )


@jax.jit
def losses_of(outputs: HeadOutputs, batch: Batch) -> dict[str, jax.Array]:
  targets = assign_targets(batch, GOLDEN.preset)
  total = normalisers(batch, targets)
  return compute_losses(outputs, targets, batch, total, preset=GOLDEN.preset)


def errors_of(exact: Result, rounded: Result, name: str) -> tuple[float, float]:
  """RMS and largest error of an array, over its RMS."""
  expected = np.asarray(exact.arrays[name], np.float64)
  error = np.asarray(rounded.arrays[name], np.float64) - expected
  return rms(error) / rms(expected), np.abs(error).max() / rms(expected)


def match(
  exact: Detections, rounded: Detections
) -> tuple[list[tuple[int, int]], int, list[int], list[int]]:
  """Which detections correspond, row by row.

  Returns:
    Pairs of rows with the same location and class; how many others have a partner
    of their class elsewhere, see `SAME_OBJECT`; the rows that only one side has.
  """
  rows, other_rows = rows_by_key(exact), rows_by_key(rounded)
  pairs = [(rows[key], other_rows[key]) for key in rows if key in other_rows]
  new = [other_rows[key] for key in other_rows if key not in rows]
  moved, lost = 0, []
  for i in (rows[key] for key in rows if key not in other_rows):
    box, label = exact.network_boxes[0, i], exact.labels[0, i]
    overlaps = {
      j: float(box_iou(box, rounded.network_boxes[0, j]))
      for j in new
      if rounded.labels[0, j] == label
    }
    nearest = max(overlaps, key=overlaps.__getitem__, default=-1)
    if overlaps.get(nearest, 0) > SAME_OBJECT:
      moved += 1
      new.remove(nearest)
    else:
      lost.append(i)
  return pairs, moved, lost, new


def rows_by_key(found: Detections) -> dict[tuple[int, int], int]:
  """(location, class) -> row."""
  return {
    (int(found.location[0, i]), int(found.labels[0, i])): int(i)
    for i in np.flatnonzero(found.valid[0])
  }


def reason(found: Detections, row: int, other: Result) -> str:
  """Why the other precision has no such detection."""
  location, label = found.location[0, row], found.labels[0, row]
  score = jax.nn.sigmoid(other.arrays['class_logits'][0, location, label])
  if score <= DetectionSettings.score_threshold:
    return 'below the score threshold'
  score *= jax.nn.sigmoid(other.arrays['centerness'][0, location])
  kept = other.detections
  if kept.valid.all() and score < kept.scores.min():
    return 'beyond the cap of detections'
  return 'suppressed by another'


def changes_of(
  exact: Detections, rounded: Detections, pairs: Sequence[tuple[int, int]]
) -> list[float | int]:
  """Largest and median change of scores and boxes, least and median mask IoU.

  And how many masks the IoU is of, see `MIN_MASK`.
  """
  rows, other_rows = np.asarray(pairs).T
  scores = np.abs(exact.scores[0, rows] - rounded.scores[0, other_rows])
  boxes = np.abs(exact.network_boxes[0, rows] - rounded.network_boxes[0, other_rows])
  boxes = boxes.max(axis=1)
  masks = np.unpackbits(exact.masks[0, rows], axis=-1)
  others = np.unpackbits(rounded.masks[0, other_rows], axis=-1)
  union = (masks | others).sum(axis=(1, 2))
  is_large = union >= MIN_MASK
  iou = ((masks & others).sum(axis=(1, 2)) / np.maximum(union, 1))[is_large]
  values = [
    float(value)
    for array, extreme in ((scores, np.max), (boxes, np.max), (iou, np.min))
    for value in (extreme(array), np.median(array))
  ]
  return [*values, int(is_large.sum())]


if __name__ == '__main__':
  main()
