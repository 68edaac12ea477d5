"""EmbedMask R-50, 1x schedule, single scale: the paper's main setting on COCO.

Command:
  python -m embedmask_jax.main --config=configs/coco_2021_r50_1x.py --workdir=DIR
    --config.data.train.annotations=instances_train2017.json
    --config.data.train.images=train2017
    --config.data.eval.annotations=instances_val2017.json
    --config.data.eval.images=val2017
    --config.init.checkpoint=IMAGENET_BACKBONE

Recipe: SGD, 16 images a step, 90k steps, rate 0.01 / 10 at 60k and 80k, constant
warm-up of 500 steps, short side 800, long side at most 1333, flip. Another
train.batch_size scales rate and schedule (linear rule).

Hardware: 16 images of 800x1333 a step, over all devices.
Expect: mask AP 34.7 on COCO, published for the 2020 code; the authors state no
number for the 2021 code that this preset follows. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.model.backbone = 'resnet50'
  config.train.steps = 90000
  config.optim.milestones = (60000, 80000)
  config.data.short_sides = (800,)
  return config
