"""What each preset costs: parameters, arithmetic, time and memory.

  python experiments/benchmarks/presets.py [--rounds=5]
    [--presets=2019,2020,2021,adelaidet]

ResNet-50, one image of 800x1333, float32, 100 masks of 640x480. The presets take turns
in one run. Memory is the compiler's account of a training step on one image, which the
program is compiled for and not run.
"""

import argparse
import importlib
import statistics
from typing import Any

import jax
import numpy as np
from full_size import OUTPUT_CANVAS, full_size_batch, full_size_model
from timing import add_arguments, measure, print_machine, ratio, show_times

from embedmask_jax.compile_ahead import placed
from embedmask_jax.devices import data_mesh, replicate, split
from embedmask_jax.inference import make_inference
from embedmask_jax.postprocess import DetectionSettings
from embedmask_jax.programs import memory_of
from embedmask_jax.structures import DATA_AXIS
from embedmask_jax.train import set_up
from embedmask_jax.train_state import abstract_state

# Low enough for these weights to fill all 100 places.
SETTINGS = DetectionSettings(score_threshold=0.01)
NUM_CLASSES = 80


def training_bytes(preset: str, batch: Any) -> int:
  """Bytes of one device for a training step, by the compiler's account."""
  config = importlib.import_module(f'configs.coco_{preset}_r50_1x').get_config()
  mesh = data_mesh(1)
  training = set_up(config, NUM_CLASSES, mesh)
  state = abstract_state(
    training.variables, training.optimizer, has_ema=config.train.ema_decay > 0
  )
  step = training.train_step.lower(placed(mesh, state), placed(mesh, batch, DATA_AXIS))
  memory = memory_of(step.compile())
  assert memory is not None
  return memory.total


def main() -> None:
  parser = argparse.ArgumentParser()
  add_arguments(parser, rounds=5)
  parser.add_argument('--presets', default='2019,2020,2021,adelaidet')
  arguments = parser.parse_args()
  presets = arguments.presets.split(',')
  mesh = data_mesh(1)
  host_batch = full_size_batch()
  batch = split(mesh, host_batch)

  tasks, rows = {}, {}
  for preset in presets:
    model, variables = full_size_model(preset=preset)
    count = sum(map(np.size, jax.tree.leaves(variables['params'])))
    variables = replicate(mesh, variables)
    inference = make_inference(model, SETTINGS, mesh)
    program = inference.lower(variables, batch, OUTPUT_CANVAS).compile()
    tasks[preset] = lambda program=program, variables=variables: program(
      variables, batch
    )
    flops = program.cost_analysis()['flops']
    rows[preset] = (count, flops, training_bytes(preset, host_batch))

  print_machine()
  seconds = measure(tasks, arguments.rounds)
  show_times(seconds, arguments.plot, 'Inference of the presets, ResNet-50, 800x1333')
  print('preset      parameters  GFLOP  inference  / first  training memory')
  for preset, (count, flops, needed) in rows.items():
    print(
      f'{preset:12s}{count / 1e6:8.1f} M{flops / 1e9:7.0f}'
      f'{statistics.median(seconds[preset]):9.3f} s'
      f'{ratio(seconds, preset, presets[0]):9.3f}{needed / 2**30:13.2f} GiB'
    )


if __name__ == '__main__':
  main()
