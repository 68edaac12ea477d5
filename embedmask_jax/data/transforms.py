"""From an image record and a view to one row of a batch."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from embedmask_jax.data.decode import open_rgb
from embedmask_jax.data.image_source import ImageRecord
from embedmask_jax.data.masks import CELL, PackedMasks, pack_masks
from embedmask_jax.data.views import View
from embedmask_jax.ops.locations import level_shapes

Arrays = dict[str, np.ndarray]

_STRIP_BYTES = 1 << 19


def empty_batch(batch_size: int, canvas: tuple[int, int], num_instances: int) -> Arrays:
  """The fields of `structures.Batch`, with rows that only fill the batch.

  Args:
    batch_size: B.
    canvas: (H, W), multiples of 32.
    num_instances: N.
  """
  height, width = canvas
  num_locations = sum(rows * columns for rows, columns in level_shapes(canvas))
  lead = (batch_size, num_instances)
  return {
    'images': np.zeros((batch_size, height, width, 3), np.uint8),
    'image_size': np.zeros((batch_size, 2), np.int32),
    'valid_size': np.zeros((batch_size, 2), np.int32),
    'original_size': np.zeros((batch_size, 2), np.int32),
    'image_index': np.full(batch_size, -1, np.int32),
    'example_valid': np.zeros(batch_size, bool),
    'boxes': np.zeros((*lead, 4), np.float32),
    'labels': np.zeros(lead, np.int32),
    'instance_valid': np.zeros(lead, bool),
    'masks': np.zeros((*lead, height // CELL, width // CELL // 8), np.uint8),
    'location_masks': np.zeros((*lead, -(-num_locations // 8)), np.uint8),
    'mask_area': np.zeros(lead, np.int32),
    'mask_centroid': np.zeros((*lead, 2), np.float32),
  }


def fill_image(
  batch: Mapping[str, np.ndarray], row: int, image: Image.Image, view: View, index: int
) -> None:
  """Writes an image and its sizes into a row of a batch.

  Args:
    batch: as `empty_batch` makes it, with the view's canvas.
    row: 0..B-1.
    image: RGB.
    view: how to show the image.
    index: becomes `image_index`.
  """
  write_pixels(batch['images'][row], cut_out(image, view), view.is_flipped)
  batch['image_size'][row] = view.image_size
  batch['valid_size'][row] = view.valid_size
  batch['original_size'][row] = image.height, image.width
  batch['image_index'][row] = index
  batch['example_valid'][row] = True


def cut_out(image: Image.Image, view: View) -> Image.Image:
  """Resizes an image with Pillow's bilinear filter and cuts the view's window out.

  Only the window is computed, and not yet mirrored. Without a cut the result is bit
  for bit the resized image; with one, but for rounding.
  """
  top, left, height, width = view.window
  if view.is_flipped:
    left = view.resized[1] - left - width
  size = (view.resized[1], view.resized[0])
  if image.size == size:
    if (height, width) != view.resized:
      image = image.crop((left, top, left + width, top + height))
  elif (height, width) == view.resized:
    image = image.resize(size, Image.Resampling.BILINEAR)
  else:
    scale_x, scale_y = image.width / size[0], image.height / size[1]
    image = image.resize(
      (width, height),
      Image.Resampling.BILINEAR,
      box=(
        left * scale_x,
        top * scale_y,
        min((left + width) * scale_x, image.width),
        min((top + height) * scale_y, image.height),
      ),
    )
  return image


def write_pixels(target: np.ndarray, image: Image.Image, is_flipped: bool) -> None:
  """Copies an RGB image, mirrored if wanted, into the corner of uint8 [H, W, 3].

  In strips that stay in the cache: as a whole, Pillow hands pixels over by way of
  memory fresh from the system, which took a third of the time of an example.
  """
  rows = max(_STRIP_BYTES // (3 * image.width), 1)
  for top in range(0, image.height, rows):
    bottom = min(top + rows, image.height)
    strip = image.crop((0, top, image.width, bottom))
    if is_flipped:
      strip = strip.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    target[top:bottom, : image.width] = np.asarray(strip)


def show_boxes(
  boxes: np.ndarray, original_size: tuple[int, int], view: View
) -> tuple[np.ndarray, np.ndarray]:
  """Moves boxes along with an image.

  They are scaled by the sides' own ratios, mirrored (x -> width - extent - x) and
  clipped to the window, in float32 as the authors' code does.

  Args:
    boxes: float32 [n, 4], xyxy, original pixels.
    original_size: (height, width) of the stored image.
    view: how the image is shown.

  Returns:
    float32 [n, 4], xyxy, network pixels; and bool [n], False where a cut leaves
    nothing of a box, or not more than one row or column of inclusive pixels.
  """
  height, width = view.resized
  extent = view.preset.box_extent
  scale = np.asarray([width / original_size[1], height / original_size[0]], np.float32)
  moved = np.asarray(boxes, np.float32).reshape(-1, 4) * np.tile(scale, 2)
  if view.is_flipped:
    # In this order of operations, which decides the last bit.
    right, left = np.float32(width) - moved[:, [0, 2]].T - np.float32(extent)
    moved = np.stack([left, moved[:, 1], right, moved[:, 3]], axis=1)
  if not view.is_crop:
    return moved, np.ones(len(moved), bool)
  top, left, window_height, window_width = view.window
  moved -= np.asarray([left, top, left, top], np.float32)
  corner = np.asarray([window_width - extent, window_height - extent] * 2, np.float32)
  clipped = np.clip(moved, 0, corner)
  has_size = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
  return clipped, has_size | (clipped == moved).all(axis=1)


def fill_example(
  batch: Mapping[str, np.ndarray], row: int, record: ImageRecord, view: View, index: int
) -> None:
  """Decodes an image and writes it with its instances into a row of a batch.

  Of a random cut only those instances remain that have a pixel and a box in it.

  Args:
    batch: as `empty_batch` makes it, with the view's canvas and room for the
      instances.
    row: 0..B-1.
    record: the image file and its annotations.
    view: how to show the image.
    index: the image's position in its source.

  Raises:
    UserError: the image cannot be decoded.
  """
  size = (record.height, record.width)
  fill_image(batch, row, open_rgb(record.encoded, record.file_name, size), view, index)
  fill_instances(batch, row, record, view)


def fill_instances(
  batch: Mapping[str, np.ndarray], row: int, record: ImageRecord, view: View
) -> np.ndarray:
  """Writes the instances of an image into a row of a batch.

  Args:
    batch, row, record, view: see `fill_example`.

  Returns:
    bool [n], which of the record's instances remain, in their order.
  """
  size = (record.height, record.width)
  boxes, is_kept = show_boxes(record.boxes, size, view)
  candidates = np.flatnonzero(is_kept).tolist()
  masks = pack_masks([record.segmentations[i] for i in candidates], size, view)
  if view.is_crop:
    is_seen = masks.area > 0
    is_kept[candidates] = is_seen
    masks = PackedMasks(*(part[is_seen] for part in masks))
  write_instances(batch, row, boxes[is_kept], record.labels[is_kept], masks)
  return is_kept


def write_instances(
  batch: Mapping[str, np.ndarray],
  row: int,
  boxes: np.ndarray,
  labels: np.ndarray,
  masks: PackedMasks,
) -> None:
  """Writes n instances into a row of a batch that has none yet.

  Args:
    batch, row: see `fill_example`.
    boxes: float32 [n, 4], xyxy, network pixels.
    labels: int32 [n].
    masks: of n instances.
  """
  count = len(boxes)
  batch['boxes'][row, :count] = boxes
  batch['labels'][row, :count] = labels
  batch['instance_valid'][row, :count] = True
  batch['masks'][row, :count] = masks.cells
  batch['location_masks'][row, :count] = masks.at_locations
  batch['mask_area'][row, :count] = masks.area
  batch['mask_centroid'][row, :count] = masks.centroid
