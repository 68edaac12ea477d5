"""Targets, losses and their gradients from stored head outputs."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from golden_batch import batch_of
from golden_rule import subsample
from golden_set import (
  FIELDS,
  LEVELS,
  Arrays,
  GoldenSet,
  by_level,
  canvas_of,
  flat,
  head_outputs,
)
from golden_table import OUTPUTS, Report

from embedmask_jax.errors import UserError
from embedmask_jax.losses import (
  LOSS_NAMES,
  choose_proposals,
  compute_losses,
  mask_loss,
  normalisers,
)
from embedmask_jax.models.heads import SPATIAL_DIMS
from embedmask_jax.ops.boxes import box_iou, boxes_from_distances
from embedmask_jax.ops.locations import level_shapes, location_strides, locations
from embedmask_jax.structures import Batch, HeadOutputs, Targets
from embedmask_jax.targets import assign_targets

# Values that a record keeps of a gradient, all its levels together.
_GRADIENT_SAMPLE = 8192
# Two locations as good as each other, by their IoU: either may be chosen.
_IOU_TIE = 1e-6


def check_losses(golden: GoldenSet, report: Report) -> None:
  """Every loss record that has head outputs or is made from another's."""
  for record in golden.records(r'loss_[^_]+'):
    arrays = golden.arrays(record)
    base, outputs = heads_of(golden, record)
    targets_record = golden.arrays(base)
    batch = batch_of(targets_record)
    targets = jax.jit(assign_targets)(batch)
    if base == record:
      _compare_targets(report, record, arrays, batch, targets)
    if outputs is None:
      _compare_nothing_chosen(report, record, arrays)
      continue
    chosen = _compare_chosen(report, record, arrays, batch, targets, outputs)
    head = golden.arrays(f'{record}_head') if base == record else arrays
    _compare_losses(report, record, head, batch, targets, outputs)
    _compare_instances(report, record, arrays, batch, chosen, outputs)


def heads_of(golden: GoldenSet, record: str) -> tuple[str, HeadOutputs | None]:
  """The record with the ground truth, and the head outputs in training mode.

  Raises:
    UserError: the index does not say what the record was made from.
  """
  arrays = golden.arrays(record)
  entry = golden.json('loss_index').get(record.removeprefix('loss_'))
  if isinstance(entry, dict):
    name = f'{record}_head'
    if not golden.has(f'{name}.npz'):
      return record, None
    return record, head_outputs(golden.arrays(name), is_in_pixels=False)
  match = re.match(r'(loss_\w+)_head with bbox_reg (replaced by|:= 0)', entry or '')
  if match is None:
    raise UserError(f'{record}.npz: loss_index.json does not say what it is made of')
  base = match[1]
  outputs = head_outputs(golden.arrays(f'{base}_head'), is_in_pixels=False)
  regression = jnp.zeros_like(outputs.box_regression)
  if match[2] == 'replaced by':
    regression = flat(arrays.levels('bbox_reg'))
  return base, outputs.replace(box_regression=regression)


def _compare_targets(
  report: Report, record: str, arrays: Arrays, batch: Batch, targets: Targets
) -> None:
  targets = jax.tree.map(np.asarray, targets)
  matched = arrays['matched']
  positive = matched >= 0
  report.compare('targets: labels', record, targets.labels + 1, arrays['labels'])
  report.compare('targets: matched instances', record, targets.matched, matched)
  report.compare(
    'targets: regression',
    record,
    targets.box_regression[positive],
    arrays['reg_targets'][positive],
  )
  # Their order is level, image, location.
  place, start = [], 0
  for rows, columns in level_shapes(canvas_of(arrays)):
    level = slice(start, start + rows * columns)
    place.append(targets.centerness[:, level].reshape(-1))
    start += rows * columns
  centerness = np.concatenate(place)[arrays['pos_flat_index']]
  report.compare(
    'targets: centerness', record, centerness, arrays['centerness_targets']
  )
  report.compare('targets: counts', record, positive.sum(), arrays['n_pos'])
  points = [rows * columns for rows, columns in level_shapes(canvas_of(arrays))]
  report.compare('targets: counts', record, points, arrays['points_per_level'])
  total = normalisers(batch, targets)
  report.compare('targets: counts', record, total.num_positive, arrays['n_pos'])
  report.compare(
    'targets: centerness sum', record, total.centerness_sum, arrays['sum_centerness']
  )


def _compare_nothing_chosen(report: Report, record: str, arrays: Arrays) -> None:
  """Without a positive location nothing is chosen, whatever the heads say."""
  if arrays['n_pos'] > 0:
    return
  for name, value in (('pos_index', -1), ('best_iou', -1), ('n_matched', 0)):
    for key in arrays.names(rf'im\d+_{name}'):
      expected = arrays[key]
      found = np.full(len(expected), value)
      report.compare('targets: chosen locations', record, found, expected)


