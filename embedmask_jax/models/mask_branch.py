"""Features of pixels from several levels, and the classes of pixels beside them."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from embedmask_jax.models.fpn import kaiming_uniform
from embedmask_jax.models.layers import BatchNorm, Conv
from embedmask_jax.models.rematerialisation import Remat, block
from embedmask_jax.ops.precision import at_least_float32
from embedmask_jax.ops.resize import aligned_upsample
from embedmask_jax.structures import Array

# PyTorch's own: uniform within 1 / sqrt(fan in).
torch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class ConvBlock(nn.Module):
  """3x3 convolution, batch norm, ReLU."""

  channels: int
  dtype: Any
  axis_name: str | None
  has_frozen_norm: bool

  @nn.compact
  def __call__(self, x: Array, size: Array, *, train: bool) -> Array:
    x = Conv(
      self.channels,
      3,
      bias=False,
      dtype=self.dtype,
      kernel_init=kaiming_uniform,
      name='conv',
    )(x, size)
    norm = BatchNorm(
      self.axis_name, is_frozen=self.has_frozen_norm, dtype=self.dtype, name='norm'
    )
    return nn.relu(norm(x, size, train=train))


class MaskBranch(nn.Module):
  """P3, P4 and P5, each through a block, summed at stride 8, then a tower.

  Attributes:
    channels: of the result.
    depth: blocks of the tower.
    dtype: compute dtype.
    axis_name: device axis over which batch norm shares its statistics.
    has_frozen_norm: whether its batch norm is frozen, see `BatchNorm`.
    remat: see `rematerialisation.py`.
  """

  channels: int
  depth: int
  dtype: Any
  axis_name: str | None
  has_frozen_norm: bool
  remat: Remat

  @nn.compact
  def __call__(
    self, pyramid: Sequence[Array], sizes: Sequence[Array], *, train: bool
  ) -> Array:
    """Returns [B, H/8, W/8, channels].

    Args:
      pyramid: P3, P4, P5 and what comes after.
      sizes: valid size of each level, int32 [B, 2].
      train: whether batch norm uses the batch's own statistics.
    """

    def run(name: str, x: Array, size: Array) -> Array:
      def conv_block(branch: MaskBranch, x: Array, size: Array) -> Array:
        layer = ConvBlock(
          branch.channels,
          branch.dtype,
          branch.axis_name,
          branch.has_frozen_norm,
          name=name,
        )
        return layer(x, size, train=train)

      return block(conv_block, self.remat)(self, x, size)

    x = run('refine3', pyramid[0], sizes[0])
    for level in (1, 2):
      refined = run(f'refine{level + 3}', pyramid[level], sizes[level])
      x += aligned_upsample(refined, sizes[level], 2**level)
    for i in range(self.depth):
      x = run(f'block{i}', x, sizes[0])
    bound = 1 / math.sqrt(9 * self.channels)
    return Conv(
      self.channels,
      3,
      dtype=self.dtype,
      kernel_init=torch_uniform,
      bias_init=lambda *args: nn.initializers.uniform(2 * bound)(*args) - bound,
      name='output',
    )(x, sizes[0])


class SemanticHead(nn.Module):
  """Class logits of every cell of P3; only training has a use for them.

  Attributes:
    num_classes: C.
    channels: of its two blocks.
    prior_bias: initial logit.
    dtype: compute dtype.
    axis_name, has_frozen_norm: see `MaskBranch`.
  """

  num_classes: int
  channels: int
  prior_bias: float
  dtype: Any
  axis_name: str | None
  has_frozen_norm: bool

  @nn.compact
  def __call__(self, p3: Array, size: Array, *, train: bool) -> Array:
    """Returns [B, H/8, W/8, C]."""
    x = p3
    for i in range(2):
      layer = ConvBlock(
        self.channels,
        self.dtype,
        self.axis_name,
        self.has_frozen_norm,
        name=f'block{i}',
      )
      x = layer(x, size, train=train)
    logits = Conv(
      self.num_classes,
      1,
      dtype=self.dtype,
      kernel_init=torch_uniform,
      bias_init=nn.initializers.constant(self.prior_bias),
      name='logits',
    )(x, size)
    return at_least_float32(logits)
