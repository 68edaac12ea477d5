"""Training plans of small data sets that need no files."""

import numpy as np

from embedmask_jax.data.sampler import TrainPlan

LADDER = (8, 16, 32)


def make_plan(count=23, *, sizes=None, counts=None, seed=0, **options):
  rng = np.random.default_rng(count)
  if sizes is None:
    sizes = rng.choice([(48, 64), (64, 48), (64, 64), (40, 100)], count)
  counts = np.full(count, 3, np.int32) if counts is None else np.asarray(counts)
  total = int(counts.sum())
  owner_sizes = np.repeat(sizes, counts, axis=0)
  corner = rng.uniform(0, 0.8, (total, 2)) * owner_sizes[:, ::-1]
  boxes = np.concatenate([corner, corner + 5], axis=1).astype(np.float32)
  settings = {
    'image_ids': 3 * np.arange(count) + 11,
    'sizes': np.asarray(sizes, np.int32),
    'boxes': boxes,
    'instance_counts': counts,
    'seed': seed,
    'batch_size': 4,
    'short_sides': (64,),
    'long_side': 128,
    'flip_probability': 0.5,
    'instance_ladder': LADDER,
  }
  return TrainPlan(**{**settings, **options})


def members(plan, steps):
  return [(row.epoch, row.index) for k in steps for row in plan[k].rows]


def drawn(plan, steps):
  return {
    (row.epoch, row.index): row.view for step in range(steps) for row in plan[step].rows
  }
