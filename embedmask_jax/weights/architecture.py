"""The sizes that decide which tensors a ResNet-FPN EmbedMask has."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.models.resnet import ARCHITECTURES

STEM = 'stem'

# What the caffe2 ImageNet weights expect, and with them the authors' checkpoints.
MSRA_SETTINGS: dict[str, Any] = {
  'stride_in_1x1': True,
  'norm': 'frozen_bn',
  'pixel_mean': (102.9801, 115.9465, 122.7717),
  'pixel_std': (1.0, 1.0, 1.0),
}

_PIXEL_MEANS = {'adelaidet': (103.53, 116.28, 123.675)}
_STAGES = 4
_OUR_BLOCK = r'stage(\d)_block(\d+)'


def msra_settings(preset: str) -> dict[str, Any]:
  """`MSRA_SETTINGS` with the mean that the authors' code of a preset takes off."""
  mean = _PIXEL_MEANS.get(preset, MSRA_SETTINGS['pixel_mean'])
  return {**MSRA_SETTINGS, 'pixel_mean': mean}


@dataclasses.dataclass(frozen=True)
class Backbone:
  """A residual network.

  Attributes:
    blocks: number of blocks of stages 1..4.
    bottleneck: True for blocks of 1x1, 3x3, 1x1 convolutions (R-50, R-101), False
      for two 3x3 (R-18, R-34).
    width: channels of the stem; stage k has `width * 2^(k-1)` inside its blocks.
  """

  blocks: tuple[int, int, int, int]
  bottleneck: bool
  width: int = 64

  def tensors(self) -> Iterable['BlockTensor']:
    """Yields every convolution with the normalisation behind it."""
    yield BlockTensor(None, 0, 'conv', (self.width, 3, 7, 7))
    channels = self.width
    for stage, count in enumerate(self.blocks, start=1):
      inside = self.width * 2 ** (stage - 1)
      outside = inside * (4 if self.bottleneck else 1)
      for block in range(count):
        for name, shape in self._convolutions(channels, inside, outside):
          yield BlockTensor(stage, block, name, shape)
        # The first block of R-18's and R-34's stage 1 changes neither channels
        # nor resolution and adds its input as it is.
        if block == 0 and (stage > 1 or channels != outside):
          yield BlockTensor(stage, block, 'shortcut', (outside, channels, 1, 1))
        channels = outside

  def _convolutions(
    self, channels: int, inside: int, outside: int
  ) -> list[tuple[str, tuple[int, int, int, int]]]:
    if self.bottleneck:
      return [
        ('conv1', (inside, channels, 1, 1)),
        ('conv2', (inside, inside, 3, 3)),
        ('conv3', (outside, inside, 1, 1)),
      ]
    return [('conv1', (inside, channels, 3, 3)), ('conv2', (outside, inside, 3, 3))]

  @property
  def out_channels(self) -> tuple[int, int, int]:
    """Channels of C3, C4, C5."""
    growth = 4 if self.bottleneck else 1
    return (
      self.width * 2 * growth,
      self.width * 4 * growth,
      self.width * 8 * growth,
    )


@dataclasses.dataclass(frozen=True)
class BlockTensor:
  """One convolution of the backbone and its normalisation.

  Attributes:
    stage: 1..4, None for the stem.
    block: index inside the stage.
    name: 'conv' (stem), 'conv1', 'conv2', 'conv3' or 'shortcut'.
    shape: kernel shape, output channels first (OIHW).
  """

  stage: int | None
  block: int
  name: str
  shape: tuple[int, int, int, int]

  @property
  def path(self) -> tuple[str, str]:
    """Our module path of the block."""
    place = STEM if self.stage is None else f'stage{self.stage}_block{self.block}'
    return ('backbone', place)

  @property
  def conv(self) -> str:
    """Our name of the convolution inside its block."""
    return 'shortcut_conv' if self.name == 'shortcut' else self.name

  @property
  def norm(self) -> str:
    """Our name of the normalisation inside its block."""
    if self.name == 'shortcut':
      return 'shortcut_norm'
    return self.name.replace('conv', 'norm')


def count_blocks(
  names: Iterable[str], pattern: str, *, first_stage: int = 1
) -> tuple[int, int, int, int]:
  """Returns the number of blocks of the four stages.

  Args:
    names: tensor or module names.
    pattern: regular expression that matches a name of a block, with the stage and
      the index inside it as its two groups.
    first_stage: number of the first stage in the names.

  Raises:
    UserError: a name is of a fifth stage, or of one before the first.
  """
  last = [-1] * _STAGES
  for name in names:
    if match := re.match(pattern, name):
      stage, block = int(match[1]) - first_stage, int(match[2])
      if stage not in range(_STAGES):
        raise UserError(f'{name} is of none of the four stages of a ResNet')
      last[stage] = max(last[stage], block)
  return (last[0] + 1, last[1] + 1, last[2] + 1, last[3] + 1)


def backbone_of(params: Mapping[str, Any]) -> Backbone:
  """Returns the sizes of the backbone that holds `params`."""
  return Backbone(
    blocks=count_blocks(params, _OUR_BLOCK),
    bottleneck='conv3' in params['stage1_block0'],
    width=np.shape(params[STEM]['conv']['kernel'])[-1],
  )


def name_of(backbone: Backbone) -> str:
  """Returns the config's name of a backbone, or a description of an unknown one."""
  for name, architecture in ARCHITECTURES.items():
    if architecture == (backbone.blocks, backbone.bottleneck):
      return name
  kind = 'bottleneck' if backbone.bottleneck else 'basic'
  return f'{kind} blocks {backbone.blocks}'
