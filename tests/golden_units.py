"""The unit records: single functions against recorded inputs and outputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from golden_adelaidet_units import check_adelaidet_units
from golden_rule import subsample, unpack_masks
from golden_set import Arrays, GoldenSet
from golden_table import Report

from embedmask_jax.losses import focal_loss, iou_loss
from embedmask_jax.ops.boxes import box_iou, clip_boxes
from embedmask_jax.ops.lovasz import logit_from_log_probability, lovasz_hinge
from embedmask_jax.ops.masks import (
  OUTSIDE_LOG_PROBABILITY,
  box_mask,
  crop_mask,
  mask_log_probability,
  window_mask,
)
from embedmask_jax.ops.nms import greedy_nms
from embedmask_jax.ops.resize import bilinear_weights, double_size
from embedmask_jax.presets import Preset
from embedmask_jax.targets import centerness_targets

# How much of a large array a record keeps.
_BILINEAR_LIMIT, _BILINEAR_SAMPLE, _MASK_SAMPLE = 60000, 20000, 4096


def check_units(golden: GoldenSet, report: Report) -> None:
  """Every kind of record that `unit.npz` has."""
  if golden.is_adelaidet:
    check_adelaidet_units(golden, report)
    return
  if not golden.has('unit.npz'):
    return
  unit = golden.arrays('unit')
  checks = {
    'lovasz_prob': _lovasz_probabilities,
    'lovasz_logit': _lovasz_logits,
    'lovasz_jaccard_weights': _jaccard,
    'lovasz_p1_prob': _lovasz_at_one,
    'lov_prob': _lovasz_with_mask,
    'iou_pred': _iou_losses,
    'centerness': _centerness,
    'focal_logits': _focal,
    'nms_boxes': _nms,
    'nms_ties_boxes': _nms_ties,
    'iou_pairs': _iou,
    'clip_boxes': _clip,
    'bilinear0_in': _bilinear,
    'boxes_px': _cells_around_boxes,
  }
  for name, check in checks.items():
    if name in unit:
      check(unit, report)
  if 'mp_pixel' in unit:
    _mask_probability(golden, unit, report)
  for name in unit.names(r'lov_(p0|p1|tiny)_[fb]g'):
    _lovasz_extreme(golden, unit, name, report)


def _lovasz_probabilities(unit: Arrays, report: Report) -> None:
  probability, target = unit['lovasz_prob'], unit['lovasz_target']
  loss, gradient = lovasz_of_probability(probability, target)
  report.compare('unit: Lovasz loss', 'lovasz_prob', loss, unit['lovasz_loss'])
  for i, expected in enumerate(unit['lovasz_grad']):
    _compare_gradient(
      report, f'lovasz_prob {i}', probability[i], target[i], gradient[i], expected
    )


def _compare_gradient(
  report: Report,
  record: str,
  probability: np.ndarray,
  target: np.ndarray,
  found: np.ndarray,
  expected: np.ndarray,
) -> None:
  """Compares gradients where they are unique.

  Pixels with equal probability and target may share the weight of their places in
  any way: their sums are compared. Where pixels of both targets have one error,
  neither theirs nor their sums are unique.
  """
  pixels = np.stack([probability.ravel(), target.ravel()], axis=-1)
  groups, group = np.unique(pixels, axis=0, return_inverse=True)
  group = group.reshape(-1)
  bounded = np.clip(groups[:, 0], 1e-9, 1 - 6e-8).astype(np.float64)
  errors = 1 - np.log(bounded / (1 - bounded)) * np.where(groups[:, 1] > 0, 1, -1)
  distance = np.abs(errors[:, None] - errors[None])
  opposite = groups[:, None, 1] != groups[None, :, 1]
  is_unique = ~np.any(opposite & (distance < 1e-5) & (errors[:, None] > 0), axis=1)

  def sums(array: np.ndarray) -> np.ndarray:
    total = np.bincount(group, weights=array.ravel(), minlength=len(groups))
    return total[is_unique]

  report.compare('unit: Lovasz gradient', record, sums(found), sums(expected))


def lovasz_of_probability(
  probability: np.ndarray,
  target: np.ndarray,
  valid: np.ndarray | bool = True,
  *,
  minimum: float = Preset.min_probability,
) -> tuple[np.ndarray, np.ndarray]:
  """Losses [n] and their gradients with respect to probabilities [n, ...]."""
  rows = len(probability)
  shape = probability.shape
  flat_target = jnp.asarray(target).reshape(rows, -1)
  flat_valid = jnp.broadcast_to(jnp.asarray(valid), shape).reshape(rows, -1)
  log_p = jnp.log(jnp.asarray(probability, jnp.float32)).reshape(rows, -1)

  def losses(log_p):
    logits = logit_from_log_probability(log_p, minimum=minimum)
    return lovasz_hinge(logits, flat_target, flat_valid)

  gradient = np.asarray(jax.grad(lambda x: losses(x).sum())(log_p)).reshape(shape)
  # d log p / dp; where p is 0 the clamp has made the gradient 0 already.
  safe = np.where(probability > 0, probability, 1)
  return np.asarray(losses(log_p)), gradient / safe


def _lovasz_logits(unit: Arrays, report: Report) -> None:
  logits = jnp.asarray(unit['lovasz_logit'])
  target = jnp.asarray(unit['lovasz_logit_target'])
  loss = lovasz_hinge(logits, target)
  report.compare('unit: Lovasz loss', 'lovasz_logit', loss, unit['lovasz_logit_loss'])
  gradient = jax.grad(lambda x: lovasz_hinge(x, target).sum())(logits)
  report.compare(
    'unit: Lovasz gradient', 'lovasz_logit', gradient, unit['lovasz_logit_grad']
  )


def _jaccard(unit: Arrays, report: Report) -> None:
  """The weights are the gradients with respect to errors in descending order."""
  target = jnp.asarray(unit['lovasz_jaccard_weights_sorted_target'])
  sign = jnp.where(target, 1, -1)
  errors = jnp.arange(target.size, 0, -1, dtype=jnp.float32)
  gradient = jax.grad(lambda x: lovasz_hinge(x, target).sum())((1 - errors) * sign)
  expected = unit['lovasz_jaccard_weights']
  report.compare('unit: Jaccard weights', 'unit', -gradient * sign, expected)


def _lovasz_at_one(unit: Arrays, report: Report) -> None:
  """p = 1: the original's gradient is NaN there, ours must not be."""
  loss, gradient = lovasz_of_probability(
    unit['lovasz_p1_prob'], unit['lovasz_p1_target']
  )
  report.compare('unit: Lovasz loss', 'lovasz_p1', loss, unit['lovasz_p1_loss'])
  expected = unit['lovasz_p1_grad']
  known = np.isfinite(expected)
  report.compare('unit: Lovasz gradient', 'lovasz_p1', gradient[known], expected[known])
  _count_not_finite(report, 'lovasz_p1', gradient)


