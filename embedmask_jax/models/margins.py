"""How far around a proposal's embedding its pixels may lie: the margin.

p(x) = exp(-margin * |pixel(x) - proposal|^2), so that a large margin is a narrow one.
The layers of a margin lie among those of the head.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from embedmask_jax.models.layers import Conv, small_normal
from embedmask_jax.ops.locations import STRIDES
from embedmask_jax.ops.precision import at_least_float32
from embedmask_jax.structures import Array

# A margin with which p falls to 1/2 at a distance of 2.
INITIAL_BIAS = math.log(-math.log(0.5) / 2**2)
TOWER_DIVISOR = 32
# Sides of boxes enter in units of this many network pixels.
BOX_UNIT = 800


class TowerMargin(nn.Module):
  """The exponential of a 3x3 convolution of the box tower.

  Attributes:
    dims: M.
    scaled_dims: leading ones whose exponent has a learnt factor for each level.
    stem_channels: of a 1x1 convolution before it; 0: there is none.
    dtype: of the convolution, float32 at least.
  """

  dims: int
  scaled_dims: int
  stem_channels: int
  dtype: Any

  @nn.compact
  def __call__(
    self, features: Array, regression: Array, size: Array, level: int
  ) -> Array:
    """Returns the margin [B, rows, columns, M].

    Args:
      features: of the box tower, [B, rows, columns, channels].
      regression: not used.
      size: valid size of the level, int32 [B, 2].
      level: index 0..4.
    """
    del regression
    features = at_least_float32(features) / TOWER_DIVISOR
    if self.stem_channels:
      features = stem('margin', self.stem_channels, self.dtype)(features, size)
    exponent = margin_conv(self.dims, 3, self.dtype)(features, size)
    if self.scaled_dims:
      scale = self.param('margin_scale', nn.initializers.ones, (len(STRIDES),))
      factors = jnp.ones(self.dims).at[: self.scaled_dims]
      exponent *= factors.set(scale[level])
    return jnp.exp(exponent)


class BoxMargin(nn.Module):
  """The exponential of a 1x1 convolution of the predicted box: a scalar.

  The box gets no gradient from it.
  """

  dtype: Any

  @nn.compact
  def __call__(
    self, features: Array, regression: Array, size: Array, level: int
  ) -> Array:
    """Returns the margin [B, rows, columns, 1].

    Args:
      features: not used.
      regression: distances to the sides in strides, [B, rows, columns, 4].
      size: valid size of the level, int32 [B, 2].
      level: index 0..4.
    """
    del features
    sides = jax.lax.stop_gradient(regression) * STRIDES[level] / BOX_UNIT
    return jnp.exp(margin_conv(1, 1, self.dtype)(sides, size))


def margin_conv(dims: int, kernel: int, dtype: Any) -> Conv:
  """Returns the convolution that gives the exponent."""
  return Conv(
    dims,
    kernel,
    dtype=dtype,
    kernel_init=small_normal,
    bias_init=nn.initializers.constant(INITIAL_BIAS),
    name='proposal_margin',
  )


def stem(of: str, channels: int, dtype: Any) -> Conv:
  """Returns the 1x1 convolution between the box tower and a part of the proposal."""
  return Conv(
    channels, 1, dtype=dtype, kernel_init=small_normal, name=f'proposal_{of}_stem'
  )
