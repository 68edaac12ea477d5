"""The head: what every location proposes and every pixel embeds.

FCOS outputs (Tian et al., arXiv 1904.01355) plus the proposal embedding, the
proposal margin and the pixel embedding of EmbedMask (arXiv 1912.01954; its later
versions add coordinates, and one margin per dimension).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from embedmask_jax.models.layers import Conv, norm, small_normal
from embedmask_jax.models.margins import BoxMargin, TowerMargin
from embedmask_jax.models.mask_branch import MaskBranch, SemanticHead
from embedmask_jax.models.predictions import (
  PixelEmbedding,
  ProposalPredictions,
  embedding,
)
from embedmask_jax.models.rematerialisation import Remat, block, stage
from embedmask_jax.ops.locations import STRIDES, locations
from embedmask_jax.ops.precision import at_least_float32
from embedmask_jax.presets import Preset
from embedmask_jax.structures import Array, HeadOutputs

# Coordinates enter the embeddings in units of this many network pixels.
POSITION_UNIT = 100


class Tower(nn.Module):
  """A stack of 3x3 convolution, group norm and ReLU."""

  channels: int
  depth: int
  dtype: Any
  remat: Remat

  @nn.compact
  def __call__(self, x: Array, size: Array) -> Array:
    for i in range(self.depth):

      def run(tower: Tower, x: Array, size: Array, i: int = i) -> Array:
        x = Conv(
          tower.channels,
          3,
          dtype=tower.dtype,
          kernel_init=small_normal,
          name=f'conv{i}',
        )(x, size)
        layer = norm('group', tower.channels, name=f'norm{i}', dtype=tower.dtype)
        return nn.relu(layer(x, size, train=False))

      x = block(run, self.remat)(self, x, size)
    return x


class Head(nn.Module):
  """The head, shared over the levels.

  Attributes:
    preset: how proposals and pixels are embedded.
    num_classes: C.
    channels: width of the towers; half of it, that of stems and mask branch.
    depth: convolutions per tower.
    embedding_dim: D.
    prior_probability: initial class score of every location.
    dtype: compute dtype of towers, class logits, regression and centerness;
      embeddings and margins are float32.
    axis_name: device axis over which batch norm shares its statistics.
    has_frozen_mask_norm: whether the batch norm of the mask branch is frozen.
    remat: see `rematerialisation.py`.
  """

  preset: Preset
  num_classes: int
  channels: int = 256
  depth: int = 4
  embedding_dim: int = 16
  prior_probability: float = 0.01
  dtype: Any = jnp.float32
  axis_name: str | None = None
  has_frozen_mask_norm: bool = False
  remat: Remat = 'none'

  def setup(self) -> None:
    tower = partial(Tower, self.channels, self.depth, self.dtype, self.remat)
    self.class_tower = tower()
    self.box_tower = tower()
    narrow = self.channels // 2
    if self.preset.pixels == 'mask_tower':
      self.mask_tower = tower()
    else:
      common = {
        'channels': narrow,
        'dtype': self.dtype,
        'axis_name': self.axis_name,
        'has_frozen_norm': self.has_frozen_mask_norm,
      }
      self.mask_branch = MaskBranch(depth=self.depth, remat=self.remat, **common)
      self.semantic_head = SemanticHead(
        num_classes=self.num_classes, prior_bias=self._prior_bias, **common
      )

    self.class_logits = Conv(
      self.num_classes,
      3,
      dtype=self.dtype,
      kernel_init=small_normal,
      bias_init=nn.initializers.constant(self._prior_bias),
    )
    preset, spatial_dims = self.preset, self.preset.spatial_dims
    margin_dims = {'per_dimension': self.embedding_dim, 'scalar': 1, 'from_box': 0}
    self.proposal_predictions = ProposalPredictions(
      embedding_dim=self.embedding_dim,
      spatial_dims=spatial_dims,
      margin_dims=margin_dims[preset.margin],
      stem_channels=narrow if preset.has_stems else 0,
      dtype=self.dtype,
    )
    self.pixel_embedding = PixelEmbedding(self.embedding_dim, spatial_dims, self.dtype)
    margins: dict[str, nn.Module] = {
      'per_dimension': TowerMargin(spatial_dims, parent=None),
      'scalar': TowerMargin(0, parent=None),
      'from_box': BoxMargin(parent=None),
    }
    self.margin = margins[preset.margin]
    for part in (self.proposal_predictions, self.pixel_embedding, self.margin):
      nn.share_scope(self, part)

    ones = nn.initializers.ones
    self.box_scale = self.param('box_scale', ones, (len(STRIDES),))
    self.position_scale = (
      self.param('position_scale', ones, ()) if self.preset.has_position_scale else 1.0
    )

  @property
  def _prior_bias(self) -> float:
    return -math.log((1 - self.prior_probability) / self.prior_probability)

  def __call__(
    self,
    pyramid: Sequence[Array],
    sizes: Sequence[Array],
    canvas: tuple[int, int],
    *,
    train: bool,
  ) -> HeadOutputs:
    """Returns the outputs for all locations, see `HeadOutputs`.

    Args:
      pyramid: P3..P7, [B, rows, columns, channels].
      sizes: valid size of each level, int32 [B, 2].
      canvas: (H, W) of the network input.
      train: whether batch norm uses the batch's own statistics, and semantic logits
        are wanted.
    """
    counts = [f.shape[1] * f.shape[2] for f in pyramid]
    points = np.split(locations(canvas), np.cumsum(counts)[:-1])
    levels = [
      stage(partial(Head._level, index=i, points=points[i]), self.remat)(
        self, features, size
      )
      for i, (features, size) in enumerate(zip(pyramid, sizes, strict=True))
    ]
    outputs = {
      name: jnp.concatenate([level[name] for level in levels], axis=1)
      for name in levels[0]
    }
    semantic_logits = None
    if self.preset.pixels == 'mask_tower':
      features = self.mask_tower(pyramid[0], sizes[0])
    else:
      features = self.mask_branch(pyramid, sizes, train=train)
      if train or self.is_initializing():
        semantic_logits = self.semantic_head(pyramid[0], sizes[0], train=train)
    position = self._position(pyramid[0], points[0])
    return HeadOutputs(
      pixel_embedding=self.pixel_embedding(features, sizes[0], position),
      semantic_logits=semantic_logits,
      **outputs,
    )

  def _level(
    self, features: Array, size: Array, *, index: int, points: np.ndarray
  ) -> dict[str, Array]:
    """Returns the proposals of one level, [B, rows * columns, ...]."""

    def flat(x: Array) -> Array:
      return at_least_float32(x.reshape(x.shape[0], -1, x.shape[-1]))

    class_features = self.class_tower(features, size)
    box_features = self.box_tower(features, size)
    predicted = self.proposal_predictions(box_features, size)
    regression = at_least_float32(predicted['box_regression'])
    regression = nn.relu(self.box_scale[index] * regression)
    position = self._position(features, points)
    exponent = predicted.get('proposal_margin')
    return {
      'class_logits': flat(self.class_logits(class_features, size)),
      'box_regression': flat(regression),
      'centerness': flat(predicted['centerness'])[..., 0],
      'proposal_embedding': flat(embedding(predicted, 'proposal', position)),
      'margin': flat(self.margin(exponent, regression, size, index)),
    }

  def _position(self, features: Array, points: np.ndarray) -> Array:
    """Returns what is added to spatial dimensions, [rows, columns, 2]."""
    points = points.reshape(*features.shape[1:3], 2)
    return self.position_scale * points.astype(np.float32) / POSITION_UNIT