def _count_not_finite(report: Report, record: str, *arrays: np.ndarray) -> None:
  count = sum(int((~np.isfinite(array)).sum()) for array in arrays)
  report.observe('unit: Lovasz gradient, not finite', record, count)


def _lovasz_with_mask(unit: Arrays, report: Report) -> None:
  probability, target, valid = unit['lov_prob'], unit['lov_target'], unit['lov_mask']
  loss, gradient = lovasz_of_probability(probability, target, valid)
  report.compare('unit: Lovasz loss', 'lov_prob', loss, unit['lov_loss'])
  report.compare('unit: Lovasz gradient', 'lov_prob', gradient, unit['lov_grad'])


def _lovasz_extreme(golden: GoldenSet, unit: Arrays, name: str, report: Report) -> None:
  """p = 0, p = 1 or tiny p; what is infinite in the original is finite here."""
  probability, target, expected = unit[name]
  loss, gradient = lovasz_of_probability(
    probability[None].astype(np.float32),
    target[None] > 0,
    minimum=golden.preset.min_probability,
  )
  _count_not_finite(report, name, loss, gradient)
  if np.isfinite(unit[f'{name}_loss']).all():
    report.compare('unit: Lovasz loss', name, loss, unit[f'{name}_loss'])
  known = np.isfinite(expected)
  report.compare('unit: Lovasz gradient', name, gradient[0][known], expected[known])


def _iou_losses(unit: Arrays, report: Report) -> None:
  predicted, target = jnp.asarray(unit['iou_pred']), jnp.asarray(unit['iou_target'])
  weight = jnp.asarray(unit['iou_weight'])
  for kind in ('iou', 'linear_iou', 'giou'):
    each, pull = jax.vjp(partial(iou_loss, target=target, kind=kind), predicted)
    for quantity, record, found in (
      ('unit: IoU losses', f'{kind}_each', each),
      ('unit: IoU loss sums', f'{kind}_sum', jnp.sum(each * weight)),
      ('unit: IoU loss gradients', f'{kind}_grad', pull(weight)[0]),
    ):
      report.compare(quantity, record, found, unit[record])


def _centerness(unit: Arrays, report: Report) -> None:
  found = centerness_targets(jnp.asarray(unit['centerness_reg']))
  report.compare('unit: centerness', 'centerness', found, unit['centerness'])


def _focal(unit: Arrays, report: Report) -> None:
  logits = jnp.asarray(unit['focal_logits'])
  labels = jnp.asarray(unit['focal_targets']) - 1
  each = focal_loss(logits, labels)
  report.compare('unit: focal', 'focal_each', each, unit['focal_each'])
  report.compare('unit: focal sum', 'focal_sum', each.sum(), unit['focal_sum'])
  gradient = jax.grad(lambda x: focal_loss(x, labels).sum())(logits)
  report.compare('unit: focal gradient', 'focal_grad', gradient, unit['focal_grad'])


