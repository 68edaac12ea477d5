"""Compiles training and inference for TPUs, on a machine that has none.

  python experiments/tpu/compile.py [--topology=v5e:2x4] [--backbone=resnet50]
    [--images_per_chip=2] [--instances=32]

Needs `libtpu` (pip install -e '.[tpu]'). Prints the bytes a chip needs, from the
compiler's own account, for one training step and one inference at 800x1344.
"""

import argparse
import os
import time

# A topology without chips behind it; read when libtpu is loaded.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
os.environ.setdefault('TPU_WORKER_ID', '0')
os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs import base
from embedmask_jax.data.transforms import empty_batch
from embedmask_jax.inference import make_inference
from embedmask_jax.models.factory import DATA_AXIS, build_model, init_variables
from embedmask_jax.optim import OptimSettings, Schedule, is_trained, make_optimizer
from embedmask_jax.postprocess import DetectionSettings
from embedmask_jax.structures import Batch
from embedmask_jax.train_state import create_train_state
from embedmask_jax.train_step import make_train_step

CANVAS = (800, 1344)
OUTPUT_CANVAS = (640, 640)
NUM_CLASSES = 80


def tpu_mesh(topology: str) -> Mesh:
  """The chips of a topology such as `v5e:2x4`, along the data axis."""
  description = topologies.get_topology_desc(platform='tpu', topology_name=topology)
  return Mesh(np.asarray(description.devices), (DATA_AXIS,))


def compile_programs(
  mesh: Mesh, backbone: str, images_per_chip: int, instances: int
) -> dict[str, jax.stages.Compiled]:
  """The training step and the inference function in bfloat16, compiled for `mesh`."""
  config = base.get_config()
  config.model.backbone = backbone
  config.model.dtype = 'bfloat16'
  model = build_model(config.model, NUM_CLASSES)
  variables = jax.eval_shape(lambda: init_variables(model, 0))
  settings = OptimSettings(**config.optim)
  trained = is_trained(variables['params'], config.model.frozen_stages)
  optimizer = make_optimizer(settings, Schedule(settings, 90000), trained=trained)
  state = jax.eval_shape(lambda v: create_train_state(v, optimizer), variables)
  batch = Batch(**empty_batch(images_per_chip * mesh.size, CANVAS, instances))

  def placed(tree, *axes):
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  state, variables = placed(state), placed(variables)
  batch = placed(batch, DATA_AXIS)
  step = make_train_step(model, optimizer, mesh)
  inference = make_inference(model, DetectionSettings(), mesh)
  return {
    'training step': step.lower(state, batch).compile(),
    'inference': inference.lower(variables, batch, OUTPUT_CANVAS).compile(),
  }


def bytes_per_chip(program: jax.stages.Compiled) -> int:
  """Arguments, results and scratch memory at their peak."""
  memory = program.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--topology', default='v5e:2x4')
  parser.add_argument('--backbone', default='resnet50')
  parser.add_argument('--images_per_chip', type=int, default=2)
  parser.add_argument('--instances', type=int, default=32)
  arguments = parser.parse_args()
  start = time.perf_counter()
  programs = compile_programs(
    tpu_mesh(arguments.topology),
    arguments.backbone,
    arguments.images_per_chip,
    arguments.instances,
  )
  for name, program in programs.items():
    gib = bytes_per_chip(program) / 2**30
    print(f'{arguments.backbone}, {arguments.topology}, {name}: {gib:.2f} GiB a chip')
  print(f'compiled in {time.perf_counter() - start:.0f} s')


if __name__ == '__main__':
  main()
