"""Targets, losses and their gradients from stored head outputs."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from golden_batch import batch_of
from golden_rule import subsample, unpack_masks
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
from embedmask_jax.losses import compute_losses, loss_names, normalisers
from embedmask_jax.mask_loss import mask_loss_sums
from embedmask_jax.ops.boxes import box_iou, boxes_from_distances
from embedmask_jax.ops.locations import level_shapes, location_strides, locations
from embedmask_jax.ops.masks import crop_mask
from embedmask_jax.presets import Preset
from embedmask_jax.proposal_sampling import (
  ProposalSamples,
  choose_proposals,
  overlapping_proposals,
  sample_proposals,
)
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
    targets = jax.jit(partial(assign_targets, preset=golden.preset))(batch)
    if golden.is_adelaidet:
      targets = without_accident(report, record, batch, targets)
    if base == record:
      _compare_targets(report, record, arrays, batch, targets)
    if outputs is None:
      _compare_nothing_chosen(report, record, arrays)
      continue
    preset = golden.preset
    has_choice = golden.preset.proposals != 'all'
    for i in range(len(batch.boxes) if has_choice else 0):
      compare_choice(
        report,
        record,
        arrays,
        f'im{i}_',
        outputs.box_regression[i],
        jax.tree.map(lambda leaf, i=i: leaf[i], targets),
        batch.boxes[i],
        batch.images.shape[1:3],
        preset,
        gap='iou_gap',
      )
    _compare_counts(report, record, arrays, targets)
    head = golden.arrays(f'{record}_head') if base == record else arrays
    _compare_losses(report, record, head, batch, targets, outputs, preset)
    if has_choice:
      samples = sample_proposals(outputs, targets, batch, preset=preset)
      _compare_instances(report, record, arrays, batch, samples, outputs, preset)


def without_accident(
  report: Report, record: str, batch: Batch, targets: Targets
) -> Targets:
  """Drops all positives of images whose first instance has an empty mask.

  So does the original, by accident.
  """
  is_hit = batch.instance_valid[:, 0] & (batch.mask_area[:, 0] == 0)
  if not is_hit.any():
    return targets
  report.note(f'{record}: the first mask is empty, so all positives are dropped')
  lost = jnp.asarray(is_hit)[:, None]
  return targets.replace(
    labels=jnp.where(lost, -1, targets.labels),
    matched=jnp.where(lost, -1, targets.matched),
    box_regression=jnp.where(lost[..., None], 0, targets.box_regression),
    centerness=jnp.where(lost, 0, targets.centerness),
  )


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
  if 'sem_targets' in arrays:
    found, expected = targets.semantic + 1, arrays['sem_targets']
    report.compare('targets: semantic cells', record, found, expected)
    count = max(total.num_semantic, 1)
    report.compare('targets: counts', record, count, max(arrays['sem_num_pos'], 1))
  report.compare(
    'targets: centerness sum', record, total.centerness_sum, arrays['sum_centerness']
  )


def _compare_nothing_chosen(report: Report, record: str, arrays: Arrays) -> None:
  """Without a positive location nothing is chosen, whatever the heads say."""
  if arrays['n_pos'] > 0:
    return
  for name, value in (
    ('pos_index', -1),
    ('pos_count', 0),
    ('pos_list', 0),
    ('best_iou', -1),
    ('n_matched', 0),
  ):
    for key in arrays.names(rf'im\d+_{name}'):
      expected = arrays[key]
      found = np.full(len(expected), value)
      report.compare('targets: chosen locations', record, found, expected)


def _compare_counts(
  report: Report, record: str, arrays: Arrays, targets: Targets
) -> None:
  """The locations matched to each instance."""
  for i, matched in enumerate(np.asarray(targets.matched)):
    if f'im{i}_n_matched' in arrays:
      expected = arrays[f'im{i}_n_matched']
      own = matched[:, None] == np.arange(len(expected))
      report.compare('targets: counts', record, own.sum(axis=0), expected)


def compare_choice(
  report: Report,
  record: str,
  arrays: Arrays,
  prefix: str,
  regression: np.ndarray,
  targets: Targets,
  boxes: np.ndarray,
  canvas: tuple[int, int],
  preset: Preset,
  *,
  gap: str,
) -> None:
  """Compares the locations chosen for an image's instances.

  Args:
    report: where to.
    record: name of the record.
    arrays: with `<prefix>pos_index`, or `<prefix>pos_count` and `<prefix>pos_list`,
      and perhaps `<prefix>best_iou`, `<prefix><gap>`.
    prefix: of the names.
    regression: float32 [P, 4], in strides.
    targets: of the image.
    boxes: float32 [N, 4].
    canvas: (H, W).
    preset: how locations are chosen.
    gap: name of the distances to another choice.
  """
  matched = np.asarray(targets.matched)
  units = 1 if preset.has_stride_slip else location_strides(canvas)[:, None]
  predicted = boxes_from_distances(locations(canvas), np.asarray(regression) * units)
  iou = np.asarray(box_iou(predicted[None], jnp.asarray(boxes)[:, None]))
  images = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (targets, boxes))
  if preset.proposals == 'best':
    compare = _compare_best
    found = choose_proposals(jnp.asarray(regression)[None], *images, canvas)
  else:
    compare = _compare_averaged
    found = overlapping_proposals(
      jnp.asarray(regression)[None],
      *images,
      canvas,
      has_stride_slip=preset.has_stride_slip,
    )
  gaps = arrays.get(f'{prefix}{gap}')
  compare(report, record, arrays, prefix, np.asarray(found)[0], matched, iou, gaps)
  if f'{prefix}best_iou' in arrays:
    expected = arrays[f'{prefix}best_iou']
    own = matched == np.arange(len(expected))[:, None]
    best = np.where(own, iou[: len(expected)], -1).max(axis=1)
    report.compare('targets: IoU of chosen locations', record, best, expected)


def _compare_best(
  report: Report,
  record: str,
  arrays: Arrays,
  prefix: str,
  found: np.ndarray,
  matched: np.ndarray,
  iou: np.ndarray,
  gaps: np.ndarray | None,
) -> None:
  """One location of each instance, or -1."""
  expected = arrays[f'{prefix}pos_index']
  found = found[: len(expected)]
  rows = np.arange(len(expected))
  difference = np.abs(iou[rows, found] - iou[rows, expected])
  is_tie = (difference < _IOU_TIE) & (found >= 0) & (expected >= 0)
  if gaps is not None:
    # An exact tie is decided by the order of the locations.
    is_tie &= gaps > 0
  found_or_tie = np.where(is_tie, expected, found)
  report.compare('targets: chosen locations', record, found_or_tie, expected)


def _compare_averaged(
  report: Report,
  record: str,
  arrays: Arrays,
  prefix: str,
  found: np.ndarray,
  matched: np.ndarray,
  iou: np.ndarray,
  gaps: np.ndarray | None,
) -> None:
  """The locations averaged for each instance, of which there may be none."""
  counts = arrays[f'{prefix}pos_count']
  listed = arrays[f'{prefix}pos_list']
  for n, (count, end) in enumerate(zip(counts, np.cumsum(counts), strict=True)):
    expected = listed[end - count : end]
    if gaps is not None and 0 < gaps[n] < _IOU_TIE:
      report.note(f'{record} {prefix}: instance {n} skipped, its choice is in doubt')
      continue
    own = np.flatnonzero(found & (matched == n))
    report.compare('targets: chosen locations', record, own, np.sort(expected))


@cache
def _losses_and_gradients(preset: Preset):
  def total(outputs, targets, batch):
    parts = normalisers(batch, targets)
    key = jax.random.key(0)
    losses = compute_losses(outputs, targets, batch, parts, preset=preset, key=key)
    return sum(losses.values()), losses

  return jax.jit(jax.grad(total, has_aux=True))


def _compare_losses(
  report: Report,
  record: str,
  head: Arrays,
  batch: Batch,
  targets: Targets,
  outputs: HeadOutputs,
  preset: Preset,
) -> None:
  gradients, losses = _losses_and_gradients(preset)(outputs, targets, batch)
  found = np.stack([losses[name] for name in loss_names(preset)])
  report.compare('losses from heads', record, found, head['losses'])
  for name in OUTPUTS:
    if getattr(outputs, FIELDS[name]) is None:
      continue
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
  if name in ('pixel_embed', 'sem_logits'):
    levels = {stored: gradient.transpose(0, 3, 1, 2)}
  else:
    levels = {
      f'{stored}_{level}': part
      for level, part in zip(LEVELS, by_level(gradient, canvas), strict=True)
    }
  recorded = {key: level for key, level in levels.items() if key in head}
  if name == 'logits' and recorded:
    # The original's focal loss takes 1 - (1 - p): of a level without likely classes
    # its gradient is rounding alone, 6e-4 of its RMS off float64's.
    found, expected = (
      np.concatenate([np.ravel(tree[key]) for key in recorded])
      for tree in (recorded, head)
    )
    report.compare(quantity, record, found, expected)
    recorded = {}
  for key, level in recorded.items():
    report.compare(quantity, f'{record} {key[-2:]}', level, head[key])
  if f'{stored}_sub' in head:
    whole = np.concatenate([level.ravel() for level in levels.values()])
    expected = head[f'{stored}_sub']
    report.compare(quantity, record, subsample(whole, _GRADIENT_SAMPLE), expected)


def _compare_instances(
  report: Report,
  record: str,
  arrays: Arrays,
  batch: Batch,
  samples: ProposalSamples,
  outputs: HeadOutputs,
  preset: Preset,
) -> None:
  """The mask loss of one sample is that of the image with it alone."""
  rows = np.arange(samples.valid.shape[1])
  alone = [
    np.asarray(
      _mask_loss(preset)(outputs, batch, samples.replace(valid=samples.valid & only))
    )
    for only in rows == rows[:, None]
  ]
  grid = tuple(side // 4 for side in batch.images.shape[1:3])
  for i, valid in enumerate(np.asarray(samples.valid)):
    name = f'im{i}_mask_loss_per_instance'
    if name in arrays:
      found = [alone[n][i] for n in rows if valid[n]]
      report.compare('losses from heads: per instance', record, found, arrays[name])
    if f'im{i}_crop_s4' in arrays and preset.crop_growth is not None:
      boxes, size = jnp.asarray(batch.boxes[i][valid]), jnp.array(grid, jnp.int32)
      found = crop_mask(boxes, grid, size, growth=preset.crop_growth)
      expected = unpack_masks(arrays[f'im{i}_crop_s4'], grid)
      report.compare('losses from heads: cells counted', record, found, expected)


@cache
def _mask_loss(preset: Preset):
  return jax.jit(partial(mask_loss_sums, preset=preset, chunk=8))
