"""Box arithmetic: xyxy boxes with inclusive pixels, and side distances."""

import jax.numpy as jnp

from embedmask_jax.structures import Array


def box_area(boxes: Array) -> Array:
  """Returns the area [...] of boxes [..., 4], (x2 - x1 + 1)(y2 - y1 + 1)."""
  width = boxes[..., 2] - boxes[..., 0] + 1
  height = boxes[..., 3] - boxes[..., 1] + 1
  return width * height


def box_iou(a: Array, b: Array) -> Array:
  """Returns the inclusive-pixel IoU [...] of boxes that broadcast, [..., 4]."""
  top_left = jnp.maximum(a[..., :2], b[..., :2])
  bottom_right = jnp.minimum(a[..., 2:], b[..., 2:])
  sides = jnp.maximum(bottom_right - top_left + 1, 0)
  intersection = sides[..., 0] * sides[..., 1]
  return intersection / (box_area(a) + box_area(b) - intersection)


def clip_boxes(boxes: Array, size: Array) -> Array:
  """Clips boxes [..., 4] to [0, width - 1] x [0, height - 1].

  Args:
    boxes: float32 [..., 4].
    size: (height, width), [..., 2], broadcast against the boxes.
  """
  height, width = size[..., 0], size[..., 1]
  limit = jnp.stack([width, height, width, height], axis=-1) - 1
  return jnp.clip(boxes, 0, limit.astype(boxes.dtype))


def boxes_from_distances(points: Array, distances: Array) -> Array:
  """Returns boxes [..., 4] from points (x, y) and (left, top, right, bottom)."""
  return jnp.concatenate(
    [points - distances[..., :2], points + distances[..., 2:]], axis=-1
  )


def distances_to_sides(points: Array, boxes: Array) -> Array:
  """Returns (left, top, right, bottom) [..., 4] from points to the box sides."""
  return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)
