"""Sixteen images of COCO learnt by heart: can the method fit photographs at all?

Command and receipt: experiments/coco_overfit/README.md
"""

from ml_collections import ConfigDict

from configs import small


def get_config() -> ConfigDict:
  config = small.get_config()
  config.data.short_sides = (384,)
  config.data.long_side = 640
  config.data.eval_short_side = 384
  config.data.flip_probability = 0.0
  config.data.instance_ladder = (16,)

  config.train.batch_size = 2
  config.train.steps = 1600
  config.train.eval_every = 0
  config.train.checkpoint_every = 400
  config.optim.weight_decay = 0.0
  config.eval.batch_size = 4
  return config
