"""Ground truth of golden records as a `Batch`."""

import numpy as np
from golden_rule import unpack_masks
from golden_set import Arrays, canvas_of
from synthetic import centroids

from embedmask_jax.ops.locations import locations
from embedmask_jax.structures import Batch


def batch_of(arrays: Arrays, images: np.ndarray | None = None) -> Batch:
  """The batch of a loss record; the valid area is the canvas, as in the original.

  Args:
    arrays: a `loss_*` record with boxes, labels and masks.
    images: uint8 [B, H, W, 3]; black where None.
  """
  canvas = canvas_of(arrays)
  sizes = arrays['image_sizes_hw'].astype(np.int32)
  instances = [
    (
      arrays[f'im{i}_boxes'],
      arrays[f'im{i}_labels'],
      unpack_masks(arrays[f'im{i}_masks'], tuple(size)),
      unpack_masks(arrays[f'im{i}_masks_s4'], (canvas[0] // 4, canvas[1] // 4)),
    )
    for i, size in enumerate(sizes)
  ]
  return make_batch(canvas, sizes, instances, images)


def make_batch(
  canvas: tuple[int, int],
  sizes: np.ndarray,
  instances: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
  images: np.ndarray | None = None,
) -> Batch:
  """Pads and packs ground truth.

  Args:
    canvas: (H, W).
    sizes: int32 [B, 2] of the images.
    instances: per image boxes [n, 4], labels [n] from 1, masks bool [n, h, w] at the
      image's size, and masks bool [n, H/4, W/4].
    images: uint8 [B, H, W, 3]; black where None.
  """
  batch, rows = len(sizes), max([1] + [len(labels) for _, labels, _, _ in instances])
  points = locations(canvas)
  height, width = canvas
  boxes = np.zeros((batch, rows, 4), np.float32)
  labels = np.zeros((batch, rows), np.int32)
  valid = np.zeros((batch, rows), bool)
  masks = np.zeros((batch, rows, height // 4, width // 4), bool)
  at_locations = np.zeros((batch, rows, len(points)), bool)
  area = np.zeros((batch, rows), np.int32)
  centroid = np.zeros((batch, rows, 2), np.float32)
  for i, (own_boxes, own_labels, own_masks, own_small_masks) in enumerate(instances):
    count = len(own_labels)
    boxes[i, :count] = own_boxes
    labels[i, :count] = own_labels - 1
    valid[i, :count] = True
    masks[i, :count] = own_small_masks
    at_locations[i, :count] = on_mask(own_masks, points)
    area[i, :count] = own_masks.sum(axis=(1, 2))
    centroid[i, :count] = centroids(own_masks)
  return Batch(
    images=np.zeros((batch, *canvas, 3), np.uint8) if images is None else images,
    image_size=sizes,
    valid_size=np.full_like(sizes, canvas),
    original_size=sizes,
    image_index=np.arange(batch, dtype=np.int32),
    example_valid=np.ones(batch, bool),
    boxes=boxes,
    labels=labels,
    instance_valid=valid,
    masks=np.packbits(masks, axis=-1),
    location_masks=np.packbits(at_locations, axis=-1),
    mask_area=area,
    mask_centroid=centroid,
  )


def on_mask(masks: np.ndarray, points: np.ndarray) -> np.ndarray:
  """bool [n, P] from masks [n, h, w]: on at (x, y) points, off outside."""
  rows, columns = masks.shape[1:]
  inside = (points[:, 0] < columns) & (points[:, 1] < rows)
  x, y = np.minimum(points, (columns - 1, rows - 1)).T
  return masks[:, y, x] & inside
