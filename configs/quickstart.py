"""Small network, small generated scenes, from scratch: minutes on two CPU cores.

Command:
  python -m embedmask_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

The scenes are drawn on first use. Nothing is downloaded.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.model.backbone = 'resnet18'
  config.model.backbone_width = 32
  config.model.norm = 'group'
  config.model.frozen_stages = 0
  config.model.fpn_channels = 64
  config.model.head_channels = 64
  config.model.head_depth = 2
  config.model.pixel_std = (58.0, 57.0, 57.0)

  config.data.generated.enabled = True
  config.data.generated.train_images = 800
  config.data.short_sides = (256,)
  config.data.long_side = 256
  config.data.eval_short_side = 256
  config.data.instance_ladder = (16, 32)

  # More updates of small batches go further than fewer of large ones this early.
  config.train.batch_size = 2
  config.train.steps = 2000
  config.train.eval_every = 0
  config.train.checkpoint_every = 500

  config.optim.name = 'adamw'
  config.optim.learning_rate = 2e-3
  config.optim.reference_batch_size = 0
  config.optim.weight_decay = 0.01
  config.optim.bias_rate_multiplier = 1.0
  config.optim.warmup_steps = 50
  config.optim.warmup = 'linear'
  config.optim.warmup_factor = 0.1
  config.optim.schedule = 'cosine'
  config.optim.clip_norm = 10.0

  config.eval.batch_size = 8
  config.eval.output_ladder = ((192, 192), (640, 640), (1024, 1024), (2048, 2048))
  return config
