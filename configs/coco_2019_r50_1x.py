"""EmbedMask of the arXiv paper, R-50, 1x schedule, single scale, on COCO.

Command:
  python -m embedmask_jax.main --config=configs/coco_2019_r50_1x.py --workdir=DIR
    --config.data.train.annotations=instances_train2017.json
    --config.data.train.images=train2017
    --config.data.eval.annotations=instances_val2017.json
    --config.data.eval.images=val2017
    --config.init.checkpoint=IMAGENET_BACKBONE

Recipe: as coco_2021_r50_1x, with embeddings without coordinates and the smooth loss.
Preset 2019_released in place of 2019 trains as the code of that month did, which chose
proposals by boxes that it took for 8 to 128 times too small.

Hardware: 16 images of 800x1333 a step, over all devices.
Expect: no number is published for R-50. Not yet run here.
"""

from ml_collections import ConfigDict

from configs import coco_2021_r50_1x


def get_config() -> ConfigDict:
  config = coco_2021_r50_1x.get_config()
  config.model.preset = '2019'
  config.model.embedding_dim = 32
  config.eval.mask_threshold = 0.5
  return config
