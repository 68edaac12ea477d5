"""Convolution and normalisation that do not see the padding.

Every layer takes the features [B, rows, columns, channels] together with the
valid size of each image on that map, int32 [B, 2], see `ops/valid_area.py`.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from embedmask_jax.ops.convolution import convolve
from embedmask_jax.ops.precision import at_least_float32
from embedmask_jax.ops.valid_area import area_mask, clear_outside
from embedmask_jax.structures import Array

small_normal = nn.initializers.normal(0.01)

NormKind = Literal['frozen_bn', 'group', 'batch']


class Conv(nn.Module):
  """Convolution with symmetric zero padding around each image's valid area.

  Attributes:
    channels: of the output.
    kernel: side of the kernel, odd.
    stride: the output has ceil(size / stride) valid cells a side.
    bias: whether there is one.
    dtype: of computation and output; parameters are float32.
    kernel_init, bias_init: initial values.
  """

  channels: int
  kernel: int
  kernel_init: Callable[..., Array]
  bias_init: Callable[..., Array] = nn.initializers.zeros
  stride: int = 1
  bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: Array, size: Array) -> Array:
    shape = (self.kernel, self.kernel, features.shape[-1], self.channels)
    kernel = self.param('kernel', self.kernel_init, shape)
    if self.kernel > 1:
      features = clear_outside(features, size)
    features = convolve(
      features.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride
    )
    if self.bias:
      bias = self.param('bias', self.bias_init, (self.channels,))
      features += bias.astype(self.dtype)
    return features


class FrozenBatchNorm(nn.Module):
  """A fixed affine map per channel, kept in the collection `batch_stats`.

  `y = x * scale * rsqrt(var) + (bias - mean * scale * rsqrt(var))`, without an
  epsilon, as the original's frozen batch norm.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: Array, size: Array, *, train: bool) -> Array:
    del size, train
    channels = features.shape[-1:]

    def buffer(name: str, value: float) -> Array:
      full = jnp.full(channels, value, jnp.float32)
      return self.variable('batch_stats', name, lambda: full).value

    scale = buffer('scale', 1) * jax.lax.rsqrt(buffer('var', 1))
    offset = buffer('bias', 0) - buffer('mean', 0) * scale
    return features * scale.astype(self.dtype) + offset.astype(self.dtype)


class GroupNorm(nn.Module):
  """Group norm (arXiv 1803.08494) with the statistics of the valid area.

  Flax's own takes a mask of the full feature shape and normalises groups in a
  reshaped layout; here sums run over channels as they lie and only the sums are
  grouped, which is what makes it cheap.
  """

  groups: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: Array, size: Array, *, train: bool) -> Array:
    del train
    channels = features.shape[-1]
    scale = self.param('scale', nn.initializers.ones, (channels,))
    bias = self.param('bias', nn.initializers.zeros, (channels,))
    group_size = channels // self.groups
    count = (size[:, 0] * size[:, 1] * group_size)[:, None]

    def group_mean(x: Array) -> Array:
      sums = jnp.sum(x, axis=(1, 2)).reshape(-1, self.groups, group_size).sum(-1)
      return jnp.repeat(sums / count, group_size, axis=-1)[:, None, None, :]

    x = at_least_float32(features)
    mask = area_mask(features.shape[1:3], size)[..., None]
    centred = jnp.where(mask, x - group_mean(jnp.where(mask, x, 0)), 0)
    inverse = jax.lax.rsqrt(group_mean(centred**2) + 1e-5)
    return (centred * (inverse * scale) + bias).astype(self.dtype)


class BatchNorm(nn.Module):
  """Batch norm (arXiv 1502.03167) over the valid areas of the whole global batch.

  Flax's own averages the devices' means; with valid areas of different sizes only
  sums and counts give the statistics of the whole. The running variance is the
  unbiased one.

  Attributes:
    axis_name: device axis over which statistics are shared.
    is_frozen: whether training, too, uses the running statistics, and changes neither
      them nor scale and bias (`optim.is_trained`).
    momentum: of the running statistics.
    dtype: of the result; statistics are float32 at least.
  """

  axis_name: str | None = None
  is_frozen: bool = False
  momentum: float = 0.9
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: Array, size: Array, *, train: bool) -> Array:
    channels = features.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, channels)
    bias = self.param('bias', nn.initializers.zeros, channels)
    zeros, ones = jnp.zeros(channels), jnp.ones(channels)
    running_mean = self.variable('batch_stats', 'mean', lambda: zeros)
    running_var = self.variable('batch_stats', 'var', lambda: ones)
    x = at_least_float32(features)
    mean, var = running_mean.value, running_var.value
    if self.is_frozen:
      scale, bias = jax.lax.stop_gradient((scale, bias))
    elif train:
      mask = area_mask(features.shape[1:3], size)[..., None]
      count = self._total(jnp.sum(mask, dtype=x.dtype))
      mean = self._total(jnp.sum(jnp.where(mask, x, 0), axis=(0, 1, 2))) / count
      squares = jnp.where(mask, x - mean, 0) ** 2
      var = self._total(jnp.sum(squares, axis=(0, 1, 2))) / count
      unbiased = var * count / jnp.maximum(count - 1, 1)
      for running, value in ((running_mean, mean), (running_var, unbiased)):
        running.value = self.momentum * running.value + (1 - self.momentum) * value
    return ((x - mean) * (jax.lax.rsqrt(var + 1e-5) * scale) + bias).astype(self.dtype)

  def _total(self, x: Array) -> Array:
    return x if self.axis_name is None else jax.lax.psum(x, self.axis_name)


def norm(
  kind: NormKind,
  channels: int,
  *,
  name: str,
  dtype: Any = jnp.float32,
  axis_name: str | None = None,
) -> nn.Module:
  """Returns the normalisation layer of a kind.

  Args:
    kind: `frozen_bn` (fixed, for pretrained backbones), `group` (at most 32
      groups) or `batch` (live statistics).
    channels: of the features.
    name: name of the layer in the parameter tree.
    dtype: dtype of the result; statistics are float32.
    axis_name: device axis over which `batch` shares its statistics.
  """
  if kind == 'frozen_bn':
    return FrozenBatchNorm(dtype=dtype, name=name)
  if kind == 'group':
    return GroupNorm(groups=math.gcd(32, channels), dtype=dtype, name=name)
  return BatchNorm(axis_name=axis_name, dtype=dtype, name=name)
