"""Padded images -> detections with full-resolution masks, in one program."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.postprocess import DetectionSettings, detect
from embedmask_jax.structures import (
  DATA_AXIS,
  Array,
  Batch,
  Detections,
  Embeddings,
  HeadOutputs,
)

# Sides of output canvases beyond the ladder are multiples of this many pixels.
OVERSIZE_STEP = 1024

Inference = Callable[[dict, Batch, tuple[int, int]], Detections]
EmbeddingInference = Callable[
  [dict, Batch, tuple[int, int]], tuple[Detections, Embeddings]
]


def make_inference(
  model: EmbedMask, settings: DetectionSettings, mesh: Mesh
) -> Inference:
  """Returns the compiled function (variables, batch, output canvas) -> detections.

  It uses the images and sizes of the batch, not its ground truth, and compiles once
  for each combination of network canvas, shape of the batch and output canvas.

  Args:
    model: the network; its preset says how masks are read.
    settings: thresholds and caps.
    mesh: with the axis `DATA_AXIS`; the batch is split over it.
  """

  def only_detections(outputs: HeadOutputs, detections: Detections) -> Detections:
    del outputs
    return detections

  return _compiled(model, settings, mesh, only_detections)


def make_embedding_inference(
  model: EmbedMask, settings: DetectionSettings, mesh: Mesh
) -> EmbeddingInference:
  """Returns the same function with the embeddings beside the detections.

  Args: see `make_inference`.
  """

  def with_embeddings(
    outputs: HeadOutputs, detections: Detections
  ) -> tuple[Detections, Embeddings]:
    def chosen(values: Array) -> Array:
      return jnp.take_along_axis(values, detections.location[..., None], axis=1)

    embeddings = Embeddings(
      pixel=outputs.pixel_embedding,
      proposal=chosen(outputs.proposal_embedding),
      margin=chosen(outputs.margin),
    )
    return detections, embeddings

  return _compiled(model, settings, mesh, with_embeddings)


def _compiled(
  model: EmbedMask,
  settings: DetectionSettings,
  mesh: Mesh,
  result: Callable[[HeadOutputs, Detections], Any],
) -> Callable[[dict, Batch, tuple[int, int]], Any]:
  """Maps network and detection over the mesh; `result` says what comes of them."""

  @partial(jax.jit, static_argnums=2)
  def inference(variables: dict, batch: Batch, output_canvas: tuple[int, int]) -> Any:
    def replica_inference(
      variables: dict, images: Array, sizes: Array, valid: Array, original: Array
    ) -> Any:
      seen = infer(
        model, settings, variables, images, sizes, valid, original, output_canvas
      )
      return result(*seen)

    return jax.shard_map(
      replica_inference,
      mesh=mesh,
      in_specs=(PartitionSpec(),) + (PartitionSpec(DATA_AXIS),) * 4,
      out_specs=PartitionSpec(DATA_AXIS),
    )(
      variables,
      batch.images,
      batch.image_size,
      batch.valid_size,
      batch.original_size,
    )

  return inference


def infer(
  model: EmbedMask,
  settings: DetectionSettings,
  variables: dict,
  images: Array,
  image_size: Array,
  valid_size: Array,
  original_size: Array,
  output_canvas: tuple[int, int],
  *,
  packs_masks: bool = True,
) -> tuple[HeadOutputs, Detections]:
  """Network and post-processing of a device's images; what all compiled programs run.

  Args:
    model, settings: see `make_inference`.
    variables: {'params', 'batch_stats'}.
    images, image_size, valid_size, original_size: see `Batch`.
    output_canvas, packs_masks: see `detect`.
  """
  outputs = cast(
    HeadOutputs, model.apply(variables, images, image_size, valid_size, train=False)
  )
  detections = detect(
    outputs,
    image_size,
    valid_size,
    original_size,
    settings=settings,
    preset=model.preset,
    output_canvas=output_canvas,
    packs_masks=packs_masks,
  )
  return outputs, detections


def output_canvas(
  original_sizes: np.ndarray, ladder: Sequence[tuple[int, int]]
) -> tuple[int, int]:
  """Returns the smallest canvas of the ladder that holds all original sizes.

  Where none does, the sides are rounded up to multiples of `OVERSIZE_STEP`: the
  route of large images, which compiles for each such size.

  Args:
    original_sizes: integers [..., 2], (height, width).
    ladder: (height, width) of the canvases; widths are multiples of 8.
  """
  height, width = np.asarray(original_sizes).reshape(-1, 2).max(axis=0)
  for rows, columns in sorted(ladder, key=lambda canvas: canvas[0] * canvas[1]):
    if height <= rows and width <= columns:
      return rows, columns

  def rounded(side: int) -> int:
    return int(-(-side // OVERSIZE_STEP) * OVERSIZE_STEP)

  return rounded(height), rounded(width)