def _compare_chosen(
  report: Report,
  record: str,
  arrays: Arrays,
  batch: Batch,
  targets: Targets,
  outputs: HeadOutputs,
) -> np.ndarray:
  """Returns ours, int32 [B, N]."""
  canvas = batch.images.shape[1:3]
  chosen = np.asarray(
    choose_proposals(outputs.box_regression, targets, batch.boxes, canvas)
  )
  for i, found in enumerate(chosen):
    quality = best_overlaps(outputs.box_regression[i], batch.boxes[i], canvas)
    compare_choice(report, record, arrays, f'im{i}_', found, quality, gap='iou_gap')
    if f'im{i}_n_matched' in arrays:
      expected = arrays[f'im{i}_n_matched']
      own = np.asarray(targets.matched[i])[:, None] == np.arange(len(expected))
      report.compare('targets: counts', record, own.sum(axis=0), expected)
  return chosen


def best_overlaps(
  regression: np.ndarray, boxes: np.ndarray, canvas: tuple[int, int]
) -> np.ndarray:
  """IoU [N, P] of an image's boxes with the boxes predicted at every location."""
  distances = regression * location_strides(canvas)[:, None]
  predicted = boxes_from_distances(locations(canvas), distances)
  return np.asarray(box_iou(predicted[None], jnp.asarray(boxes)[:, None]))


def compare_choice(
  report: Report,
  record: str,
  arrays: Arrays,
  prefix: str,
  found: np.ndarray,
  iou: np.ndarray,
  *,
  gap: str,
) -> None:
  """Compares the locations chosen for an image's instances.

  Args:
    report: where to.
    record: name of the record.
    arrays: with `<prefix>pos_index` and perhaps `<prefix>best_iou`, `<prefix><gap>`.
    prefix: of the names.
    found: ours, int [N].
    iou: [N, P], see `best_overlaps`.
    gap: name of the distances of the best to the second best.
  """
  expected = arrays[f'{prefix}pos_index']
  found = found[: len(expected)]
  rows = np.arange(len(expected))
  difference = np.abs(iou[rows, found] - iou[rows, expected])
  is_tie = (difference < _IOU_TIE) & (found >= 0) & (expected >= 0)
  if f'{prefix}{gap}' in arrays:
    # An exact tie is decided by the order of the locations.
    is_tie &= arrays[f'{prefix}{gap}'] > 0
  found_or_tie = np.where(is_tie, expected, found)
  report.compare('targets: chosen locations', record, found_or_tie, expected)
  if f'{prefix}best_iou' in arrays:
    best = np.where(found >= 0, iou[rows, found], -1)
    expected = arrays[f'{prefix}best_iou']
    report.compare('targets: IoU of chosen locations', record, best, expected)


@cache
def _losses_and_gradients():
  def total(outputs, targets, batch):
    losses = compute_losses(
      outputs, targets, batch, normalisers(batch, targets), spatial_dims=SPATIAL_DIMS
    )
    return sum(losses.values()), losses

  return jax.jit(jax.grad(total, has_aux=True))


def _compare_losses(
  report: Report,
  record: str,
  head: Arrays,
  batch: Batch,
  targets: Targets,
  outputs: HeadOutputs,
) -> None:
  gradients, losses = _losses_and_gradients()(outputs, targets, batch)
  found = np.stack([losses[name] for name in LOSS_NAMES])
  report.compare('losses from heads', record, found, head['losses'])
  for name in OUTPUTS:
    compare_gradient(
      report,
      record,
      head,
      name,
      np.asarray(getattr(gradients, FIELDS[name])),
      batch.images.shape[1:3],
    )


def compare_gradient(
  report: Report,
  record: str,
  head: Arrays,
  name: str,
  gradient: np.ndarray,
  canvas: tuple[int, int],
) -> None:
  """Compares d(sum of losses)/d(head output), as far as the record has it."""
  quantity, stored = f'gradients from heads: {name}', f'grad_{name}'
  if name == 'pixel_embed':
    levels = {stored: gradient.transpose(0, 3, 1, 2)}
  else:
    levels = {
      f'{stored}_{level}': part
      for level, part in zip(LEVELS, by_level(gradient, canvas), strict=True)
    }
  for key, level in levels.items():
    if key in head:
      report.compare(quantity, f'{record} {key[-2:]}', level, head[key])
  if f'{stored}_sub' in head:
    whole = np.concatenate([level.ravel() for level in levels.values()])
    expected = head[f'{stored}_sub']
    report.compare(quantity, record, subsample(whole, _GRADIENT_SAMPLE), expected)


@cache
def _mask_loss():
  return jax.jit(partial(mask_loss, spatial_dims=SPATIAL_DIMS, chunk=8))


def _compare_instances(
  report: Report,
  record: str,
  arrays: Arrays,
  batch: Batch,
  chosen: np.ndarray,
  outputs: HeadOutputs,
) -> None:
  """The mask loss of one instance is that of the image with it alone."""
  rows = np.arange(chosen.shape[1])
  alone = [
    np.asarray(_mask_loss()(outputs, batch, np.where(rows == n, chosen, -1)))
    for n in rows
  ]
  for i in range(len(chosen)):
    name = f'im{i}_mask_loss_per_instance'
    if name in arrays:
      found = [alone[n][i] for n in rows if chosen[i, n] >= 0]
      report.compare('losses from heads: per instance', record, found, arrays[name])
