"""Your own data on a small machine: a small network, trained from scratch.

The custom recipe without weights to start from: ResNet-18 of half the width with
group norm, a narrow head, and a rate to match. Takes the same fields as custom.py.
"""

from ml_collections import ConfigDict

from configs import custom


def get_config() -> ConfigDict:
  config = custom.get_config()
  config.model.backbone = 'resnet18'
  config.model.backbone_width = 32
  config.model.norm = 'group'
  config.model.frozen_stages = 0
  config.model.fpn_channels = 64
  config.model.head_channels = 64
  config.model.head_depth = 2
  config.model.pixel_std = (58.0, 57.0, 57.0)

  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 50
  return config
