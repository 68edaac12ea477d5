"""Which proposals the mask loss learns from, of all that have an instance."""

import jax
import jax.numpy as jnp
from flax import struct

from embedmask_jax.ops.boxes import box_iou, boxes_from_distances
from embedmask_jax.ops.locations import location_strides, locations
from embedmask_jax.presets import Preset
from embedmask_jax.structures import Array, Batch, HeadOutputs, Targets

# A proposal of `mean` overlaps its instance by more.
MEAN_IOU = 0.5
# Proposals of `all` that are learnt from at a time.
MAX_DRAWN = 500


@struct.dataclass
class ProposalSamples:
  """K proposals of each image.

  Attributes:
    embedding: float32 [B, K, D].
    margin: float32 [B, K, M].
    instance: int32 [B, K], the instance whose mask each is to give.
    valid: bool [B, K].
    spread: float32 [B], squared distances of what was averaged to the means, summed
      over embeddings, margins and proposals; zeros where nothing was averaged.
  """

  embedding: Array
  margin: Array
  instance: Array
  valid: Array
  spread: Array


def sample_proposals(
  outputs: HeadOutputs,
  targets: Targets,
  batch: Batch,
  *,
  preset: Preset,
  key: Array | None = None,
) -> ProposalSamples:
  """Returns the samples that the preset asks for.

  One for each instance, K = N, or up to `MAX_DRAWN` of all images, drawn with `key`.
  """
  canvas = (batch.images.shape[1], batch.images.shape[2])
  if preset.proposals == 'best':
    chosen = choose_proposals(outputs.box_regression, targets, batch.boxes, canvas)
    return best_proposals(outputs, chosen)
  if preset.proposals == 'all':
    assert key is not None
    drawn = draw_positives(targets.matched >= 0, key, limit=MAX_DRAWN)
    return drawn_proposals(outputs, targets, drawn)
  selected = overlapping_proposals(
    outputs.box_regression,
    targets,
    batch.boxes,
    canvas,
    has_stride_slip=preset.has_stride_slip,
  )
  return mean_proposals(outputs, targets, selected, batch.boxes.shape[1])


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
    own = _own(matched, boxes.shape[0])
    best = jnp.argmax(jnp.where(own, iou[None], -1), axis=1)
    return jnp.where(jnp.any(own, axis=1), best, -1).astype(jnp.int32)

  return jax.vmap(per_image)(
    jax.lax.stop_gradient(box_regression), targets.matched, boxes
  )


def best_proposals(outputs: HeadOutputs, chosen: Array) -> ProposalSamples:
  """Returns the proposals of the chosen locations, int32 [B, N], -1 for none."""
  images = jnp.arange(len(chosen))[:, None]
  return ProposalSamples(
    embedding=outputs.proposal_embedding[images, chosen],
    margin=outputs.margin[images, chosen],
    instance=jnp.broadcast_to(jnp.arange(chosen.shape[1]), chosen.shape),
    valid=chosen >= 0,
    spread=jnp.zeros(len(chosen)),
  )


def overlapping_proposals(
  box_regression: Array,
  targets: Targets,
  boxes: Array,
  canvas: tuple[int, int],
  *,
  has_stride_slip: bool = False,
) -> Array:
  """Returns bool [B, P], the locations that are averaged for their instance.

  Those whose predicted box overlaps the instance's with an inclusive-pixel IoU above
  one half; where there is none, those of the instance's highest IoU.

  Args:
    box_regression, targets, boxes, canvas: see `choose_proposals`.
    has_stride_slip: take the regression for network pixels.
  """
  points = locations(canvas).astype(jnp.float32)
  units = 1 if has_stride_slip else location_strides(canvas)[:, None]

  def per_image(regression: Array, matched: Array, boxes: Array) -> Array:
    predicted = boxes_from_distances(points, regression * units)
    iou = box_iou(predicted, boxes[matched])
    own = _own(matched, boxes.shape[0])
    best = jnp.max(jnp.where(own, iou[None], -1), axis=1)
    return (matched >= 0) & ((iou > MEAN_IOU) | (iou == best[matched]))

  return jax.vmap(per_image)(
    jax.lax.stop_gradient(box_regression), targets.matched, boxes
  )


def mean_proposals(
  outputs: HeadOutputs, targets: Targets, selected: Array, num_instances: int
) -> ProposalSamples:
  """Returns the mean proposal of each instance's selected locations, bool [B, P]."""

  def per_image(
    embedding: Array, margin: Array, matched: Array, selected: Array
  ) -> ProposalSamples:
    members = (_own(matched, num_instances) & selected).astype(embedding.dtype)
    counts = jnp.sum(members, axis=1, keepdims=True)
    dims = embedding.shape[-1]
    proposals = jnp.concatenate([embedding, margin], axis=-1)
    sums = jnp.matmul(members, proposals, precision=jax.lax.Precision.HIGHEST)
    means = sums / jnp.maximum(counts, 1)
    deviations = jnp.where(selected[:, None], proposals - means[matched], 0)
    return ProposalSamples(
      embedding=means[:, :dims],
      margin=means[:, dims:],
      instance=jnp.arange(num_instances),
      valid=counts[:, 0] > 0,
      spread=jnp.sum(deviations**2),
    )

  return jax.vmap(per_image)(
    outputs.proposal_embedding, outputs.margin, targets.matched, selected
  )


def draw_positives(positive: Array, key: Array, *, limit: int) -> Array:
  """Returns bool [B, P], `limit` of the positive locations at random, or all of them.

  Args:
    positive: bool [B, P].
    key: decides which.
    limit: of all images together.
  """
  flat = positive.reshape(-1)
  rank = jnp.where(flat, jax.random.uniform(key, flat.shape), -1)
  best, place = jax.lax.top_k(rank, min(limit, flat.size))
  drawn = jnp.zeros_like(flat).at[place].set(best >= 0)
  return drawn.reshape(positive.shape)


def drawn_proposals(
  outputs: HeadOutputs, targets: Targets, drawn: Array
) -> ProposalSamples:
  """Returns the proposals of the drawn locations, bool [B, P], at most `MAX_DRAWN`."""
  size = min(MAX_DRAWN, drawn.shape[1])

  def per_image(
    embedding: Array, margin: Array, matched: Array, drawn: Array
  ) -> ProposalSamples:
    place = jnp.nonzero(drawn, size=size, fill_value=-1)[0]
    return ProposalSamples(
      embedding=embedding[place],
      margin=margin[place],
      instance=jnp.maximum(matched[place], 0),
      valid=place >= 0,
      spread=jnp.zeros(()),
    )

  return jax.vmap(per_image)(
    outputs.proposal_embedding, outputs.margin, targets.matched, drawn
  )


def _own(matched: Array, num_instances: int) -> Array:
  """Returns bool [N, P], whether a location [P] is matched to an instance."""
  return matched[None, :] == jnp.arange(num_instances)[:, None]
