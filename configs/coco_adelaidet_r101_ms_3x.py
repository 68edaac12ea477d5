"""EmbedMask on AdelaiDet, R-101, 3x schedule, six training scales: the best on COCO.

Command:
  python -m embedmask_jax.main --config=configs/coco_adelaidet_r101_ms_3x.py
    --workdir=DIR
    --config.data.train.annotations=instances_train2017.json
    --config.data.train.images=train2017
    --config.data.eval.annotations=instances_val2017.json
    --config.data.eval.images=val2017
    --config.init.checkpoint=IMAGENET_BACKBONE

Recipe: as coco_adelaidet_r50_1x, with 270k steps, rate / 10 at 210k and 250k.

Hardware: 16 images of up to 800x1333 a step, over all devices.
Expect: mask AP 39.5, box AP 44.2 on COCO val2017, published for the authors' code. Not
yet run here.
"""

from ml_collections import ConfigDict

from configs import coco_adelaidet_r50_1x


def get_config() -> ConfigDict:
  config = coco_adelaidet_r50_1x.get_config()
  config.model.backbone = 'resnet101'
  config.train.steps = 270000
  config.optim.milestones = (210000, 250000)
  return config
