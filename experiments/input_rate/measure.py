"""What the input side costs, in processor time of one core.

  python -m experiments.input_rate.measure ANNOTATIONS.json IMAGES

Prints the seconds for an image of the data set (read, decoded, resized, masks drawn,
packed for training by the COCO config), and for planning batches of 256 from data sets
of several sizes, with the memory that the plan takes. Seconds are those that the
process was given, whatever else the machine does.
"""

import pickle
import sys
import time

import numpy as np

from configs import coco_2021_r50_1x
from embedmask_jax.data.pipeline import train_batches
from embedmask_jax.data.sampler import TrainPlan
from embedmask_jax.data.source import open_source
from embedmask_jax.datasets import train_settings

NUM_BATCHES = 40
BATCH_SIZE = 4
GLOBAL_BATCH_SIZE = 256
# COCO's training set, and a larger one.
DATA_SETS = (118_287, 10_000_000)
INSTANCES_PER_IMAGE = 7


def seconds_per_image(config, annotations: str, images: str) -> float:
  settings = {**train_settings(config), 'batch_size': BATCH_SIZE}
  settings |= {'workers': 0, 'prefetch': 0}
  batches = train_batches(open_source(annotations, images), **settings)
  next(batches)
  start = time.process_time()
  for _ in range(NUM_BATCHES):
    next(batches)
  spent = time.process_time() - start
  batches.close()
  return spent / NUM_BATCHES / BATCH_SIZE


def measure_planning(config, count: int) -> None:
  generator = np.random.default_rng(0)
  sizes = np.asarray([(480, 640), (640, 480), (427, 640)], np.int32)
  counts = np.full(count, INSTANCES_PER_IMAGE, np.int32)
  start = time.process_time()
  plan = TrainPlan(
    image_ids=np.arange(count),
    sizes=sizes[generator.integers(0, len(sizes), count)],
    boxes=np.zeros((counts.sum(), 4), np.float32),
    instance_counts=counts,
    seed=0,
    batch_size=GLOBAL_BATCH_SIZE,
    short_sides=config.data.short_sides,
    long_side=config.data.long_side,
    flip_probability=config.data.flip_probability,
    instance_ladder=config.data.instance_ladder,
  )
  made = time.process_time()
  plan[0]
  first = time.process_time()
  for step in range(1, 51):
    plan[step]
  batch = (time.process_time() - first) / 50
  megabytes = len(pickle.dumps(plan)) / 1e6
  print(
    f'{count} images: {made - start:.2f} s to begin, {first - made:.2f} s an epoch, '
    f'{1e3 * batch:.2f} ms a batch of {GLOBAL_BATCH_SIZE}, {megabytes:.0f} MB'
  )


def main(annotations: str, images: str) -> None:
  config = coco_2021_r50_1x.get_config()
  seconds = seconds_per_image(config, annotations, images)
  print(f'{1e3 * seconds:.1f} ms an image: {1 / seconds:.1f} images/s a core')
  for count in DATA_SETS:
    measure_planning(config, count)


if __name__ == '__main__':
  main(*sys.argv[1:])
