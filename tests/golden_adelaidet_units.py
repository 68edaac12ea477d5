"""The unit records of AdelaiDet's set: single functions, inputs and outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from golden_data import rasterised
from golden_rule import unpack_masks
from golden_set import Arrays, GoldenSet
from golden_table import Report
from synthetic import centroids

from embedmask_jax.losses import focal_loss, iou_loss
from embedmask_jax.models.layers import BatchNorm, FrozenBatchNorm
from embedmask_jax.ops.locations import locations
from embedmask_jax.ops.lovasz import logit_from_probability, lovasz_hinge
from embedmask_jax.ops.masks import mask_log_probability
from embedmask_jax.ops.nms import greedy_nms
from embedmask_jax.ops.resize import aligned_upsample, bilinear_weights
from embedmask_jax.presets import PRESETS
from embedmask_jax.targets import centerness_targets, in_centre_region

PRESET = PRESETS['adelaidet']
# Its pixels tie, so that the gradient is not unique.
_TIED = 'lov1'


def check_adelaidet_units(golden: GoldenSet, report: Report) -> None:
  """Every kind of record that `unit.npz` has."""
  if not golden.has('unit.npz'):
    return
  unit = golden.arrays('unit')
  for name in unit.names(r'ab\d+_x'):
    _aligned(unit, name.removesuffix('_x'), report)
  for name in unit.names(r'lov\d+_x'):
    _lovasz(unit, name.removesuffix('_x'), report)
  _resizing(unit, report)
  _boxes(unit, report)
  _jaccard(unit, report)
  _focal(unit, report)
  _mask_probability(unit, report)
  _rasteriser(unit, golden.json('unit_index')['poly_polygons'], report)
  _nms(unit, report)
  _batch_norm(unit, report)
  _frozen_batch_norm(unit, report)
  _centre_sampling(unit, report)


def _aligned(unit: Arrays, name: str, report: Report) -> None:
  x = jnp.asarray(unit[f'{name}_x'].transpose(0, 2, 3, 1))
  weights = unit[f'{name}_w'].transpose(0, 2, 3, 1)
  size = jnp.full((len(x), 2), jnp.array(x.shape[1:3]), jnp.int32)
  factor = int(unit[f'{name}_factor'])

  def enlarge(x):
    return aligned_upsample(x, size, factor)

  found = enlarge(x)
  expected = unit[f'{name}_y'].transpose(0, 2, 3, 1)
  report.compare('unit: aligned upsampling', name, found, expected)
  gradient = jax.grad(lambda x: jnp.sum(enlarge(x) * weights))(x)
  expected = unit[f'{name}_gx'].transpose(0, 2, 3, 1)
  report.compare('unit: aligned upsampling', f'{name} gradient', gradient, expected)


def _lovasz(unit: Arrays, name: str, report: Report) -> None:
  target = jnp.asarray(unit[f'{name}_t'] > 0)
  rows = len(target)

  def losses(p):
    bounds = {'minimum': PRESET.min_probability, 'maximum': PRESET.max_probability}
    logits = logit_from_probability(p, **bounds).reshape(rows, -1)
    return lovasz_hinge(logits, target.reshape(rows, -1))

  p = jnp.asarray(unit[f'{name}_x'])
  report.compare('unit: Lovasz loss', name, losses(p), unit[f'{name}_loss'])
  gradient = jax.grad(lambda p: losses(p).sum())(p)
  expected = unit[f'{name}_gx']
  if name != _TIED:
    report.compare('unit: Lovasz gradient', name, gradient, expected)


def _resizing(unit: Arrays, report: Report) -> None:
  """The last part of post-processing, from stride 4 to the original."""
  grids = jnp.moveaxis(jnp.asarray(unit['resize_x'][:, 0]), 0, -1)[None]
  size = jnp.array([grids.shape[1:3]], jnp.int32)
  whole = aligned_upsample(grids, size, 4)[0]
  crop = jnp.asarray(unit['resize_crop_hw'], jnp.int32)
  rows, columns = (
    bilinear_weights(whole.shape[i], int(side), crop[i], jnp.asarray(side))
    for i, side in enumerate(unit['resize_out_hw'])
  )
  found = jnp.einsum('yh,hwk,xw->kyx', rows, whole, columns)
  report.compare('unit: bilinear resizing', 'resize', found, unit['resize_y'])


def _boxes(unit: Arrays, report: Report) -> None:
  predicted, target = jnp.asarray(unit['iou_pred']), jnp.asarray(unit['iou_target'])
  weight = jnp.asarray(unit['iou_weight'])

  def each(predicted):
    return iou_loss(predicted, target, hull_epsilon=PRESET.hull_epsilon)

  linear = iou_loss(predicted, target, kind='linear_iou')

  def total(predicted):
    return jnp.sum(each(predicted) * weight)

  for quantity, record, found in (
    ('unit: IoU losses', 'iou_giou', 1 - each(predicted)),
    ('unit: IoU losses', 'iou_iou', 1 - linear),
    ('unit: IoU loss sums', 'iou_giou_loss', total(predicted)),
    ('unit: IoU loss gradients', 'iou_grad_pred', jax.grad(total)(predicted)),
  ):
    report.compare(quantity, record, found, unit[record])
  found = centerness_targets(jnp.asarray(unit['ctr_reg_targets']))
  report.compare('unit: centerness', 'ctr', found, unit['ctr_targets'])


def _jaccard(unit: Arrays, report: Report) -> None:
  """The weights are the gradients with respect to errors in descending order."""
  target = jnp.asarray(unit['lovasz_grad_in'] > 0)
  sign = jnp.where(target, 1, -1)
  errors = jnp.arange(target.size, 0, -1, dtype=jnp.float32)
  gradient = jax.grad(lambda x: lovasz_hinge(x, target).sum())((1 - errors) * sign)
  expected = unit['lovasz_grad_out']
  report.compare('unit: Jaccard weights', 'unit', -gradient * sign, expected)


def _focal(unit: Arrays, report: Report) -> None:
  """A row may have several classes here: each logit is a problem of its own."""
  logits = jnp.asarray(unit['focal_x'])[..., None]
  labels = jnp.asarray(np.where(unit['focal_t'] > 0, 0, -1))
  total = lambda x: focal_loss(x, labels).sum()  # noqa: E731
  report.compare('unit: focal sum', 'focal', total(logits), unit['focal_loss'])
  gradient = jax.grad(total)(logits)[..., 0]
  report.compare('unit: focal gradient', 'focal', gradient, unit['focal_gx'])


def _mask_probability(unit: Arrays, report: Report) -> None:
  pixels = jnp.asarray(unit['prob_pixel'].transpose(0, 2, 3, 1))
  size = jnp.array([pixels.shape[1:3]], jnp.int32)
  for n, image in enumerate(unit['prob_im_inds']):
    log_p = mask_log_probability(
      pixels[image],
      jnp.asarray(unit['prob_embed'][n : n + 1]),
      jnp.asarray(unit['prob_margin'][n : n + 1]),
      spatial_dims=PRESET.spatial_dims,
    )
    found = aligned_upsample(jnp.exp(log_p)[..., None], size, 2)[0, ..., 0]
    report.compare('unit: mask probability', f'prob {n}', found, unit['prob_out'][n])


def _rasteriser(unit: Arrays, polygons: list, report: Report) -> None:
  size = tuple(map(int, unit['poly_hw']))
  expected = unpack_masks(unit['poly_masks'], size)
  for i, (instance, mask) in enumerate(zip(polygons, expected, strict=True)):
    found = rasterised(instance, size, size, preset=PRESET)
    report.compare('unit: rasteriser', f'poly {i}', found, mask)
    area = unit['poly_area'][i]
    report.compare('unit: rasteriser', f'area {i}', found.sum(), area)


def _nms(unit: Arrays, report: Report) -> None:
  boxes, scores = unit['nms_boxes'], unit['nms_scores']
  order = np.argsort(-scores, kind='stable')
  keep = _kept(boxes[order], unit['nms_classes'][order])
  report.compare('unit: NMS', 'nms', order[keep], unit['nms_keep'])
  boxes = unit['nms3_boxes']
  keep = _kept(boxes, np.zeros(len(boxes), np.int32))
  report.compare('unit: NMS', 'nms3', np.flatnonzero(keep), unit['nms3_keep'])


def _kept(boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
  valid = jnp.ones(len(boxes), bool)
  boxes, labels = jnp.asarray(boxes), jnp.asarray(labels)
  extent = PRESET.box_extent
  return np.asarray(greedy_nms(boxes, labels, valid, threshold=0.6, extent=extent))


def _batch_norm(unit: Arrays, report: Report) -> None:
  """Weight, bias and running statistics as the set's README states them."""
  x = jnp.asarray(unit['bn_x'].transpose(0, 2, 3, 1))
  size = jnp.full((len(x), 2), jnp.array(x.shape[1:3]), jnp.int32)
  params = {'scale': jnp.array([0.5, 1.0, 2.0]), 'bias': jnp.array([0.0, 0.1, -0.2])}
  before = {'mean': jnp.array([0.1, 0.2, 0.3]), 'var': jnp.array([1.0, 2.0, 0.5])}
  found, state = BatchNorm().apply(
    {'params': params, 'batch_stats': before},
    x,
    size,
    train=True,
    mutable=['batch_stats'],
  )
  after = state['batch_stats']
  for name, value in (
    ('bn_y', found),
    ('bn_eval_y', BatchNorm().apply({'params': params, **state}, x, size, train=False)),
  ):
    expected = unit[name].transpose(0, 2, 3, 1)
    report.compare('unit: batch norm', name, value, expected)
  for theirs, ours in (('running_mean', 'mean'), ('running_var', 'var')):
    report.compare('unit: batch norm', theirs, after[ours], unit[f'bn_{theirs}'])


