"""Cell nuclei (BBBC038, Data Science Bowl 2018), from scratch on a small machine.

The small recipe. Images are enlarged to about twice their size, since half of the
nuclei are below 17 pixels, and trained on in random crops.

Command (DATA has annotations/ and images/):
  python -m embedmask_jax.main --config=configs/nuclei.py --workdir=runs/nuclei
    --config.data.train.annotations=DATA/annotations/instances_train.json
    --config.data.train.images=DATA/images
    --config.data.eval.annotations=DATA/annotations/instances_val.json
    --config.data.eval.images=DATA/images

Hardware and time: two CPU cores, see experiments/nuclei/README.md for the receipt.
"""

from ml_collections import ConfigDict

from configs import small


def get_config() -> ConfigDict:
  config = small.get_config()
  config.data.short_sides = (409, 460, 512, 563, 614)
  config.data.long_side = 2000
  config.data.eval_short_side = 512
  config.data.crop_size = (256, 256)
  # Each rung is a program of its own, and compiling one costs 30 steps.
  config.data.instance_ladder = (64, 128, 512)

  config.train.steps = 600
  config.train.eval_every = 0
  config.train.checkpoint_every = 200

  config.eval.max_detections = 500
  config.eval.max_dets = (1, 10, 500)
  config.eval.output_ladder = ((384, 384), (640, 768), (1024, 1024), (2048, 2048))
  return config
