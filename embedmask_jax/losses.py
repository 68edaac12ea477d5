"""Predictions and targets -> the losses.

Every loss is a sum divided by a normaliser of the global batch, which is an
argument: summed over devices and accumulation steps, the parts are the whole.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from embedmask_jax.mask_loss import mask_loss_sums
from embedmask_jax.ops.locations import location_strides
from embedmask_jax.presets import Preset
from embedmask_jax.proposal_sampling import sample_proposals
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
  """

  num_positive: Any
  centerness_sum: Any
  num_images: Any


def loss_names(preset: Preset) -> tuple[str, ...]:
  """The losses of a preset, whose sum is trained on."""
  names = ('class', 'box', 'centerness', 'mask')
  return (*names, 'smooth') if preset.smooth_weight else names


def normalisers(batch: Batch, targets: Targets) -> Normalisers:
  """Returns this batch's share of the normalisers, to be summed over all parts."""
  return Normalisers(
    num_positive=jnp.sum(targets.matched >= 0).astype(jnp.float32),
    centerness_sum=jnp.sum(targets.centerness),
    num_images=jnp.sum(batch.example_valid).astype(jnp.float32),
  )


def compute_losses(
  outputs: HeadOutputs,
  targets: Targets,
  batch: Batch,
  total: Normalisers,
  *,
  preset: Preset,
  mask_chunk: int = 8,
) -> dict[str, Array]:
  """Returns the losses by `loss_names`, float32 scalars.

  Args:
    outputs: of the network for `batch.images`.
    targets: of `assign_targets`.
    batch: the ground truth.
    total: normalisers of the global batch; counts are floored at 1.
    preset: which losses, and what they count.
    mask_chunk: proposals whose mask loss is computed at a time.
  """
  canvas = (batch.images.shape[1], batch.images.shape[2])
  positive = targets.matched >= 0
  num_positive = jnp.maximum(total.num_positive, 1)

  class_loss = focal_loss(outputs.class_logits, targets.labels)
  class_loss = jnp.where(targets.location_valid[..., None], class_loss, 0)

  strides = location_strides(canvas)[:, None]
  box_loss = giou_loss(outputs.box_regression, targets.box_regression / strides)
  box_loss = jnp.where(positive, box_loss * targets.centerness, 0)
  centerness_sum = jnp.where(total.centerness_sum > 0, total.centerness_sum, 1)

  centerness_loss = binary_cross_entropy(outputs.centerness, targets.centerness)
  centerness_loss = jnp.where(positive, centerness_loss, 0)

  samples = sample_proposals(outputs, targets, batch, preset=preset)
  mask_sums = mask_loss_sums(outputs, batch, samples, preset=preset, chunk=mask_chunk)
  num_instances = jnp.maximum(jnp.sum(batch.instance_valid, axis=1), 1)
  num_learnt = jnp.maximum(jnp.sum(samples.valid, axis=1), 1)
  mask_losses = mask_sums / (num_instances if preset.counts_unmatched else num_learnt)
  losses = {
    'class': jnp.sum(class_loss) / num_positive,
    'box': jnp.sum(box_loss) / centerness_sum,
    'centerness': jnp.sum(centerness_loss) / num_positive,
    'mask': preset.mask_weight * jnp.sum(mask_losses) / total.num_images,
  }
  if preset.smooth_weight:
    spread = jnp.sum(samples.spread / num_instances)
    losses['smooth'] = preset.smooth_weight * spread / total.num_images
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


def giou_loss(predicted: Array, target: Array) -> Array:
  """Returns 1 - GIoU (arXiv 1902.09630), [...], of boxes around one location.

  As the original: IoU is `(intersection + 1) / (union + 1)` and the hull carries
  an epsilon of 1e-7.

  Args:
    predicted: float32 [..., 4], distances to the sides in strides, >= 0.
    target: alike.
  """

  def area(distances: Array) -> Array:
    return (distances[..., 0] + distances[..., 2]) * (
      distances[..., 1] + distances[..., 3]
    )

  intersection = area(jnp.minimum(predicted, target))
  union = area(predicted) + area(target) - intersection
  hull = area(jnp.maximum(predicted, target)) + 1e-7
  giou = (intersection + 1) / (union + 1) - (hull - union) / hull
  return 1 - giou


def binary_cross_entropy(logits: Array, targets: Array) -> Array:
  """Returns the cross entropy [...] of logits against targets in [0, 1]."""
  return jax.nn.softplus(logits) - logits * targets
