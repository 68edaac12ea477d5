"""EmbedMask R-101, 3x schedule, two training scales: the paper's best on COCO.

Command:
  python -m embedmask_jax.main --config=configs/coco_2021_r101_ms_3x.py --workdir=DIR
    --config.data.train.annotations=instances_train2017.json
    --config.data.train.images=train2017
    --config.data.eval.annotations=instances_val2017.json
    --config.data.eval.images=val2017
    --config.init.checkpoint=IMAGENET_BACKBONE

Recipe: as coco_2021_r50_1x, with 270k steps, rate / 10 at 210k and 250k and a short
side of 640 or 800, drawn per image.

Hardware: 16 images of up to 800x1333 a step, over all devices.
Expect: mask AP 38.1 on COCO, published for the 2020 code; the authors state no
number for the 2021 code that this preset follows. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.model.backbone = 'resnet101'
  config.train.steps = 270000
  config.optim.milestones = (210000, 250000)
  config.data.short_sides = (640, 800)
  return config
