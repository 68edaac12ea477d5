"""The arrays that travel between the parts of the program.

Axis letters, used in every docstring of the package:

  B images, H x W network canvas (multiples of 32), P locations of all levels
  P3..P7 (level after level, row-major), N padded instances, K detections,
  C classes, D embedding dimensions, M margin dimensions (D, or 1 where the
  margin is a scalar), Ho x Wo output canvas.

Frames: "network pixels" are pixels of the resized, padded input; "original
pixels" are pixels of the image as stored. Boxes are `xyxy` with the
inclusive-pixel convention (width = x2 - x1 + 1), but where the preset's `box_extent`
is 0 (width = x2 - x1). Sizes are `(height, width)`.
Masks are bit-packed along their last axis, most significant bit first
(`numpy.packbits`), so a mask row of width W takes W / 8 bytes.
"""

from typing import Any

from flax import struct

Array = Any  # numpy.ndarray on the host, jax.Array on the device.

# The device axis over which batches are split and sums are taken.
DATA_AXIS = 'data'


@struct.dataclass
class Batch:
  """Decoded, padded images with their ground truth.

  Attributes:
    images: uint8 [B, H, W, 3], RGB, zeros outside the image.
    image_size: int32 [B, 2], size of the resized image, without padding.
    valid_size: int32 [B, 2], `image_size` rounded up to multiples of 32: the
      area the network is to see, whatever the canvas.
    original_size: int32 [B, 2], size of the stored image.
    image_index: int32 [B], position of the image in its source; -1 where
      `example_valid` is False.
    example_valid: bool [B], False for rows that only fill the batch.
    boxes: float32 [B, N, 4], network pixels.
    labels: int32 [B, N], class index 0..C-1.
    instance_valid: bool [B, N].
    masks: uint8 [B, N, H/4, W/32], packed stride-4 masks: a cell is on where any
      of the four pixels around its centre is (see the preset's `mask_cell`).
    location_masks: uint8 [B, N, ceil(P/8)], packed: the instance's mask at the
      pixel of every location.
    mask_area: int32 [B, N], pixels of the instance's mask.
    mask_centroid: float32 [B, N, 2], mean (x, y) of those pixels; zeros where there
      are none.
  """

  images: Array
  image_size: Array
  valid_size: Array
  original_size: Array
  image_index: Array
  example_valid: Array
  boxes: Array
  labels: Array
  instance_valid: Array
  masks: Array
  location_masks: Array
  mask_area: Array
  mask_centroid: Array


@struct.dataclass
class HeadOutputs:
  """What the network says, float32.

  Attributes:
    class_logits: [B, P, C].
    box_regression: [B, P, 4], distances left, top, right, bottom from the
      location to the sides of the box, in units of the level's stride, >= 0.
    centerness: [B, P], logits.
    proposal_embedding: [B, P, D].
    margin: [B, P, M], positive.
    pixel_embedding: [B, H/8, W/8, D].
    semantic_logits: [B, H/8, W/8, C], class of every cell, where the preset has a
      semantic loss, in training; else None.
  """

  class_logits: Array
  box_regression: Array
  centerness: Array
  proposal_embedding: Array
  margin: Array
  pixel_embedding: Array
  semantic_logits: Array | None = None


@struct.dataclass
class Targets:
  """What every location should predict.

  Attributes:
    labels: int32 [B, P], class index, -1 for background.
    matched: int32 [B, P], instance index, -1 for background.
    box_regression: float32 [B, P, 4], distances to the sides of the matched box
      in network pixels (not stride units); zeros for background.
    centerness: float32 [B, P], zeros for background.
    location_valid: bool [B, P], False for locations in the padding and for all
      locations of images that only fill the batch.
    semantic: int32 [B, H/8, W/8], class index of the covering instance with the
      smallest mask, -1 where there is none; None without a semantic loss.
  """

  labels: Array
  matched: Array
  box_regression: Array
  centerness: Array
  location_valid: Array
  semantic: Array | None = None


@struct.dataclass
class Embeddings:
  """What the masks of `Detections` were read from, float32.

  Attributes:
    pixel: [B, H/8, W/8, D], of all pixels.
    proposal: [B, K, D], of the proposal that became each detection.
    margin: [B, K, M], positive.
  """

  pixel: Array
  proposal: Array
  margin: Array


@struct.dataclass
class Detections:
  """Final results for a batch, best score first.

  Attributes:
    boxes: float32 [B, K, 4], original pixels.
    network_boxes: float32 [B, K, 4], network pixels, clipped to the image.
    scores: float32 [B, K], descending; 0 where not `valid`.
    labels: int32 [B, K], class index 0..C-1.
    valid: bool [B, K].
    location: int32 [B, K], index of the location each came from (0..P-1).
    masks: uint8 [B, K, Ho, Wo/8], packed masks of the original image, zeros
      outside it and where not `valid`.
    num_candidates: int32 [B], (location, class) pairs above the score threshold.
    num_kept: int32 [B], what NMS left, before the cap of K.
  """

  boxes: Array
  network_boxes: Array
  scores: Array
  labels: Array
  valid: Array
  location: Array
  masks: Array
  num_candidates: Array
  num_kept: Array
