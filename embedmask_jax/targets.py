"""Ground truth -> what every location should predict.

FCOS assignment (arXiv 1904.01355) with centre sampling and the condition that
the location lies on the instance's mask.
"""

import jax
import jax.numpy as jnp
import numpy as np

from embedmask_jax.ops.bits import unpack_bits
from embedmask_jax.ops.boxes import box_area, distances_to_sides
from embedmask_jax.ops.locations import location_levels, location_strides, locations
from embedmask_jax.ops.valid_area import location_mask
from embedmask_jax.structures import Array, Batch, Targets

CENTRE_RADIUS = 1.5
# The largest distance to a side that each level P3..P7 regresses, ends included.
LEVEL_RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, np.inf))


def assign_targets(batch: Batch) -> Targets:
  """Returns the targets of every location, see `Targets`.

  A location is positive for an instance where it lies strictly inside the centre
  region (the box centre +- 1.5 strides, cut by the box), its largest distance to
  a side of the box is in the range of its level, and the instance's mask is on at
  its pixel. Of several instances the one with the smallest box area wins, the
  first on equal areas.

  Args:
    batch: with at least one padded instance.
  """
  canvas = (batch.images.shape[1], batch.images.shape[2])
  location_valid = location_mask(canvas, batch.valid_size)
  location_valid &= batch.example_valid[:, None]

  def per_image(
    boxes: Array, labels: Array, instance_valid: Array, packed: Array, valid: Array
  ) -> Targets:
    on_mask = unpack_bits(packed, valid.shape[0]).T
    candidates = on_mask & instance_valid[None, :] & valid[:, None]
    return _assign(canvas, boxes, labels, candidates, valid)

  return jax.vmap(per_image)(
    batch.boxes,
    batch.labels,
    batch.instance_valid,
    batch.location_masks,
    location_valid,
  )


def _assign(
  canvas: tuple[int, int],
  boxes: Array,
  labels: Array,
  candidates: Array,
  location_valid: Array,
) -> Targets:
  """Assigns one image's boxes [N, 4]; `candidates` is bool [P, N]."""
  points = locations(canvas)[:, None, :].astype(np.float32)
  distances = distances_to_sides(points, boxes[None])

  radius = CENTRE_RADIUS * location_strides(canvas)[:, None, None].astype(np.float32)
  centres = (boxes[None, :, :2] + boxes[None, :, 2:]) / 2
  region = jnp.concatenate(
    [
      jnp.maximum(centres - radius, boxes[None, :, :2]),
      jnp.minimum(centres + radius, boxes[None, :, 2:]),
    ],
    axis=-1,
  )
  in_centre = jnp.all(distances_to_sides(points, region) > 0, axis=-1)

  level_range = np.asarray(LEVEL_RANGES, np.float32)[location_levels(canvas)]
  largest = jnp.max(distances, axis=-1)
  in_range = (largest >= level_range[:, :1]) & (largest <= level_range[:, 1:])

  positive = candidates & in_centre & in_range
  area = jnp.where(positive, box_area(boxes)[None], jnp.inf)
  winner = jnp.argmin(area, axis=1)
  is_positive = jnp.any(positive, axis=1)

  matched = jnp.where(is_positive, winner, -1).astype(jnp.int32)
  regression = distances_to_sides(points[:, 0], boxes[winner])
  regression = jnp.where(is_positive[:, None], regression, 0)
  return Targets(
    labels=jnp.where(is_positive, labels[winner], -1).astype(jnp.int32),
    matched=matched,
    box_regression=regression,
    centerness=centerness_targets(regression),
    location_valid=location_valid,
  )


def centerness_targets(regression: Array) -> Array:
  """Returns sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), [...].

  Args:
    regression: [..., 4], distances to the sides; zeros give 0.
  """
  left, top, right, bottom = jnp.moveaxis(regression, -1, 0)
  widest, highest = jnp.maximum(left, right), jnp.maximum(top, bottom)
  inside = (widest > 0) & (highest > 0)
  horizontal = jnp.minimum(left, right) / jnp.where(inside, widest, 1)
  vertical = jnp.minimum(top, bottom) / jnp.where(inside, highest, 1)
  return jnp.sqrt(jnp.where(inside, horizontal * vertical, 0))
