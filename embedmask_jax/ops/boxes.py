"""Box arithmetic: xyxy boxes and side distances.

`extent` is what a side adds to the difference of its coordinates: 1 where x2 is the
last pixel of the box, 0 where it is its edge.
"""

import jax.numpy as jnp

from embedmask_jax.structures import Array


def box_area(boxes: Array, *, extent: int = 1) -> Array:
  """Returns the area [...] of boxes [..., 4]."""
  width = boxes[..., 2] - boxes[..., 0] + extent
  height = boxes[..., 3] - boxes[..., 1] + extent
  return width * height


def box_iou(a: Array, b: Array, *, extent: int = 1) -> Array:
  """Returns the IoU [...] of boxes that broadcast, [..., 4]; two points give NaN."""
  top_left = jnp.maximum(a[..., :2], b[..., :2])
  bottom_right = jnp.minimum(a[..., 2:], b[..., 2:])
  sides = jnp.maximum(bottom_right - top_left + extent, 0)
  intersection = sides[..., 0] * sides[..., 1]
  areas = box_area(a, extent=extent) + box_area(b, extent=extent)
  return intersection / (areas - intersection)


def clip_boxes(boxes: Array, size: Array, *, extent: int = 1) -> Array:
  """Clips boxes [..., 4] to [0, width - extent] x [0, height - extent].

  Args:
    boxes: float32 [..., 4].
    size: (height, width), [..., 2], broadcast against the boxes.
  """
  height, width = size[..., 0], size[..., 1]
  limit = jnp.stack([width, height, width, height], axis=-1) - extent
  return jnp.clip(boxes, 0, limit.astype(boxes.dtype))


def boxes_from_distances(points: Array, distances: Array) -> Array:
  """Returns boxes [..., 4] from points (x, y) and (left, top, right, bottom)."""
  return jnp.concatenate(
    [points - distances[..., :2], points + distances[..., 2:]], axis=-1
  )


def distances_to_sides(points: Array, boxes: Array) -> Array:
  """Returns (left, top, right, bottom) [..., 4] from points to the box sides."""
  return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)
