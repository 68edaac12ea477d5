"""Ground truth -> what every location should predict.

FCOS assignment (arXiv 1904.01355) with centre sampling, and the condition that the
location lies on the instance's mask where the preset has it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from embedmask_jax.ops.bits import unpack_bits
from embedmask_jax.ops.boxes import box_area, distances_to_sides
from embedmask_jax.ops.locations import (
  level_shapes,
  location_levels,
  location_strides,
  locations,
)
from embedmask_jax.ops.valid_area import location_mask
from embedmask_jax.presets import Preset
from embedmask_jax.structures import Array, Batch, Targets

CENTRE_RADIUS = 1.5
# The largest distance to a side that each level P3..P7 regresses, ends included.
LEVEL_RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, np.inf))


def assign_targets(batch: Batch, preset: Preset) -> Targets:
  """Returns the targets of every location, see `Targets`.

  A location is positive for an instance where it lies strictly inside the centre
  region (the instance's centre +- 1.5 strides, cut by the box), its largest distance
  to a side of the box is in the range of its level, and, if it must, the instance's
  mask is on at its pixel. Of several instances the one with the smallest box area
  wins, the first on equal areas.

  Args:
    batch: with at least one padded instance.
    preset: where the centre is, and whether the mask counts.
  """
  canvas = (batch.images.shape[1], batch.images.shape[2])
  location_valid = location_mask(canvas, batch.valid_size)
  location_valid &= batch.example_valid[:, None]

  has_semantic = preset.pixels == 'mask_branch'

  def per_image(
    boxes: Array,
    labels: Array,
    instance_valid: Array,
    packed: Array,
    centroid: Array,
    area: Array,
    valid: Array,
  ) -> Targets:
    on_mask = unpack_bits(packed, valid.shape[0]).T & instance_valid[None, :]
    candidates = on_mask if preset.must_lie_on_mask else instance_valid[None, :]
    candidates &= valid[:, None]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 if preset.centre == 'box' else centroid
    targets = _assign(canvas, boxes, labels, centre, candidates, valid, preset)
    if not has_semantic:
      return targets
    rows, columns = level_shapes(canvas)[0]
    semantic = _smallest_mask(on_mask[: rows * columns], labels, area)
    return dataclasses.replace(targets, semantic=semantic.reshape(rows, columns))

  return jax.vmap(per_image)(
    batch.boxes,
    batch.labels,
    batch.instance_valid,
    batch.location_masks,
    batch.mask_centroid,
    batch.mask_area,
    location_valid,
  )


def _assign(
  canvas: tuple[int, int],
  boxes: Array,
  labels: Array,
  centres: Array,
  candidates: Array,
  location_valid: Array,
  preset: Preset,
) -> Targets:
  """Assigns one image's boxes [N, 4]; `candidates` is bool [P, N]."""
  points = locations(canvas)[:, None, :].astype(np.float32)
  distances = distances_to_sides(points, boxes[None])

  in_centre = in_centre_region(canvas, boxes, centres)
  level_range = np.asarray(LEVEL_RANGES, np.float32)[location_levels(canvas)]
  largest = jnp.max(distances, axis=-1)
  in_range = (largest >= level_range[:, :1]) & (largest <= level_range[:, 1:])

  positive = candidates & in_centre & in_range
  area = box_area(boxes, extent=preset.box_extent)
  area = jnp.where(positive, area[None], jnp.inf)
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


def in_centre_region(canvas: tuple[int, int], boxes: Array, centres: Array) -> Array:
  """Returns bool [P, N], whether a location is strictly inside the centre region.

  Args:
    canvas: (H, W).
    boxes: float32 [N, 4].
    centres: float32 [N, 2], (x, y) of the instances.
  """
  points = locations(canvas)[:, None, :].astype(np.float32)
  radius = CENTRE_RADIUS * location_strides(canvas)[:, None, None].astype(np.float32)
  region = jnp.concatenate(
    [
      jnp.maximum(centres[None] - radius, boxes[None, :, :2]),
      jnp.minimum(centres[None] + radius, boxes[None, :, 2:]),
    ],
    axis=-1,
  )
  return jnp.all(distances_to_sides(points, region) > 0, axis=-1)


def _smallest_mask(on_mask: Array, labels: Array, area: Array) -> Array:
  """Returns int32 [cells], the label of the smallest mask over each, -1 for none.

  The first wins on equal areas.

  Args:
    on_mask: bool [cells, N].
    labels: int32 [N].
    area: int32 [N], pixels of the whole masks.
  """
  largest = jnp.iinfo(area.dtype).max
  winner = jnp.argmin(jnp.where(on_mask, area[None], largest), axis=1)
  return jnp.where(jnp.any(on_mask, axis=1), labels[winner], -1)


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
