"""Predictions and targets -> the losses.

Every loss is a sum divided by a normaliser of the global batch, which is an
argument: summed over devices and accumulation steps, the parts are the whole.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from embedmask_jax.mask_loss import mask_loss_sums
from embedmask_jax.ops.locations import location_strides
from embedmask_jax.ops.valid_area import area_mask
from embedmask_jax.presets import Preset
from embedmask_jax.proposal_sampling import MAX_DRAWN, sample_proposals
from embedmask_jax.structures import Array, Batch, HeadOutputs, Targets

FOCAL_GAMMA = 2.0
FOCAL_ALPHA = 0.25


@struct.dataclass
class Normalisers:
  """What the losses are divided by, float32 scalars of the global batch.

  Attributes:
    num_positive: positive locations.
    centerness_sum: centerness targets, summed.
    num_images: images, those without instances included.
    num_drawn: positive locations that the mask loss takes where it takes all.
    num_semantic: cells with a class, for the semantic loss.
  """

  num_positive: Any
  centerness_sum: Any
  num_images: Any
  num_drawn: Any
  num_semantic: Any


def loss_names(preset: Preset) -> tuple[str, ...]:
  """The losses of a preset, whose sum is trained on."""
  names = ['class', 'box', 'centerness', 'mask']
  if preset.smooth_weight:
    names.append('smooth')
  if preset.pixels == 'mask_branch':
    names.append('semantic')
  return tuple(names)


def normalisers(batch: Batch, targets: Targets, *, parts: int = 1) -> Normalisers:
  """Returns this batch's share of the normalisers, to be summed over all shares.

  Args:
    batch: of one device.
    targets: of `assign_targets`.
    parts: that it is computed in; each draws its own proposals.
  """
  positive = (targets.matched >= 0).reshape(parts, -1)
  drawn = jnp.minimum(jnp.sum(positive, axis=1), MAX_DRAWN)
  semantic = -1 if targets.semantic is None else targets.semantic
  return Normalisers(
    num_positive=jnp.sum(targets.matched >= 0).astype(jnp.float32),
    centerness_sum=jnp.sum(targets.centerness),
    num_images=jnp.sum(batch.example_valid).astype(jnp.float32),
    num_drawn=jnp.sum(drawn).astype(jnp.float32),
    num_semantic=jnp.sum(jnp.asarray(semantic) >= 0).astype(jnp.float32),
  )


def compute_losses(
  outputs: HeadOutputs,
  targets: Targets,
  batch: Batch,
  total: Normalisers,
  *,
  preset: Preset,
  key: Array | None = None,
  mask_chunk: int = 8,
) -> dict[str, Array]:
  """Returns the losses by `loss_names`, float32 scalars.

  Args:
    outputs: of the network for `batch.images`.
    targets: of `assign_targets`.
    batch: the ground truth.
    total: normalisers of the global batch; counts are floored at 1.
    preset: which losses, and what they count.
    key: draws the proposals of the mask loss, where there are too many of all.
    mask_chunk: proposals whose mask loss is computed at a time.
  """
  canvas = (batch.images.shape[1], batch.images.shape[2])
  positive = targets.matched >= 0
  num_positive = jnp.maximum(total.num_positive, 1)

  class_loss = focal_loss(outputs.class_logits, targets.labels)
  class_loss = jnp.where(targets.location_valid[..., None], class_loss, 0)

  strides = location_strides(canvas)[:, None]
  box_loss = iou_loss(
    outputs.box_regression,
    targets.box_regression / strides,
    kind=preset.box_loss,
    hull_epsilon=preset.hull_epsilon,
  )
  box_loss = jnp.where(positive, box_loss * targets.centerness, 0)
  centerness_sum = jnp.where(total.centerness_sum > 0, total.centerness_sum, 1)

  centerness_loss = binary_cross_entropy(outputs.centerness, targets.centerness)
  centerness_loss = jnp.where(positive, centerness_loss, 0)

  samples = sample_proposals(outputs, targets, batch, preset=preset, key=key)
  mask_sums = mask_loss_sums(outputs, batch, samples, preset=preset, chunk=mask_chunk)
  num_instances = jnp.maximum(jnp.sum(batch.instance_valid, axis=1), 1)
  num_learnt = jnp.maximum(jnp.sum(samples.valid, axis=1), 1)
  if preset.proposals == 'all':
    mask_loss = jnp.sum(mask_sums) / jnp.maximum(total.num_drawn, 1)
  else:
    counts = num_instances if preset.counts_unmatched else num_learnt
    mask_loss = jnp.sum(mask_sums / counts) / total.num_images
  losses = {
    'class': jnp.sum(class_loss) / num_positive,
    'box': jnp.sum(box_loss) / centerness_sum,
    'centerness': jnp.sum(centerness_loss) / num_positive,
    'mask': preset.mask_weight * mask_loss,
  }
  if preset.smooth_weight:
    spread = jnp.sum(samples.spread / num_instances)
    losses['smooth'] = preset.smooth_weight * spread / total.num_images
  if targets.semantic is not None:
    semantic = focal_loss(outputs.semantic_logits, targets.semantic)
    in_area = area_mask(semantic.shape[1:3], batch.valid_size // 8)
    in_area &= batch.example_valid[:, None, None]
    semantic = jnp.sum(jnp.where(in_area[..., None], semantic, 0))
    losses['semantic'] = semantic / jnp.maximum(total.num_semantic, 1)
  return losses


def focal_loss(logits: Array, labels: Array) -> Array:
  """Returns the sigmoid focal loss (arXiv 1708.02002) of every logit.

  Args:
    logits: float32 [..., C].
    labels: int32 [...], -1 for background.
  """
  log_p = jax.nn.log_sigmoid(logits)
  log_not_p = jax.nn.log_sigmoid(-logits)
  p = jnp.exp(log_p)
  is_class = labels[..., None] == jnp.arange(logits.shape[-1])
  return jnp.where(
    is_class,
    -FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * log_p,
    -(1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * log_not_p,
  )


def iou_loss(
  predicted: Array,
  target: Array,
  *,
  kind: Literal['giou', 'iou', 'linear_iou'] = 'giou',
  hull_epsilon: float = 1e-7,
) -> Array:
  """Returns the loss [...] of boxes around one location.

  As the original: IoU is `(intersection + 1) / (union + 1)`.

  Args:
    predicted: float32 [..., 4], distances to the sides in strides, >= 0.
    target: alike.
    kind: `giou`, 1 - GIoU (arXiv 1902.09630); `iou`, -log IoU (arXiv 1608.01471);
      `linear_iou`, 1 - IoU.
    hull_epsilon: added to the area of the hull of GIoU.
  """

  def area(distances: Array) -> Array:
    return (distances[..., 0] + distances[..., 2]) * (
      distances[..., 1] + distances[..., 3]
    )

  intersection = area(jnp.minimum(predicted, target))
  union = area(predicted) + area(target) - intersection
  iou = (intersection + 1) / (union + 1)
  if kind == 'iou':
    return -jnp.log(iou)
  if kind == 'linear_iou':
    return 1 - iou
  hull = area(jnp.maximum(predicted, target)) + hull_epsilon
  hull = jnp.where(hull > 0, hull, 1)
  return 1 - (iou - (hull - union) / hull)


def binary_cross_entropy(logits: Array, targets: Array) -> Array:
  """Returns the cross entropy [...] of logits against targets in [0, 1]."""
  return jax.nn.softplus(logits) - logits * targets
