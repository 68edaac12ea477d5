"""How far around a proposal's embedding its pixels may lie: the margin.

p(x) = exp(-margin * |pixel(x) - proposal|^2), so that a large margin is a narrow one.
The parameters of a margin lie among those of the head.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from embedmask_jax.models.layers import Conv, small_normal
from embedmask_jax.ops.locations import STRIDES
from embedmask_jax.structures import Array

# A margin with which p falls to 1/2 at a distance of 2.
INITIAL_BIAS = math.log(-math.log(0.5) / 2**2)
TOWER_DIVISOR = 32
# Sides of boxes enter in units of this many network pixels.
BOX_UNIT = 800


class TowerMargin(nn.Module):
  """The exponential of what a convolution of the box tower predicts.

  Attributes:
    scaled_dims: leading ones whose exponent has a learnt factor for each level.
  """

  scaled_dims: int

  @nn.compact
  def __call__(
    self, exponent: Array, regression: Array, size: Array, level: int
  ) -> Array:
    """Returns the margin [B, rows, columns, M].

    Args:
      exponent: before its factors, [B, rows, columns, M].
      regression: not used.
      size: not used.
      level: index 0..4.
    """
    del regression, size
    if self.scaled_dims:
      scale = self.param('margin_scale', nn.initializers.ones, (len(STRIDES),))
      factors = jnp.ones(exponent.shape[-1]).at[: self.scaled_dims]
      exponent *= factors.set(scale[level])
    return jnp.exp(exponent)


class BoxMargin(nn.Module):
  """The exponential of a 1x1 convolution of the predicted box: a scalar.

  The box gets no gradient from it.
  """

  @nn.compact
  def __call__(
    self, exponent: None, regression: Array, size: Array, level: int
  ) -> Array:
    """Returns the margin [B, rows, columns, 1].

    Args:
      exponent: not used; nothing predicts it.
      regression: distances to the sides in strides, [B, rows, columns, 4].
      size: valid size of the level, int32 [B, 2].
      level: index 0..4.
    """
    del exponent
    sides = jax.lax.stop_gradient(regression) * STRIDES[level] / BOX_UNIT
    conv = Conv(
      1,
      1,
      dtype=regression.dtype,
      kernel_init=small_normal,
      bias_init=nn.initializers.constant(INITIAL_BIAS),
      name='proposal_margin',
    )
    return jnp.exp(conv(sides, size))
