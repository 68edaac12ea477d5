"""Sixteen images on 1, 2 and 8 devices, whole and in parts; evaluation over 8.

The tests run this file in a process of its own, with eight simulated devices.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from synthetic import random_batch, tiny_model, tiny_variables

from configs import quickstart
from embedmask_jax.data.scenes import generate_scenes
from embedmask_jax.data.source import open_source
from embedmask_jax.devices import data_mesh, replicate, split
from embedmask_jax.evaluate import Evaluator
from embedmask_jax.models.factory import init_variables
from embedmask_jax.train_state import create_train_state
from embedmask_jax.train_step import make_train_step

CANVAS = (64, 64)
# Of the eight devices, the third and the sixth have no instance at all.
COUNTS = [4, 0, 1, 3, 0, 0, 2, 4, 0, 1, 0, 0, 3, 2, 0, 4]
FULL, WIDE, SMALL, HIGH = (64, 64), (32, 64), (20, 40), (64, 30)
SIZES = [FULL, WIDE, (52, 64), FULL, SMALL, HIGH, FULL, (64, 55)]
SIZES += [SMALL, FULL, HIGH, WIDE, FULL, (60, 60), SMALL, FULL]
# (devices, accumulated parts)
LAYOUTS = [(8, 1), (1, 4), (2, 2)]
# An update is the gradient.
OPTIMIZER = optax.sgd(1.0)


def one_update(dtype, devices, parts):
  """The update of every parameter, float64, and the metrics."""
  batch = random_batch(0, SIZES, CANVAS, COUNTS)
  variables = jax.tree.map(lambda x: np.asarray(x, dtype), tiny_variables())
  mesh = data_mesh(devices)
  step = make_train_step(
    tiny_model(dtype=jnp.dtype(dtype)), OPTIMIZER, mesh, accumulation_steps=parts
  )
  # Boxes decide the dtype of the targets, and with it of their sums.
  batch = batch.replace(boxes=batch.boxes.astype(dtype))
  state = replicate(mesh, create_train_state(variables, OPTIMIZER))
  # The step gives the memory of its state away.
  before = jax.tree.map(np.array, variables['params'])
  state, metrics = step(state, split(mesh, batch))
  update = jax.tree.map(
    lambda new, old: np.asarray(new, np.float64) - old, state.params, before
  )
  return update, {name: float(value) for name, value in metrics.items()}


def norm(tree):
  return np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def compare_layouts(dtype):
  """Prints the largest errors against one device that computes all at once."""
  expected, expected_metrics = one_update(dtype, 1, 1)
  whole = norm(expected)
  losses, updates = [], []
  for devices, parts in LAYOUTS:
    found, metrics = one_update(dtype, devices, parts)
    losses += [abs(metrics[key] / value - 1) for key, value in expected_metrics.items()]
    updates += [
      norm(a - b) / norm(a)
      for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
      # A bias in front of a norm with one channel a group has no gradient.
      if norm(a) > 1e-7 * whole
    ]
    updates.append(norm(jax.tree.map(np.subtract, expected, found)) / whole)
  return {'losses': max(losses), 'updates': max(updates)}


def count_evaluated(folder):
  """Evaluates eleven images in batches of 5, rounded up to 8; counts the results."""
  config = quickstart.get_config()
  config.data.eval_short_side = config.data.long_side = 64
  config.eval.output_ladder = ((64, 64),)
  config.eval.batch_size = 5
  config.eval.score_threshold = 0.0
  config.eval.max_detections = 1
  config.eval.num_overlays = 0
  annotations, images = generate_scenes(num_images=11, image_size=64, seed=1)
  source = open_source(annotations, images)
  model = tiny_model(num_classes=len(source.class_names))
  mesh = data_mesh()
  variables = replicate(mesh, init_variables(model, 0))
  evaluator = Evaluator(model, source, config, mesh)
  metrics = evaluator(variables, Path(folder), step=0)
  results = json.loads((Path(folder) / 'predictions.json').read_text())
  counts = Counter(entry['image_id'] for entry in results)
  return {
    'images': metrics['count/images'],
    'once': sorted(counts) == sorted(source.image_ids) and set(counts.values()) == {1},
  }


def on_eight_devices(*arguments, **environment):
  variables = os.environ | {
    'XLA_FLAGS': (
      os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
    ),
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join(map(str, Path(__file__).parents[:2])),
    **environment,
  }
  result = subprocess.run(
    [sys.executable, __file__, *map(str, arguments)],
    env=variables,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
  ('dtype', 'tolerance', 'environment'),
  [('float32', 1e-4, {}), ('float64', 1e-9, {'JAX_ENABLE_X64': '1'})],
)
def test_layouts_give_the_losses_and_the_update_of_one_device(
  dtype, tolerance, environment
):
  errors = on_eight_devices(dtype, **environment)
  assert errors['losses'] < 1e-6
  assert errors['updates'] < tolerance


@pytest.mark.slow
def test_evaluation_over_eight_devices_counts_every_image_once(tmp_path):
  cache = {'EMBEDMASK_CACHE': str(tmp_path / 'scenes')}
  assert on_eight_devices('evaluate', tmp_path, **cache) == {'images': 11, 'once': True}


if __name__ == '__main__':
  assert jax.device_count() == 8
  compare = count_evaluated if sys.argv[1] == 'evaluate' else compare_layouts
  print(json.dumps(compare(sys.argv[-1])))
