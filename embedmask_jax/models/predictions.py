"""The 3x3 convolutions that end the head, those of the same features joined into one.

A convolution to a few channels costs about what one to many does: TPUs fill 128 lanes
for either. Parameters are those of separate convolutions, and lie among the head's.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from embedmask_jax.models.layers import Conv, small_normal
from embedmask_jax.models.margins import INITIAL_BIAS, TOWER_DIVISOR
from embedmask_jax.ops.convolution import convolve
from embedmask_jax.ops.precision import at_least_float32
from embedmask_jax.ops.valid_area import clear_outside
from embedmask_jax.structures import Array


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One of the joined convolutions.

  Attributes:
    name: of its parameters.
    channels: of its output.
    bias: initial value.
    divisor: of its input.
  """

  name: str
  channels: int
  bias: float = 0.0
  divisor: float = 1.0


class _Parameters(nn.Module):
  channels: int
  bias: float

  @nn.compact
  def __call__(self, inputs: int) -> tuple[Array, Array]:
    constant = nn.initializers.constant(self.bias)
    kernel = self.param('kernel', small_normal, (3, 3, inputs, self.channels))
    return kernel, self.param('bias', constant, (self.channels,))


def joint_conv(
  predictions: tuple[Prediction, ...], features: Array, size: Array, dtype: Any
) -> dict[str, Array]:
  """Returns the output of each prediction, [B, rows, columns, its channels], by name.

  To be called in a compact method, whose module gets the parameters.

  Args:
    predictions: what is predicted.
    features: [B, rows, columns, channels].
    size: valid size of the level, int32 [B, 2].
    dtype: of computation and outputs.
  """
  kernels, biases = [], []
  for prediction in predictions:
    layer = _Parameters(prediction.channels, prediction.bias, name=prediction.name)
    kernel, bias = layer(features.shape[-1])
    kernels.append(kernel / prediction.divisor)
    biases.append(bias)
  outputs = convolve(
    clear_outside(features, size).astype(dtype),
    jnp.concatenate(kernels, axis=-1).astype(dtype),
  )
  outputs += jnp.concatenate(biases).astype(dtype)
  ends = np.cumsum([prediction.channels for prediction in predictions])[:-1]
  parts = jnp.split(outputs, ends, axis=-1)
  return {p.name: part for p, part in zip(predictions, parts, strict=True)}


def embedding_predictions(
  of: str, dims: int, spatial_dims: int
) -> tuple[Prediction, ...]:
  """What an embedding is made of.

  Args:
    of: `proposal` or `pixel`.
    dims: D.
    spatial_dims: leading ones, to which positions are added, 2 or 0.
  """
  spatial = Prediction(f'{of}_spatial_embedding', spatial_dims)
  free = Prediction(f'{of}_free_embedding', dims - spatial_dims)
  return (spatial, free) if spatial_dims else (free,)


def embedding(predicted: dict[str, Array], of: str, position: Array) -> Array:
  """Returns the embedding [B, rows, columns, D] of a proposal or pixel.

  Args:
    predicted: what `joint_conv` returned.
    of: `proposal` or `pixel`.
    position: [rows, columns, 2].
  """
  free = predicted[f'{of}_free_embedding']
  spatial = predicted.get(f'{of}_spatial_embedding')
  if spatial is None:
    return free
  return jnp.concatenate([spatial + position, free], axis=-1)


class ProposalPredictions(nn.Module):
  """What the box tower predicts of a location.

  Attributes:
    embedding_dim: D.
    spatial_dims: see `embedding_predictions`.
    margin_dims: M; 0: the margin is not predicted.
    stem_channels: of a 1x1 convolution before the embedding, and of one before the
      margin; 0: there are none.
    dtype: of regression and centerness; all else is float32 at least.
  """

  embedding_dim: int
  spatial_dims: int
  margin_dims: int
  stem_channels: int
  dtype: Any

  @nn.compact
  def __call__(self, features: Array, size: Array) -> dict[str, Array]:
    """Returns what is predicted, [B, rows, columns, ...] by name.

    That is `box_regression`, `centerness`, the parts of the embedding and, where there
    is one to predict, `proposal_margin`.

    Args:
      features: of the box tower, [B, rows, columns, channels].
      size: valid size of the level, int32 [B, 2].
    """
    # Embeddings are compared by their differences: bfloat16 would lose them.
    embedding_dtype = jnp.promote_types(self.dtype, jnp.float32)
    box = (Prediction('box_regression', 4), Prediction('centerness', 1))
    proposal = embedding_predictions('proposal', self.embedding_dim, self.spatial_dims)
    margin: tuple[Prediction, ...] = ()
    if self.margin_dims:
      divisor = 1 if self.stem_channels else TOWER_DIVISOR
      margin = (Prediction('proposal_margin', self.margin_dims, INITIAL_BIAS, divisor),)

    def stem(of: str, features: Array) -> Array:
      layer = Conv(
        self.stem_channels,
        1,
        dtype=embedding_dtype,
        kernel_init=small_normal,
        name=f'proposal_{of}_stem',
      )
      return layer(features, size)

    if self.stem_channels:
      divided = at_least_float32(features) / TOWER_DIVISOR
      groups = [
        (features, box, self.dtype),
        (stem('embedding', features), proposal, embedding_dtype),
        (stem('margin', divided), margin, embedding_dtype),
      ]
    elif self.dtype == embedding_dtype:
      groups = [(features, box + proposal + margin, self.dtype)]
    else:
      groups = [
        (features, box, self.dtype),
        (features, proposal + margin, embedding_dtype),
      ]
    predicted: dict[str, Array] = {}
    for source, predictions, dtype in groups:
      predicted |= joint_conv(predictions, source, size, dtype)
    return predicted


class PixelEmbedding(nn.Module):
  """The embedding of every cell of P3, float32 at least.

  Attributes:
    dims, spatial_dims: see `embedding_predictions`.
    dtype: of the features.
  """

  dims: int
  spatial_dims: int
  dtype: Any

  @nn.compact
  def __call__(self, features: Array, size: Array, position: Array) -> Array:
    """Returns [B, H/8, W/8, D].

    Args:
      features: of the mask tower or branch.
      size: valid size of P3, int32 [B, 2].
      position: [H/8, W/8, 2].
    """
    predictions = embedding_predictions('pixel', self.dims, self.spatial_dims)
    dtype = jnp.promote_types(self.dtype, jnp.float32)
    return embedding(joint_conv(predictions, features, size, dtype), 'pixel', position)