def _nms(unit: Arrays, report: Report) -> None:
  keep = _kept(unit['nms_boxes'], unit['nms_scores'], unit['nms_labels'], 0.6)
  report.compare('unit: NMS', 'nms', keep, np.sort(unit['nms_keep']))


def _nms_ties(unit: Arrays, report: Report) -> None:
  boxes, scores = unit['nms_ties_boxes'], unit['nms_ties_scores']
  for name in unit.names(r'nms_ties_keep_\d'):
    threshold = int(name[-1]) / 10
    keep = _kept(boxes, scores, unit['nms_ties_labels'], threshold)
    report.compare('unit: NMS', name, keep, np.sort(unit[name]))


def _kept(
  boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float
) -> np.ndarray:
  order = np.argsort(-scores, kind='stable')
  keep = greedy_nms(
    jnp.asarray(boxes[order]),
    jnp.asarray(labels[order]),
    jnp.ones(len(order), bool),
    threshold=threshold,
  )
  return np.sort(order[np.asarray(keep)])


def _iou(unit: Arrays, report: Report) -> None:
  a, b = jnp.asarray(unit['iou_pairs_a']), jnp.asarray(unit['iou_pairs_b'])
  found = box_iou(a[:, None], b[None])
  report.compare('unit: IoU', 'iou_pairs', found, unit['iou_pairs'])


def _clip(unit: Arrays, report: Report) -> None:
  size = jnp.asarray(unit['clip_size_wh'][::-1].copy())
  clipped = np.asarray(clip_boxes(jnp.asarray(unit['clip_boxes']), size))
  report.compare('unit: clipping', 'clip', clipped, unit['clip_out'])


def _bilinear(unit: Arrays, report: Report) -> None:
  for name in unit.names(r'bilinear\d+_in'):
    source = jnp.asarray(unit[name])
    rows, columns = source.shape[2:]
    height, width = map(int, unit[name.replace('_in', '_size')])
    expected = unit[name.replace('_in', '_out')]

    def sample(array, expected=expected):
      is_whole = array.size <= _BILINEAR_LIMIT
      return array if is_whole else subsample(array, _BILINEAR_SAMPLE)

    weights = [
      bilinear_weights(count, target, jnp.asarray(count), jnp.asarray(target))
      for count, target in ((rows, height), (columns, width))
    ]
    found = jnp.einsum('yh,bchw,xw->bcyx', weights[0], source, weights[1])
    report.compare('unit: bilinear resizing', name, sample(np.asarray(found)), expected)
    if (height, width) == (2 * rows, 2 * columns):
      doubled = double_size(
        source.transpose(0, 2, 3, 1), jnp.array([[rows, columns]], jnp.int32)
      )
      found = np.asarray(doubled).transpose(0, 3, 1, 2)
      report.compare('unit: bilinear resizing', f'{name} x2', sample(found), expected)


def _cells_around_boxes(unit: Arrays, report: Report) -> None:
  """The cells that count in training, and those a mask may take at test."""
  boxes, grid = jnp.asarray(unit['boxes_px']), tuple(map(int, unit['grid_hw']))
  size = jnp.array(grid, jnp.int32)
  for name, found in (
    ('train_crop_pad0', crop_mask(boxes, grid, size, growth=0.0)),
    ('train_crop_pad10', crop_mask(boxes, grid, size, growth=0.1)),
    ('infer_box_mask', box_mask(boxes, grid, size)),
  ):
    expected = unpack_masks(unit[name], grid)
    report.compare('unit: cells around boxes', name, found, expected)


def _mask_probability(golden: GoldenSet, unit: Arrays, report: Report) -> None:
  pixel = jnp.asarray(unit['mp_pixel'].transpose(1, 2, 0))
  boxes = jnp.asarray(unit['mp_boxes' if 'mp_boxes' in unit else 'boxes_px'])
  log_p = mask_log_probability(
    pixel,
    jnp.asarray(unit['mp_center']),
    jnp.asarray(unit['mp_margin']).reshape(len(boxes), -1),
    spatial_dims=golden.preset.spatial_dims,
  )
  grid = pixel.shape[:2]
  if 'grid_hw' in unit:
    report.compare('unit: mask probability', 'grid', grid, unit['grid_hw'])
  probability = np.exp(np.asarray(log_p))
  expected = unit['mp_out' if 'mp_out' in unit else 'mp_infer']
  size = jnp.array(grid, jnp.int32)
  if golden.preset.read_out == 'log_probability':
    window = window_mask(boxes, grid, size)
    inside = jnp.where(window, log_p, OUTSIDE_LOG_PROBABILITY)
    report.compare('unit: mask log-probability', 'mp_out', inside, expected)
  else:
    inside = np.where(box_mask(boxes, grid, size), probability, 0)
    report.compare('unit: mask probability', 'mp_out', inside, expected)
  if 'mp_train_prob' in unit:
    expected = unit['mp_train_prob']
  else:
    expected = unit['mp_train_prob_sub']
    probability = subsample(probability, _MASK_SAMPLE)
  report.compare('unit: mask probability', 'mp_train', probability, expected)
