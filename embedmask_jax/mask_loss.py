"""The mask loss: Lovász hinge between the masks of proposals and of instances."""

from functools import partial

import jax
import jax.numpy as jnp

from embedmask_jax.ops.bits import unpack_bits
from embedmask_jax.ops.chunks import map_chunks
from embedmask_jax.ops.lovasz import (
  logit_from_log_probability,
  logit_from_probability,
  lovasz_hinge,
)
from embedmask_jax.ops.masks import crop_mask, mask_log_probability
from embedmask_jax.ops.resize import aligned_upsample, double_size
from embedmask_jax.ops.valid_area import area_mask
from embedmask_jax.presets import Preset
from embedmask_jax.proposal_sampling import ProposalSamples
from embedmask_jax.structures import Array, Batch, HeadOutputs


def mask_loss_sums(
  outputs: HeadOutputs,
  batch: Batch,
  samples: ProposalSamples,
  *,
  preset: Preset,
  chunk: int,
) -> Array:
  """Returns float32 [B], the Lovász hinge of each image's valid samples, summed.

  What counts is the stride-4 grid of the valid area, or of it the cells around the
  instance's box.

  Args:
    outputs: of the network.
    batch: the ground truth.
    samples: whose masks are compared.
    preset: what is upsampled, which cells count, and the bounds of p.
    chunk: samples computed at a time, which bounds the memory.
  """
  pixels = outputs.pixel_embedding
  if preset.upsampled == 'embedding':
    pixels = double_size(pixels, batch.valid_size // 8)
  rows, columns = batch.images.shape[1] // 4, batch.images.shape[2] // 4
  grid_size = batch.valid_size // 4
  in_grid = area_mask((rows, columns), grid_size)
  losses_of = partial(_sample_losses, preset=preset, chunk=chunk)

  def per_image(args: tuple[Array, ...]) -> Array:
    return jnp.sum(jnp.where(args[-1], losses_of(*args), 0))

  return jax.lax.map(
    per_image,
    (
      pixels,
      in_grid,
      grid_size,
      batch.masks,
      batch.boxes,
      samples.embedding,
      samples.margin,
      samples.instance,
      samples.valid,
    ),
  )


def _sample_losses(
  pixel: Array,
  in_grid: Array,
  grid_size: Array,
  masks: Array,
  boxes: Array,
  embedding: Array,
  margin: Array,
  instance: Array,
  valid: Array,
  *,
  preset: Preset,
  chunk: int,
) -> Array:
  """Returns [K], the loss of each sample of an image, chunk after chunk.

  Chunks in which no sample is valid, mostly padding, are skipped. The forward values
  of a chunk are computed again in the backward pass, so that the memory is that of
  one chunk.
  """
  rows, columns = in_grid.shape

  def chunk_losses(args: tuple[Array, ...]) -> Array:
    embedding, margin, instance = args
    log_p = mask_log_probability(
      pixel, embedding, margin, spatial_dims=preset.spatial_dims
    )
    bounds = {'minimum': preset.min_probability, 'maximum': preset.max_probability}
    if preset.upsampled == 'embedding':
      logits = logit_from_log_probability(log_p, **bounds)
    else:
      coarse = jnp.moveaxis(jnp.exp(log_p), 0, -1)[None]
      fine = aligned_upsample(coarse, grid_size[None] // 2, 2)[0]
      logits = logit_from_probability(jnp.moveaxis(fine, -1, 0), **bounds)
    counted = in_grid
    if preset.crop_growth is not None:
      counted &= crop_mask(
        boxes[instance], in_grid.shape, grid_size, growth=preset.crop_growth
      )

    def flat(grid: Array) -> Array:
      return grid.reshape(*grid.shape[:-2], rows * columns)

    targets = unpack_bits(masks[instance], columns)
    return lovasz_hinge(flat(logits), flat(targets), flat(counted))

  # Outside of the condition, whose branches would keep copies of what they read.
  @jax.checkpoint
  def map_chunk(args: tuple[Array, ...]) -> Array:
    *arrays, valid = args
    zeros = jnp.zeros_like(arrays[0][:, 0])
    return jax.lax.cond(jnp.any(valid), chunk_losses, lambda _: zeros, tuple(arrays))

  return map_chunks(map_chunk, (embedding, margin, instance, valid), chunk=chunk)
