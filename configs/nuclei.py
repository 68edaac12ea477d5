"""Cell nuclei (BBBC038, Data Science Bowl 2018), from scratch on a small machine.

The custom recipe with a small backbone. Images are enlarged to about twice their
size, since half of the nuclei are below 17 pixels, and trained on in random crops.

Command (DATA has annotations/ and images/):
  python -m embedmask_jax.main --config=configs/nuclei.py --workdir=runs/nuclei
    --config.data.train.annotations=DATA/annotations/instances_train.json
    --config.data.train.images=DATA/images
    --config.data.eval.annotations=DATA/annotations/instances_val.json
    --config.data.eval.images=DATA/images

Hardware and time: two CPU cores, see experiments/nuclei/README.md for the receipt.
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

  config.data.short_sides = (409, 460, 512, 563, 614)
  config.data.long_side = 2000
  config.data.eval_short_side = 512
  config.data.crop_size = (256, 256)
  # Each rung is a program of its own, and compiling one costs 30 steps.
  config.data.instance_ladder = (64, 128, 512)

  config.train.steps = 600
  config.train.eval_every = 0
  config.train.checkpoint_every = 200

  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 50

  config.eval.max_detections = 500
  config.eval.max_dets = (1, 10, 500)
  config.eval.output_ladder = ((384, 384), (640, 768), (1024, 1024), (2048, 2048))
  return config
