"""Your own data: a COCO-format JSON and an image folder, fine-tuned.

Command:
  python -m embedmask_jax.main --config=configs/custom.py --workdir=DIR
    --config.data.train.annotations=TRAIN.json --config.data.train.images=FOLDER
    --config.data.eval.annotations=EVAL.json --config.data.eval.images=FOLDER
    --config.init.checkpoint=WORKDIR_OR_CHECKPOINT

Number and names of the classes come from the training JSON. Everything is taken from
init.checkpoint, but for the class logits where its number of classes is another.
Without a checkpoint to start from, train from scratch: --config.model.norm=group
--config.model.frozen_stages=0, a higher rate and several times the steps; frozen
batch norm with random weights does not train.

What to look at first:
  * data.short_sides, data.long_side, data.eval_short_side: network pixels. Objects
    below about 8 of them are hard; enlarge small images.
  * eval.max_detections and eval.max_dets: above the largest number of objects an
    image holds, or evaluation says how often the cap bit.
  * train.steps: 20 to 50 epochs for a few hundred images.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  config = base.get_config()
  config.data.short_sides = (640, 704, 768, 800)

  config.train.batch_size = 8
  config.train.steps = 5000
  config.train.eval_every = 500
  config.train.checkpoint_every = 500

  config.optim.name = 'adamw'
  config.optim.learning_rate = 2e-4
  config.optim.reference_batch_size = 0
  config.optim.weight_decay = 0.01
  config.optim.bias_rate_multiplier = 1.0
  config.optim.warmup_steps = 200
  config.optim.warmup = 'linear'
  config.optim.warmup_factor = 0.01
  config.optim.schedule = 'cosine'
  config.optim.clip_norm = 10.0
  return config
