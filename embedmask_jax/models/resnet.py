"""ResNet backbones (He et al., arXiv 1512.03385) that return C3, C4 and C5."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from embedmask_jax.models.layers import Conv, NormKind, norm
from embedmask_jax.models.rematerialisation import Remat, block, stage
from embedmask_jax.ops.valid_area import clear_outside
from embedmask_jax.structures import Array

# Blocks per stage, and whether they are bottlenecks.
ARCHITECTURES = {
  'resnet18': ((2, 2, 2, 2), False),
  'resnet34': ((3, 4, 6, 3), False),
  'resnet50': ((3, 4, 6, 3), True),
  'resnet101': ((3, 4, 23, 3), True),
}

he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class ResidualBlock(nn.Module):
  """A bottleneck (1x1, 3x3, 1x1) or basic (3x3, 3x3) block.

  Attributes:
    channels: width of the 3x3 convolutions; a bottleneck returns four times it.
    stride: 1 or 2.
    bottleneck: which of the two kinds.
    stride_in_1x1: the stride of a bottleneck sits on its first 1x1 convolution
      (MSRA) rather than on the 3x3 (torchvision).
    norm: kind of normalisation.
    dtype: compute dtype.
    axis_name: device axis for live batch norm.
  """

  channels: int
  stride: int
  bottleneck: bool
  stride_in_1x1: bool
  norm: NormKind
  dtype: Any
  axis_name: str | None

  @nn.compact
  def __call__(self, x: Array, size: Array, *, train: bool) -> tuple[Array, Array]:
    """Returns the features and their valid size."""
    make_conv = partial(Conv, bias=False, dtype=self.dtype, kernel_init=he_normal)
    make_norm = partial(norm, self.norm, dtype=self.dtype, axis_name=self.axis_name)
    if self.bottleneck:
      first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
      layers = [
        (self.channels, 1, first),
        (self.channels, 3, second),
        (4 * self.channels, 1, 1),
      ]
    else:
      layers = [(self.channels, 3, self.stride), (self.channels, 3, 1)]

    y, y_size = x, size
    for i, (channels, kernel, stride) in enumerate(layers, start=1):
      y = make_conv(channels, kernel, stride=stride, name=f'conv{i}')(y, y_size)
      y_size = y_size // stride
      y = make_norm(channels, name=f'norm{i}')(y, y_size, train=train)
      if i < len(layers):
        y = nn.relu(y)

    if x.shape != y.shape:
      shortcut = make_conv(y.shape[-1], 1, stride=self.stride, name='shortcut_conv')
      x = shortcut(x, size)
      x = make_norm(y.shape[-1], name='shortcut_norm')(x, y_size, train=train)
    return nn.relu(x + y), y_size


class ResNet(nn.Module):
  """The backbone up to stage 4.

  Attributes:
    architecture: a key of `ARCHITECTURES`.
    width: channels of the stem; 64 in the paper's networks.
    frozen_stages: how much gets no gradient: 0 nothing, 1 the stem, 2 the stem
      and stage 1, ... 5 everything.
    stride_in_1x1, norm, dtype, axis_name: see `ResidualBlock`.
    remat: see `rematerialisation.py`; what is frozen has no backward pass.
  """

  architecture: str = 'resnet50'
  width: int = 64
  stride_in_1x1: bool = True
  norm: NormKind = 'frozen_bn'
  frozen_stages: int = 2
  dtype: Any = jnp.float32
  axis_name: str | None = None
  remat: Remat = 'none'

  @nn.compact
  def __call__(self, images: Array, size: Array, *, train: bool) -> list[Array]:
    """Returns C3, C4, C5 (strides 8, 16, 32).

    Args:
      images: [B, H, W, 3], normalised.
      size: int32 [B, 2], valid size, multiples of 32.
      train: whether live batch norm uses the batch's own statistics.
    """
    x, size = Stem(self.width, self.norm, self.dtype, self.axis_name, name='stem')(
      images, size, train=train
    )
    if self.frozen_stages >= 1:
      x = jax.lax.stop_gradient(x)
    features = []
    depths, bottleneck = ARCHITECTURES[self.architecture]
    for number, depth in enumerate(depths, start=1):
      is_frozen = self.frozen_stages > number
      remat: Remat = 'none' if is_frozen else self.remat
      run = partial(
        run_stage,
        number=number,
        depth=depth,
        bottleneck=bottleneck,
        remat=remat,
        train=train,
      )
      x, size = stage(run, remat)(self, x, size)
      if is_frozen:
        x = jax.lax.stop_gradient(x)
      features.append(x)
    return features[1:]


def run_stage(
  backbone: ResNet,
  x: Array,
  size: Array,
  *,
  number: int,
  depth: int,
  bottleneck: bool,
  remat: Remat,
  train: bool,
) -> tuple[Array, Array]:
  """The `depth` blocks of stage `number`, as submodules of `backbone`."""
  for i in range(depth):

    def run(backbone: ResNet, x: Array, size: Array, i: int = i) -> tuple[Array, Array]:
      return ResidualBlock(
        channels=backbone.width * 2 ** (number - 1),
        stride=2 if i == 0 and number > 1 else 1,
        bottleneck=bottleneck,
        stride_in_1x1=backbone.stride_in_1x1,
        norm=backbone.norm,
        dtype=backbone.dtype,
        axis_name=backbone.axis_name,
        name=f'stage{number}_block{i}',
      )(x, size, train=train)

    x, size = block(run, remat)(backbone, x, size)
  return x, size


class Stem(nn.Module):
  """7x7 convolution and 3x3 max pooling, each with stride 2."""

  channels: int
  norm: NormKind
  dtype: Any
  axis_name: str | None

  @nn.compact
  def __call__(self, x: Array, size: Array, *, train: bool) -> tuple[Array, Array]:
    x = Conv(
      self.channels,
      7,
      stride=2,
      bias=False,
      dtype=self.dtype,
      kernel_init=he_normal,
      name='conv',
    )(x, size)
    size = size // 2
    layer = norm(
      self.norm,
      self.channels,
      name='norm',
      dtype=self.dtype,
      axis_name=self.axis_name,
    )
    x = clear_outside(nn.relu(layer(x, size, train=train)), size)
    return max_pool_half(x), size // 2


def max_pool_half(x: Array) -> Array:
  """Returns the 3x3 max pooling with stride 2, [B, rows / 2, columns / 2, channels].

  Written as maxima of shifted slices: their gradient costs a CPU a tenth of that of
  a windowed reduction.

  Args:
    x: [B, rows, columns, channels], not negative, so that zeros pad as -inf would;
      rows and columns are even.
  """
  for axis in (1, 2):
    padding = [(0, 0)] * x.ndim
    padding[axis] = (1, 0)
    before = jnp.pad(x, padding)
    length = x.shape[axis]
    first, second, third = (
      jax.lax.slice_in_dim(part, start, length, 2, axis)
      for part, start in ((before, 0), (x, 0), (x, 1))
    )
    x = jnp.maximum(jnp.maximum(first, second), third)
  return x
