"""`HeadOutputs` -> `Detections` with masks at the size of the original image.

The one path of evaluation, prediction and export; static shapes throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from embedmask_jax.mask_readout import (
  mask_pixels,
  mask_stride,
  read_mask,
  resize_grid,
  resize_weights,
)
from embedmask_jax.ops.boxes import boxes_from_distances, clip_boxes
from embedmask_jax.ops.chunks import map_chunks
from embedmask_jax.ops.locations import level_shapes, location_strides, locations
from embedmask_jax.ops.nms import greedy_nms
from embedmask_jax.ops.valid_area import location_mask
from embedmask_jax.presets import Preset
from embedmask_jax.structures import Array, Detections, HeadOutputs

T = TypeVar('T')


@dataclass(frozen=True)
class DetectionSettings:
  """How detections are read off the head outputs.

  Attributes:
    score_threshold: a (location, class) pair needs a class score above it, or a
      class score times centerness where the preset's score is the root of that.
    pre_nms_top_k: pairs kept per level before NMS.
    nms_threshold: IoU above which a box of the same class is suppressed.
    max_detections: K, detections kept per image.
    mask_threshold: a pixel belongs to the mask where p is above it.
    mask_chunk: masks assembled at a time, which bounds the memory.
  """

  score_threshold: float = 0.05
  pre_nms_top_k: int = 1000
  nms_threshold: float = 0.6
  max_detections: int = 100
  mask_threshold: float = 0.53
  mask_chunk: int = 10


@struct.dataclass
class Proposals:
  """What NMS and the cap leave of the locations, best score first.

  Attributes:
    boxes: float32 [B, K, 4], network pixels, clipped to the image.
    scores: float32 [B, K], class score times centerness or the root of that; 0
      where not `valid`.
    labels: int32 [B, K].
    valid: bool [B, K].
    location: int32 [B, K].
    num_candidates: int32 [B], pairs above the score threshold.
    num_kept: int32 [B], what NMS left, before the cap.
  """

  boxes: Array
  scores: Array
  labels: Array
  valid: Array
  location: Array
  num_candidates: Array
  num_kept: Array


def detect(
  outputs: HeadOutputs,
  image_size: Array,
  valid_size: Array,
  original_size: Array,
  *,
  settings: DetectionSettings,
  preset: Preset,
  output_canvas: tuple[int, int],
  packs_masks: bool = True,
) -> Detections:
  """Returns the detections of a batch, see `Detections`.

  Args:
    outputs: of the network.
    image_size: int32 [B, 2], network pixels, without padding.
    valid_size: int32 [B, 2], network pixels, multiples of 32.
    original_size: int32 [B, 2], no side longer than the output canvas.
    settings: thresholds and caps.
    preset: how scores and masks are read.
    output_canvas: (Ho, Wo) of the masks; Wo is a multiple of 8 where they are packed.
    packs_masks: or the masks are bool [B, K, Ho, Wo].
  """
  found = select_proposals(
    outputs, image_size, valid_size, settings=settings, preset=preset
  )
  masks = assemble_masks(
    outputs,
    found,
    image_size,
    valid_size,
    original_size,
    settings=settings,
    preset=preset,
    output_canvas=output_canvas,
    packs_masks=packs_masks,
  )
  scale = (original_size / image_size)[:, None, ::-1]
  return Detections(
    boxes=found.boxes * jnp.concatenate([scale, scale], axis=-1),
    network_boxes=found.boxes,
    scores=found.scores,
    labels=found.labels,
    valid=found.valid,
    location=found.location,
    masks=masks,
    num_candidates=found.num_candidates,
    num_kept=found.num_kept,
  )


def select_proposals(
  outputs: HeadOutputs,
  image_size: Array,
  valid_size: Array,
  *,
  settings: DetectionSettings,
  preset: Preset,
) -> Proposals:
  """Returns the proposals that become detections.

  Per level the best (location, class) pairs above the threshold; over all levels
  class-aware greedy NMS; the best `max_detections` of what is left, less those of
  which nothing is inside the image. Equal scores are ordered by location, then class.

  Args: see `detect`.
  """
  rows, columns = outputs.pixel_embedding.shape[1:3]
  canvas = (8 * rows, 8 * columns)
  points = jnp.asarray(locations(canvas), jnp.float32)
  strides = jnp.asarray(location_strides(canvas), jnp.float32)[:, None]

  def per_image(
    logits: Array, centerness: Array, regression: Array, size: Array, in_area: Array
  ) -> Proposals:
    class_scores = jax.nn.sigmoid(logits)
    scores = class_scores * jax.nn.sigmoid(centerness)[:, None]
    has_root = preset.has_root_score
    decisive = scores if has_root else class_scores
    is_candidate = (decisive > settings.score_threshold) & in_area[:, None]
    scores = jnp.where(is_candidate, jnp.sqrt(scores) if has_root else scores, -1)
    score, location, label = _top_pairs(scores, canvas, settings)
    distances = regression[location] * strides[location]
    boxes = boxes_from_distances(points[location], distances)
    clipped = clip_boxes(boxes, size, extent=preset.box_extent)
    keep = greedy_nms(
      boxes if has_root else clipped,
      label,
      score > 0,
      threshold=settings.nms_threshold,
      extent=preset.box_extent,
    )
    boxes = clipped
    # The first that are kept; equal values keep their order.
    missing = max(settings.max_detections - keep.size, 0)
    kept = jnp.pad(keep, (0, missing)).astype(jnp.int32)
    kept, place = jax.lax.top_k(kept, settings.max_detections)
    valid = kept > 0
    sides = boxes[place, 2:] - boxes[place, :2] + preset.box_extent
    valid &= jnp.all(sides > 0, axis=-1)
    place = place[jnp.argsort(~valid, stable=True)]
    valid = jnp.sort(valid, descending=True)
    return Proposals(
      boxes=jnp.where(valid[:, None], boxes[place], 0),
      scores=jnp.where(valid, score[place], 0),
      labels=jnp.where(valid, label[place], 0),
      valid=valid,
      location=jnp.where(valid, location[place], 0),
      num_candidates=jnp.sum(is_candidate),
      num_kept=jnp.sum(keep),
    )

  images = (
    outputs.class_logits,
    outputs.centerness,
    outputs.box_regression,
    image_size,
    location_mask(canvas, valid_size),
  )
  if image_size.shape[0] == 1:
    return _one_image(lambda args: per_image(*args), images)
  return jax.vmap(per_image)(*images)


def _top_pairs(
  scores: Array, canvas: tuple[int, int], settings: DetectionSettings
) -> tuple[Array, Array, Array]:
  """Returns score, location and class of the best pairs, best first.

  Args:
    scores: float32 [P, C], negative for pairs that are no candidates.
    canvas: (H, W).
    settings: for the number of pairs per level.
  """
  num_classes = scores.shape[1]
  best: list[tuple[Array, Array, Array]] = []
  start = 0
  for rows, columns in level_shapes(canvas):
    level = scores[start : start + rows * columns]
    # The best k pairs lie at the k locations with the best pair each. Those are
    # put back into index order so that equal scores keep it.
    count = min(settings.pre_nms_top_k, rows * columns)
    chosen = jnp.sort(jax.lax.top_k(level.max(axis=1), count)[1])
    pairs = level[chosen].reshape(-1)
    score, index = jax.lax.top_k(pairs, min(settings.pre_nms_top_k, pairs.size))
    best.append((score, chosen[index // num_classes] + start, index % num_classes))
    start += rows * columns
  score, location, label = (
    jnp.concatenate(part).astype(dtype)
    for part, dtype in zip(
      zip(*best, strict=True), (scores.dtype, jnp.int32, jnp.int32), strict=True
    )
  )
  order = jnp.argsort(-score, stable=True)
  return score[order], location[order], label[order]


def assemble_masks(
  outputs: HeadOutputs,
  found: Proposals,
  image_size: Array,
  valid_size: Array,
  original_size: Array,
  *,
  settings: DetectionSettings,
  preset: Preset,
  output_canvas: tuple[int, int],
  packs_masks: bool = True,
) -> Array:
  """Returns the packed masks, uint8 [B, K, Ho, Wo/8], in original pixels.

  Or, where `packs_masks` is False, bool [B, K, Ho, Wo].

  What `read_mask` gives is resized bilinearly and thresholded (`resize_weights`); what
  lies beyond the original size is cut off.

  Args: see `detect`; `found` is what `select_proposals` returned.
  """
  pixels = mask_pixels(outputs.pixel_embedding, valid_size, preset)
  threshold = mask_threshold(settings, preset)
  stride = mask_stride(preset)

  def per_image(args: tuple) -> Array:
    pixel, outputs_embedding, outputs_margin, found, *sizes = args
    image, valid, original = sizes
    weights = resize_weights(
      pixel.shape[:2], output_canvas, image, valid, original, stride=stride
    )
    inside = _inside(output_canvas, original)

    def masks_of(args: tuple[Array, ...]) -> Array:
      boxes, location, is_valid = args
      grid = read_mask(
        pixel,
        outputs_embedding[location],
        outputs_margin[location],
        boxes,
        valid // 4,
        preset=preset,
      )
      masks = (resize_grid(grid, *weights) > threshold) & inside
      masks &= is_valid[:, None, None]
      return jnp.packbits(masks, axis=-1) if packs_masks else masks

    def no_masks(args: tuple[Array, ...]) -> Array:
      dtype, columns = (
        (jnp.uint8, output_canvas[1] // 8)
        if packs_masks
        else (jnp.bool_, output_canvas[1])
      )
      zeros = jnp.zeros_like(args[-1], dtype)[:, None, None]
      return jnp.tile(zeros, (1, output_canvas[0], columns))

    def chunk_masks(args: tuple[Array, ...]) -> Array:
      return jax.lax.cond(jnp.any(args[-1]), masks_of, no_masks, args)

    proposals = (found.boxes, found.location, found.valid)
    return map_chunks(chunk_masks, proposals, chunk=settings.mask_chunk)

  images = (
    pixels,
    outputs.proposal_embedding,
    outputs.margin,
    found,
    image_size,
    valid_size,
    original_size,
  )
  if image_size.shape[0] == 1:
    return _one_image(per_image, images)
  return jax.lax.map(per_image, images)


def _one_image(per_image: Callable[[tuple], T], images: tuple) -> T:
  """Does for a batch of one, without a loop, what a mapping does for more.

  A mapped loop becomes a selection of booleans, which ONNX Runtime does not have.
  """
  result = per_image(jax.tree.map(lambda x: x[0], images))
  return cast(T, jax.tree.map(lambda x: x[None], result))


def mask_threshold(settings: DetectionSettings, preset: Preset) -> float:
  """The threshold in the domain of `read_mask`."""
  if preset.read_out == 'log_probability':
    return float(np.log(settings.mask_threshold))
  return settings.mask_threshold


def _inside(canvas: tuple[int, int], size: Array) -> Array:
  """Returns bool [Ho, Wo], True inside the original image."""
  in_rows = jnp.arange(canvas[0]) < size[0]
  in_columns = jnp.arange(canvas[1]) < size[1]
  return in_rows[:, None] & in_columns[None, :]
