"""The head: what every location proposes and every pixel embeds.

FCOS outputs (Tian et al., arXiv 1904.01355) plus the proposal embedding, the
proposal margin and the pixel embedding of EmbedMask (arXiv 1912.01954, with one
margin per dimension as in the IJCAI-21 version).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from embedmask_jax.models.layers import Conv, norm
from embedmask_jax.ops.locations import STRIDES, locations
from embedmask_jax.ops.precision import at_least_float32
from embedmask_jax.structures import Array, HeadOutputs

SPATIAL_DIMS = 2
# Coordinates enter the embeddings in units of this many network pixels.
POSITION_UNIT = 100
MARGIN_INPUT_DIVISOR = 32

small_normal = nn.initializers.normal(0.01)


class Tower(nn.Module):
  """A stack of 3x3 convolution, group norm and ReLU."""

  channels: int
  depth: int
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, size: Array) -> Array:
    for i in range(self.depth):
      x = Conv(
        self.channels, 3, dtype=self.dtype, kernel_init=small_normal, name=f'conv{i}'
      )(x, size)
      layer = norm('group', self.channels, name=f'norm{i}', dtype=self.dtype)
      x = nn.relu(layer(x, size, train=False))
    return x


class Head(nn.Module):
  """The head, shared over the levels.

  Attributes:
    num_classes: C.
    channels: width of the towers.
    depth: convolutions per tower.
    embedding_dim: D, of which the first two carry coordinates.
    prior_probability: initial class score of every location.
    dtype: compute dtype of towers, class logits, regression and centerness;
      embeddings and margins are float32.
  """

  num_classes: int
  channels: int = 256
  depth: int = 4
  embedding_dim: int = 16
  prior_probability: float = 0.01
  dtype: Any = jnp.float32

  def setup(self) -> None:
    tower = partial(Tower, self.channels, self.depth, self.dtype)
    self.class_tower = tower()
    self.box_tower = tower()
    self.mask_tower = tower()

    predict = partial(self._prediction, dtype=self.dtype)
    prior_bias = -math.log((1 - self.prior_probability) / self.prior_probability)
    self.class_logits = predict(self.num_classes, 'class_logits', prior_bias)
    self.box_regression = predict(4, 'box_regression')
    self.centerness = predict(1, 'centerness')

    # Embeddings are compared by their differences: bfloat16 would lose them.
    predict = partial(
      self._prediction, dtype=jnp.promote_types(self.dtype, jnp.float32)
    )
    free_dims = self.embedding_dim - SPATIAL_DIMS
    self.proposal_spatial_embedding = predict(
      SPATIAL_DIMS, 'proposal_spatial_embedding'
    )
    self.proposal_free_embedding = predict(free_dims, 'proposal_free_embedding')
    # A margin with which p falls to 1/2 at a distance of 2.
    margin_bias = math.log(-math.log(0.5) / 2**2)
    self.proposal_margin = predict(self.embedding_dim, 'proposal_margin', margin_bias)
    self.pixel_spatial_embedding = predict(SPATIAL_DIMS, 'pixel_spatial_embedding')
    self.pixel_free_embedding = predict(free_dims, 'pixel_free_embedding')

    ones = nn.initializers.ones
    self.box_scale = self.param('box_scale', ones, (len(STRIDES),))
    self.margin_scale = self.param('margin_scale', ones, (len(STRIDES),))
    self.position_scale = self.param('position_scale', ones, ())

  def _prediction(self, channels: int, name: str, bias: float = 0.0, *, dtype: Any):
    return Conv(
      channels,
      3,
      dtype=dtype,
      kernel_init=small_normal,
      bias_init=nn.initializers.constant(bias),
      name=name,
    )

  def __call__(
    self, pyramid: Sequence[Array], sizes: Sequence[Array], canvas: tuple[int, int]
  ) -> HeadOutputs:
    """Returns the outputs for all locations, see `HeadOutputs`.

    Args:
      pyramid: P3..P7, [B, rows, columns, channels].
      sizes: valid size of each level, int32 [B, 2].
      canvas: (H, W) of the network input.
    """
    counts = [f.shape[1] * f.shape[2] for f in pyramid]
    points = np.split(locations(canvas), np.cumsum(counts)[:-1])
    levels = [
      self._level(i, features, size, points[i])
      for i, (features, size) in enumerate(zip(pyramid, sizes, strict=True))
    ]
    outputs = {
      name: jnp.concatenate([level[name] for level in levels], axis=1)
      for name in levels[0]
    }
    return HeadOutputs(
      pixel_embedding=self._pixel_embedding(pyramid[0], sizes[0], points[0]), **outputs
    )

  def _level(
    self, index: int, features: Array, size: Array, points: np.ndarray
  ) -> dict[str, Array]:
    """Returns the proposals of one level, [B, rows * columns, ...]."""

    def flat(x: Array) -> Array:
      return at_least_float32(x.reshape(x.shape[0], -1, x.shape[-1]))

    class_features = self.class_tower(features, size)
    box_features = self.box_tower(features, size)
    class_logits = flat(self.class_logits(class_features, size))
    regression = flat(self.box_regression(box_features, size))
    centerness = flat(self.centerness(box_features, size))[..., 0]
    spatial = flat(self.proposal_spatial_embedding(box_features, size))
    free = flat(self.proposal_free_embedding(box_features, size))
    margin_features = at_least_float32(box_features) / MARGIN_INPUT_DIVISOR
    log_margin = flat(self.proposal_margin(margin_features, size))
    level_scale = jnp.ones(self.embedding_dim).at[:SPATIAL_DIMS]
    log_margin *= level_scale.set(self.margin_scale[index])
    return {
      'class_logits': class_logits,
      'box_regression': nn.relu(self.box_scale[index] * regression),
      'centerness': centerness,
      'proposal_embedding': self._add_position(spatial, free, points),
      'margin': jnp.exp(log_margin),
    }

  def _pixel_embedding(self, p3: Array, size: Array, points: np.ndarray) -> Array:
    features = self.mask_tower(p3, size)
    rows_columns = features.shape[1:3]
    return self._add_position(
      self.pixel_spatial_embedding(features, size),
      self.pixel_free_embedding(features, size),
      points.reshape(*rows_columns, 2),
    )

  def _add_position(self, spatial: Array, free: Array, points: np.ndarray) -> Array:
    position = self.position_scale * points.astype(np.float32) / POSITION_UNIT
    return jnp.concatenate([spatial + position, free], axis=-1)
