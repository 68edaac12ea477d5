"""EmbedMask of the arXiv paper, R-101, 3x schedule, two training scales, on COCO.

Command:
  python -m embedmask_jax.main --config=configs/coco_2019_r101_ms_3x.py --workdir=DIR
    --config.data.train.annotations=instances_train2017.json
    --config.data.train.images=train2017
    --config.data.eval.annotations=instances_val2017.json
    --config.data.eval.images=val2017
    --config.init.checkpoint=IMAGENET_BACKBONE

Recipe: as coco_2021_r101_ms_3x, with embeddings without coordinates and the smooth
loss; see coco_2019_r50_1x on preset 2019_released.

Hardware: 16 images of up to 800x1333 a step, over all devices.
Expect: mask AP 37.7 on COCO test-dev (arXiv 1912.01954). Not yet run here.
"""

from ml_collections import ConfigDict

from configs import coco_2021_r101_ms_3x


def get_config() -> ConfigDict:
  config = coco_2021_r101_ms_3x.get_config()
  config.model.preset = '2019'
  config.model.embedding_dim = 32
  config.eval.mask_threshold = 0.5
  return config
