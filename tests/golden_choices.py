"""Where a run parts from the recorded one: another location stands for an instance.

The mask loss learns from the location whose predicted box overlaps the instance most.
So does that of `2019_released`, but for ties and for locations above an IoU of one
half, which its boxes, 8 to 128 times too small, hardly ever reach. Two locations may be
as good as each other within the noise of a trajectory; which one is taken then changes
the loss by far more than that noise, and all steps after it.
"""

from functools import cache

import jax
import numpy as np
from golden_table import over

from embedmask_jax.losses import compute_losses, normalisers
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.ops.boxes import box_iou, boxes_from_distances
from embedmask_jax.ops.locations import location_strides, locations
from embedmask_jax.structures import Batch, HeadOutputs, Targets
from embedmask_jax.targets import assign_targets


def other_choice(
  model: EmbedMask,
  variables: dict,
  batch: Batch,
  *,
  expected: float,
  tolerance: float,
  noise: float,
) -> str | None:
  """Says which choice explains a recorded mask loss, or None if no single one does.

  Every instance whose best two locations are closer than the noise is tried with the
  second one; one of these must give the recorded loss.

  Args:
    model: the network.
    variables: before the step in question.
    batch: of the step.
    expected: the recorded mask loss.
    tolerance: how far from it a loss may be.
    noise: of the box loss, relative to it. That is a mean over all positive locations;
      of n that vary on their own, each varies sqrt(n) times as much, and its IoU does.
  """
  if not (model.preset.proposals == 'best' or model.preset.has_stride_slip):
    return None
  outputs, targets = _outputs_and_targets(model)(variables, batch)
  regression = outputs.box_regression
  noise = noise * np.sqrt(np.sum(np.asarray(targets.matched) >= 0)) + 1e-3
  for image, matched in enumerate(np.asarray(targets.matched)):
    overlaps = _overlaps(model, regression, matched, batch, image)
    for instance in np.unique(matched[matched >= 0]):
      own = np.flatnonzero(matched == instance)
      own = own[np.argsort(-overlaps[own])]
      if len(own) < 2:
        continue
      iou, gap = overlaps[own[0]], overlaps[own[0]] - overlaps[own[1]]
      if gap > noise * iou:
        continue
      # A box without extent overlaps nothing, so that the second one is taken.
      changed = outputs.replace(box_regression=regression.at[image, own[0]].set(0))
      loss = float(_mask_loss(model)(changed, targets, batch))
      if over(abs(loss - expected), tolerance) <= 1:
        return (
          f'image {image}, instance {instance}: IoU {iou:.4f}, next {gap:.1e} below'
        )
  return None


def _overlaps(
  model: EmbedMask,
  regression: jax.Array,
  matched: np.ndarray,
  batch: Batch,
  image: int,
) -> np.ndarray:
  """IoU [P] of the boxes of an image's locations with the instances they have."""
  canvas = (batch.images.shape[1], batch.images.shape[2])
  units = 1 if model.preset.has_stride_slip else location_strides(canvas)[:, None]
  predicted = boxes_from_distances(
    locations(canvas), np.asarray(regression[image]) * units
  )
  return np.asarray(box_iou(predicted, np.asarray(batch.boxes)[image][matched]))


@cache
def _outputs_and_targets(model: EmbedMask):
  local = model.clone(axis_name=None)

  @jax.jit
  def run(variables: dict, batch: Batch) -> tuple[HeadOutputs, Targets]:
    inputs = (batch.images, batch.image_size, batch.valid_size)
    outputs, _ = local.apply(variables, *inputs, train=True, mutable=['batch_stats'])
    return outputs, assign_targets(batch, model.preset)

  return run


@cache
def _mask_loss(model: EmbedMask):
  @jax.jit
  def loss(outputs: HeadOutputs, targets: Targets, batch: Batch) -> jax.Array:
    total = normalisers(batch, targets)
    return compute_losses(outputs, targets, batch, total, preset=model.preset)['mask']

  return loss
