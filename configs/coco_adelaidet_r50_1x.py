"""EmbedMask on AdelaiDet, R-50, 1x schedule, six training scales, on COCO.

Command:
  python -m embedmask_jax.main --config=configs/coco_adelaidet_r50_1x.py --workdir=DIR
    --config.data.train.annotations=instances_train2017.json
    --config.data.train.images=train2017
    --config.data.eval.annotations=instances_val2017.json
    --config.data.eval.images=val2017
    --config.init.checkpoint=IMAGENET_BACKBONE

Recipe: SGD, 16 images a step, 90k steps, rate 0.01 / 10 at 60k and 80k, linear warm-up
of 1000 steps, a short side of 640 to 800 in steps of 32, long side at most 1333, flip.

Hardware: 16 images of up to 800x1333 a step, over all devices.
Expect: mask AP 36.2, box AP 39.9 on COCO val2017, published for the authors' code. Not
yet run here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.model.preset = 'adelaidet'
  config.model.pixel_mean = (103.53, 116.28, 123.675)
  config.data.short_sides = (640, 672, 704, 736, 768, 800)
  config.data.min_box_side = 1e-5
  config.optim.norm_decay_multiplier = 0.0
  config.optim.bias_rate_multiplier = 1.0
  config.optim.bias_weight_decay = 1e-4
  config.optim.warmup_steps = 1000
  config.optim.warmup = 'linear'
  config.optim.warmup_factor = 0.001
  config.eval.mask_threshold = 0.5
  return config
