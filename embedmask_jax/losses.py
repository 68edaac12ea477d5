"""Predictions and targets -> the four losses.

Every loss is a sum divided by a normaliser of the global batch, which is an
argument: summed over devices and accumulation steps, the parts are the whole.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from embedmask_jax.ops.bits import unpack_bits
from embedmask_jax.ops.boxes import box_iou, boxes_from_distances
from embedmask_jax.ops.locations import location_strides, locations
from embedmask_jax.ops.lovasz import logit_from_log_probability, lovasz_hinge
from embedmask_jax.ops.masks import mask_log_probability
from embedmask_jax.ops.resize import double_size
from embedmask_jax.ops.valid_area import area_mask
from embedmask_jax.structures import Array, Batch, HeadOutputs, Targets

LOSS_NAMES = ('class', 'box', 'centerness', 'mask')
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
  spatial_dims: int,
  mask_loss_weight: float = 0.5,
  mask_chunk: int = 8,
) -> dict[str, Array]:
  """Returns the losses `class`, `box`, `centerness` and `mask`, float32 scalars.

  Args:
    outputs: of the network for `batch.images`.
    targets: of `assign_targets`.
    batch: the ground truth.
    total: normalisers of the global batch; counts are floored at 1.
    spatial_dims: leading embedding dimensions that carry coordinates.
    mask_loss_weight: factor of the mask loss.
    mask_chunk: instances whose mask loss is computed at a time.
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

  chosen = choose_proposals(outputs.box_regression, targets, batch.boxes, canvas)
  mask_losses = mask_loss(
    outputs, batch, chosen, spatial_dims=spatial_dims, chunk=mask_chunk
  )
  return {
    'class': jnp.sum(class_loss) / num_positive,
    'box': jnp.sum(box_loss) / centerness_sum,
    'centerness': jnp.sum(centerness_loss) / num_positive,
    'mask': mask_loss_weight * jnp.sum(mask_losses) / total.num_images,
  }


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


def choose_proposals(
  box_regression: Array, targets: Targets, boxes: Array, canvas: tuple[int, int]
) -> Array:
  """Returns int32 [B, N], the location that stands for each instance, or -1.

  Of an instance's positive locations it is the one whose predicted box overlaps
  the instance's box most (inclusive-pixel IoU), the first on ties.

  Args:
    box_regression: float32 [B, P, 4], in strides.
    targets: of `assign_targets`.
    boxes: float32 [B, N, 4].
    canvas: (H, W).
  """
  points = locations(canvas).astype(jnp.float32)
  strides = location_strides(canvas)[:, None].astype(jnp.float32)

  def per_image(regression: Array, matched: Array, boxes: Array) -> Array:
    predicted = boxes_from_distances(points, regression * strides)
    iou = box_iou(predicted, boxes[matched])
    own = matched[None, :] == jnp.arange(boxes.shape[0])[:, None]
    best = jnp.argmax(jnp.where(own, iou[None], -1), axis=1)
    return jnp.where(jnp.any(own, axis=1), best, -1).astype(jnp.int32)

  choose = jax.vmap(per_image)(
    jax.lax.stop_gradient(box_regression), targets.matched, boxes
  )
  return choose


def mask_loss(
  outputs: HeadOutputs, batch: Batch, chosen: Array, *, spatial_dims: int, chunk: int
) -> Array:
  """Returns float32 [B], the mean Lovász hinge over each image's instances.

  The mean is over the instances that have a chosen location; an image without
  any gives 0. The whole stride-4 grid of the valid area counts.

  Args:
    outputs: of the network.
    batch: the ground truth.
    chosen: of `choose_proposals`.
    spatial_dims: see `compute_losses`.
    chunk: instances computed at a time, which bounds the memory.
  """
  pixels = double_size(outputs.pixel_embedding, batch.valid_size // 8)
  grid_mask = area_mask(pixels.shape[1:3], batch.valid_size // 4)
  per_instance = partial(_instance_mask_losses, spatial_dims=spatial_dims, chunk=chunk)

  def per_image(args: tuple[Array, ...]) -> Array:
    pixel, in_grid, embedding, margin, masks, chosen = args
    has_location = chosen >= 0
    losses = per_instance(
      pixel, in_grid, embedding[chosen], margin[chosen], masks, has_location
    )
    count = jnp.maximum(jnp.sum(has_location), 1)
    return jnp.sum(jnp.where(has_location, losses, 0)) / count

  return jax.lax.map(
    per_image,
    (
      pixels,
      grid_mask,
      outputs.proposal_embedding,
      outputs.margin,
      batch.masks,
      chosen,
    ),
  )


def _instance_mask_losses(
  pixel: Array,
  in_grid: Array,
  embedding: Array,
  margin: Array,
  masks: Array,
  has_location: Array,
  *,
  spatial_dims: int,
  chunk: int,
) -> Array:
  """Returns [N], the loss of each instance of an image, chunk after chunk.

  Chunks in which no instance has a location, mostly padding, are skipped. The
  forward values of a chunk are computed again in the backward pass, so that the
  memory is that of one chunk.
  """
  rows, columns, _ = pixel.shape
  count = embedding.shape[0]
  chunk = min(chunk, count)

  @jax.checkpoint
  def chunk_losses(args: tuple[Array, ...]) -> Array:
    embedding, margin, masks = args
    log_p = mask_log_probability(pixel, embedding, margin, spatial_dims=spatial_dims)
    logits = logit_from_log_probability(log_p).reshape(-1, rows * columns)
    targets = unpack_bits(masks, columns).reshape(-1, rows * columns)
    return lovasz_hinge(logits, targets, in_grid.reshape(-1))

  def map_chunk(args: tuple[Array, ...]) -> Array:
    *arrays, has_location = args
    zeros = jnp.zeros_like(arrays[0][:, 0])
    return jax.lax.cond(
      jnp.any(has_location), chunk_losses, lambda _: zeros, tuple(arrays)
    )

  def chunked(x: Array) -> Array:
    padding = [(0, -count % chunk)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding).reshape(-1, chunk, *x.shape[1:])

  losses = jax.lax.map(
    map_chunk, tuple(map(chunked, (embedding, margin, masks, has_location)))
  )
  return losses.reshape(-1)[:count]
