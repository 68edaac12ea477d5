"""What each lever does to the memory of a training step, by the compiler's account.

  python -m experiments.memory.measure [--topology=v5e:2x4] [--images=2] [--only=NAME]
  python -m experiments.memory.measure --kept [--images=2]

ResNet-50 at 800x1344 with the paper's config. Nothing is run: the step is compiled for
this machine's CPU, or with --topology for TPUs, for which `libtpu` must be installed
(pip install -e '.[tpu]') but no TPU be there. `--images` are those of each device.
With --kept nothing is compiled either: it counts what the network's forward pass hands
to its backward pass, as the program is written.
"""

import argparse
import dataclasses
import itertools
import os
import time

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# A topology without chips behind it; read when libtpu is loaded.
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
from embedmask_jax.devices import data_mesh
from embedmask_jax.models.factory import DATA_AXIS, build_model, init_variables
from embedmask_jax.optim import OptimSettings, Schedule, is_trained, make_optimizer
from embedmask_jax.structures import Batch, HeadOutputs
from embedmask_jax.train_state import create_train_state
from embedmask_jax.train_step import make_train_step

CANVAS = (800, 1344)
INSTANCES = 32
NUM_CLASSES = 80


@dataclasses.dataclass(frozen=True)
class Case:
  """A combination of levers."""

  name: str
  fields: dict
  is_donated: bool = True


CASES = (
  Case('as it is', {}),
  Case('state not donated', {}, is_donated=False),
  Case('optim.momentum_dtype=bfloat16', {'optim.momentum_dtype': 'bfloat16'}),
  Case('train.accumulation_steps=2', {'train.accumulation_steps': 2}),
  Case('train.remat=blocks', {'train.remat': 'blocks'}),
  Case('train.remat=stages', {'train.remat': 'stages'}),
  Case('model.dtype=bfloat16', {'model.dtype': 'bfloat16'}),
  Case(
    'model.dtype=bfloat16 train.remat=blocks',
    {'model.dtype': 'bfloat16', 'train.remat': 'blocks'},
  ),
)


def compile_step(case: Case, mesh: Mesh, images: int) -> jax.stages.Compiled:
  """The training step of a case, compiled for the devices of `mesh`."""
  config = base.get_config()
  config.update_from_flattened_dict(case.fields)
  model = build_model(config.model, NUM_CLASSES)
  variables = jax.eval_shape(lambda: init_variables(model, 0))
  settings = OptimSettings(**config.optim)
  trained = is_trained(variables['params'], config.model.frozen_stages)
  optimizer = make_optimizer(settings, Schedule(settings, 90000), trained=trained)
  state = jax.eval_shape(lambda v: create_train_state(v, optimizer), variables)
  batch = Batch(**empty_batch(images * mesh.size, CANVAS, INSTANCES))

  def placed(tree, *axes):
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  step = make_train_step(
    model,
    optimizer,
    mesh,
    accumulation_steps=config.train.accumulation_steps,
    remat=config.train.remat,
  )
  if not case.is_donated:
    step = jax.jit(step.__wrapped__)
  return step.lower(placed(state), placed(batch, DATA_AXIS)).compile()


def kept_bytes(dtype: str, remat: str, images: int) -> int:
  """What the forward pass of the network hands to its backward pass."""
  config = base.get_config()
  config.model.dtype = dtype
  model = build_model(config.model, NUM_CLASSES).clone(remat=remat, axis_name=None)
  variables = jax.eval_shape(lambda: init_variables(model, 0))
  batch = Batch(**empty_batch(images, CANVAS, INSTANCES))

  def backward(variables: dict, batch: Batch) -> jax.tree_util.Partial:
    def forward(params: dict) -> HeadOutputs:
      outputs, _ = model.apply(
        {**variables, 'params': params},
        batch.images,
        batch.image_size,
        batch.valid_size,
        train=True,
        mutable=['batch_stats'],
      )
      return outputs

    return jax.vjp(forward, variables['params'])[1]

  leaves = jax.tree.leaves(jax.eval_shape(backward, variables, batch))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--topology', default='')
  parser.add_argument('--images', type=int, default=2)
  parser.add_argument('--only', default='')
  parser.add_argument('--kept', action='store_true')
  arguments = parser.parse_args()
  if arguments.kept:
    print('MiB kept for the backward pass of the network')
    for dtype, remat in itertools.product(
      ('float32', 'bfloat16'), ('none', 'blocks', 'stages')
    ):
      size = kept_bytes(dtype, remat, arguments.images)
      print(f'{size / 2**20:6.0f} {dtype} {remat}', flush=True)
    return
  mesh = data_mesh(1)
  if arguments.topology:
    description = topologies.get_topology_desc(
      platform='tpu', topology_name=arguments.topology
    )
    mesh = Mesh(np.asarray(description.devices), (DATA_AXIS,))
  print('MiB a device: state and batch, results, scratch, all; operations a step')
  for case in CASES:
    if arguments.only not in ('', case.name):
      continue
    start = time.perf_counter()
    program = compile_step(case, mesh, arguments.images)
    memory = program.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    sizes = (memory.argument_size_in_bytes, new, memory.temp_size_in_bytes)
    numbers = ' '.join(f'{size / 2**20:6.0f}' for size in (*sizes, sum(sizes)))
    tera = program.cost_analysis()['flops'] / 1e12
    seconds = time.perf_counter() - start
    print(f'{numbers} {tera:6.2f}e12  {case.name} ({seconds:.0f} s)', flush=True)


if __name__ == '__main__':
  main()
