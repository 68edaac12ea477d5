"""Small network, small generated scenes, from scratch: minutes on two CPU cores.

Command:
  python -m embedmask_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

The scenes are drawn on first use. Nothing is downloaded.
"""

from ml_collections import ConfigDict

from configs import small


def get_config() -> ConfigDict:
  config = small.get_config()
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
  config.optim.warmup_factor = 0.1

  config.eval.batch_size = 8
  config.eval.output_ladder = ((192, 192), (640, 640), (1024, 1024), (2048, 2048))
  return config
