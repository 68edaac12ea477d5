"""Compiles training and inference for TPUs, on a machine that has none.

  python experiments/tpu/compile.py [--topology=v5e:2x4]
    [--config=coco_2021_r50_1x] [--images_per_chip=2] [--instances=32]
    [--field=train.remat=stages ...] [--only=inference|step]

Needs `libtpu` (pip install -e '.[tpu]'). Prints the bytes a chip needs, from the
compiler's own account, for one training step and one inference at 800x1344.
"""

import argparse
import importlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# A topology without chips behind it; read when libtpu is loaded.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
os.environ.setdefault('TPU_WORKER_ID', '0')
os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')

import jax
import numpy as np
import yaml
from absl import logging
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from embedmask_jax.compile_ahead import placed
from embedmask_jax.data.transforms import empty_batch
from embedmask_jax.inference import make_inference
from embedmask_jax.programs import compile_program, memory_of
from embedmask_jax.stored_model import detection_settings
from embedmask_jax.structures import DATA_AXIS, Batch
from embedmask_jax.train import set_up
from embedmask_jax.train_state import abstract_state

CANVAS = (800, 1344)
OUTPUT_CANVAS = (640, 640)
NUM_CLASSES = 80
# What a TPU is slow at, where there is much of it.
WATCHED = ('sort', 'gather', 'scatter', 'while', 'transpose', 'copy', 'convolution')


def tpu_mesh(topology: str) -> Mesh:
  """The chips of a topology such as `v5e:2x4`, along the data axis."""
  description = topologies.get_topology_desc(platform='tpu', topology_name=topology)
  return Mesh(np.asarray(description.devices), (DATA_AXIS,))


def compile_programs(
  mesh: Mesh, config: ConfigDict, images_per_chip: int, instances: int, only: str
) -> Iterator[tuple[str, jax.stages.Compiled]]:
  """Inference and the training step of `config`, or one of them, for `mesh`."""
  training = set_up(config, NUM_CLASSES, mesh)
  state = abstract_state(
    training.variables, training.optimizer, has_ema=config.train.ema_decay > 0
  )
  batch = Batch(**empty_batch(images_per_chip * mesh.size, CANVAS, instances))
  state, batch = placed(mesh, state), placed(mesh, batch, DATA_AXIS)
  if only != 'step':
    inference = make_inference(training.model, detection_settings(config.eval), mesh)
    arguments = placed(mesh, state.variables), batch, OUTPUT_CANVAS
    yield 'inference', compile_program('inference', inference, *arguments)
  if only != 'inference':
    step = training.train_step
    yield 'training step', compile_program('training step', step, state, batch)


def operations(program: jax.stages.Compiled) -> Counter[str]:
  """How often each HLO operation occurs in the optimised program."""
  return Counter(
    re.findall(r'^.*? = .*?[)}\]] ([a-z][\w-]*)\(', program.as_text(), re.M)
  )


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--topology', default='v5e:2x4')
  parser.add_argument('--config', default='coco_2021_r50_1x')
  parser.add_argument('--images_per_chip', type=int, default=2)
  parser.add_argument('--instances', type=int, default=32)
  parser.add_argument('--field', action='append', default=[], help='of the config')
  parser.add_argument('--only', choices=('inference', 'step'), default='')
  parser.add_argument('--text', type=Path, help='folder for the programs as text')
  arguments = parser.parse_args()
  logging.set_verbosity(logging.INFO)
  config = importlib.import_module(f'configs.{arguments.config}').get_config()
  config.model.dtype = 'bfloat16'
  for field in arguments.field:
    name, value = field.split('=', 1)
    config.update_from_flattened_dict({name: yaml.safe_load(value)})
  programs = compile_programs(
    tpu_mesh(arguments.topology),
    config,
    arguments.images_per_chip,
    arguments.instances,
    arguments.only,
  )
  for name, program in programs:
    counts = operations(program)
    listed = ', '.join(f'{op} {counts[op]}' for op in WATCHED)
    title = ', '.join([arguments.config, *arguments.field, arguments.topology, name])
    print(f'{title}: {memory_of(program)}; {listed}', flush=True)
    if arguments.text:
      (arguments.text / f'{name}.txt').write_text(program.as_text())


if __name__ == '__main__':
  main()
