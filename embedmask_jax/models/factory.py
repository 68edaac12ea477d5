"""Where a config becomes a model."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.presets import PRESETS
from embedmask_jax.structures import DATA_AXIS


def build_model(config: ConfigDict, num_classes: int) -> EmbedMask:
  """Returns the network that `config` (the `model` part of a config) describes."""
  return EmbedMask(
    num_classes=num_classes,
    preset=PRESETS[config.preset],
    backbone=config.backbone,
    backbone_width=config.backbone_width,
    stride_in_1x1=config.stride_in_1x1,
    norm=config.norm,
    frozen_stages=config.frozen_stages,
    fpn_channels=config.fpn_channels,
    head_channels=config.head_channels,
    head_depth=config.head_depth,
    embedding_dim=config.embedding_dim,
    prior_probability=config.prior_probability,
    pixel_mean=tuple(config.pixel_mean),
    pixel_std=tuple(config.pixel_std),
    dtype=jnp.dtype(config.dtype),
    axis_name=DATA_AXIS,
    has_frozen_mask_norm=config.mask_branch_norm == 'frozen_bn',
  )


def variable_shapes(config: ConfigDict, num_classes: int) -> dict:
  """{'params', 'batch_stats'} of `build_model`, a `jax.ShapeDtypeStruct` a leaf."""
  return jax.eval_shape(lambda: init_variables(build_model(config, num_classes), 0))


def init_variables(model: EmbedMask, seed: int) -> dict:
  """Returns {'params', 'batch_stats'} with float32 leaves; no canvas enters."""
  images = jnp.zeros((1, 64, 64, 3), jnp.uint8)
  size = jnp.full((1, 2), 64, jnp.int32)
  init = jax.jit(lambda key: model.init(key, images, size, size, train=False))
  variables = dict(init(jax.random.key(seed)))
  variables.setdefault('batch_stats', {})
  return variables