def _frozen_batch_norm(unit: Arrays, report: Report) -> None:
  """Ours has their epsilon in its variance."""
  x = jnp.asarray(unit['bn_x'].transpose(0, 2, 3, 1))
  buffers = {
    'scale': jnp.array([0.5, 1.0, 2.0]),
    'bias': jnp.array([0.0, 0.1, -0.2]),
    'mean': jnp.array([0.1, 0.2, 0.3]),
    'var': jnp.array([1.0, 2.0, 1e-6]) + 1e-5,
  }
  found = FrozenBatchNorm().apply({'batch_stats': buffers}, x, None, train=False)
  expected = unit['frozenbn_y'].transpose(0, 2, 3, 1)
  report.compare('unit: frozen batch norm', 'frozenbn_y', found, expected)


def _centre_sampling(unit: Arrays, report: Report) -> None:
  canvas = tuple(map(int, unit['cs_hw']))
  boxes = jnp.asarray(unit['cs_boxes'])
  report.compare(
    'targets: centre sampling', 'locations', locations(canvas), unit['cs_locations']
  )
  masks = unpack_masks(unit['cs_masks'], canvas)
  for name, centres in (
    ('centroid', jnp.asarray(centroids(masks))),
    ('boxcentre', (boxes[:, :2] + boxes[:, 2:]) / 2),
  ):
    found = in_centre_region(canvas, boxes, centres)
    report.compare('targets: centre sampling', name, found, unit[f'cs_inside_{name}'])
