"""EmbedMask of May 2020, R-101, 3x schedule, two training scales, on COCO.

Command:
  python -m embedmask_jax.main --config=configs/coco_2020_r101_ms_3x.py --workdir=DIR
    --config.data.train.annotations=instances_train2017.json
    --config.data.train.images=train2017
    --config.data.eval.annotations=instances_val2017.json
    --config.data.eval.images=val2017
    --config.init.checkpoint=IMAGENET_BACKBONE

Recipe: as coco_2021_r101_ms_3x, with one margin per proposal and eight dimensions.

Hardware: 16 images of up to 800x1333 a step, over all devices.
Expect: mask AP 38.1 on COCO ("test2014"), published for the authors' code. Not yet
run here.
"""

from ml_collections import ConfigDict

from configs import coco_2021_r101_ms_3x


def get_config() -> ConfigDict:
  config = coco_2021_r101_ms_3x.get_config()
  config.model.preset = '2020'
  config.model.embedding_dim = 8
  return config
