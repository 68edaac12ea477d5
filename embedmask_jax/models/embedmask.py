"""The whole network: image in, `HeadOutputs` out."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from embedmask_jax.models.fpn import FPN
from embedmask_jax.models.heads import Head
from embedmask_jax.models.layers import NormKind
from embedmask_jax.models.rematerialisation import Remat
from embedmask_jax.models.resnet import ResNet
from embedmask_jax.ops.valid_area import clear_outside, level_sizes
from embedmask_jax.presets import PRESETS, Preset
from embedmask_jax.structures import Array, HeadOutputs


class EmbedMask(nn.Module):
  """ResNet, FPN and head.

  Attributes:
    num_classes: C.
    preset: the generation of the method; the network's user reads it here, too.
    backbone: `resnet18`, `resnet34`, `resnet50` or `resnet101`.
    backbone_width: channels of the stem.
    stride_in_1x1: MSRA (True) or torchvision (False) bottlenecks.
    norm: normalisation of the backbone: `frozen_bn`, `group` or `batch`.
    frozen_stages: see `ResNet`.
    fpn_channels, head_channels, head_depth, embedding_dim, prior_probability:
      see `FPN` and `Head`.
    pixel_mean, pixel_std: of the channels in the order blue, green, red, 0..255.
    dtype: compute dtype, float32 or bfloat16; parameters are float32.
    axis_name: device axis over which live batch norm shares its statistics.
    has_frozen_mask_norm: see `Head`.
    remat: see `rematerialisation.py`.
  """

  num_classes: int
  preset: Preset = PRESETS['2021']
  backbone: str = 'resnet50'
  backbone_width: int = 64
  stride_in_1x1: bool = True
  norm: NormKind = 'frozen_bn'
  frozen_stages: int = 2
  fpn_channels: int = 256
  head_channels: int = 256
  head_depth: int = 4
  embedding_dim: int = 16
  prior_probability: float = 0.01
  pixel_mean: tuple[float, ...] = (102.9801, 115.9465, 122.7717)
  pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
  dtype: Any = jnp.float32
  axis_name: str | None = None
  has_frozen_mask_norm: bool = False
  remat: Remat = 'none'

  @nn.compact
  def __call__(
    self, images: Array, image_size: Array, valid_size: Array, *, train: bool
  ) -> HeadOutputs:
    """Returns the proposals and the pixel embedding.

    Args:
      images: uint8 [B, H, W, 3], RGB; H and W are multiples of 32.
      image_size: int32 [B, 2], height and width of each image in the canvas.
      valid_size: int32 [B, 2], the area the network sees, multiples of 32;
        results do not depend on the canvas beyond it.
      train: whether live batch norm uses the batch's own statistics.
    """
    canvas = (images.shape[1], images.shape[2])
    x = normalise_images(images, image_size, self.pixel_mean, self.pixel_std)
    features = ResNet(
      architecture=self.backbone,
      width=self.backbone_width,
      stride_in_1x1=self.stride_in_1x1,
      norm=self.norm,
      frozen_stages=self.frozen_stages,
      dtype=self.dtype,
      axis_name=self.axis_name,
      remat=self.remat,
      name='backbone',
    )(x, valid_size, train=train)
    sizes = level_sizes(valid_size)
    pyramid = FPN(self.fpn_channels, self.dtype, name='fpn')(features, sizes)
    return Head(
      preset=self.preset,
      num_classes=self.num_classes,
      channels=self.head_channels,
      depth=self.head_depth,
      embedding_dim=self.embedding_dim,
      prior_probability=self.prior_probability,
      dtype=self.dtype,
      axis_name=self.axis_name,
      has_frozen_mask_norm=self.has_frozen_mask_norm,
      remat=self.remat,
      name='head',
    )(pyramid, sizes, canvas, train=train)


def normalise_images(
  images: Array, image_size: Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> Array:
  """Returns float32 [B, H, W, 3], BGR, normalised, zero outside the image.

  Args:
    images: uint8 [B, H, W, 3], RGB.
    image_size: int32 [B, 2].
    mean: of the channels blue, green, red, 0..255.
    std: alike.
  """
  bgr = images[..., ::-1].astype(jnp.float32)
  normalised = (bgr - jnp.asarray(mean)) / jnp.asarray(std)
  return clear_outside(normalised, image_size)
