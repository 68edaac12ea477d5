"""What each lever does to the memory of a training step, by the compiler's account.

  python -m experiments.memory.measure [--images=2] [--only=NAME]
  python -m experiments.memory.measure --kept [--images=2]
  python -m experiments.memory.measure --losses [--images=2]

ResNet-50 at 800x1344 with the paper's config. Nothing is run: the step is compiled for
one CPU.
With --kept nothing is compiled either: it counts what the network's forward pass hands
to its backward pass, as the program is written. With --losses it is targets, losses and
their gradients alone that are compiled, for more and more instances.
"""

import argparse
import dataclasses
import itertools
import time
from functools import partial
from typing import Any

import jax

from configs import base
from embedmask_jax.compile_ahead import placed
from embedmask_jax.data.transforms import empty_batch
from embedmask_jax.devices import data_mesh
from embedmask_jax.losses import compute_losses, normalisers
from embedmask_jax.models.factory import build_model, init_variables
from embedmask_jax.programs import memory_of
from embedmask_jax.structures import DATA_AXIS, Batch, HeadOutputs
from embedmask_jax.targets import assign_targets
from embedmask_jax.train import set_up
from embedmask_jax.train_state import abstract_state

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


def compile_step(case: Case, images: int) -> jax.stages.Compiled:
  """The training step of a case, compiled for one CPU."""
  config = base.get_config()
  config.update_from_flattened_dict(case.fields)
  mesh = data_mesh(1)
  training = set_up(config, NUM_CLASSES, mesh)
  state = abstract_state(
    training.variables, training.optimizer, has_ema=config.train.ema_decay > 0
  )
  batch = Batch(**empty_batch(images, CANVAS, INSTANCES))
  step: Any = training.train_step
  if not case.is_donated:
    step = jax.jit(step.__wrapped__)
  return step.lower(placed(mesh, state), placed(mesh, batch, DATA_AXIS)).compile()


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


def compile_losses(instances: int, images: int) -> jax.stages.Compiled:
  """Targets, losses and their gradients with respect to the head outputs."""
  model = build_model(base.get_config().model, NUM_CLASSES).clone(axis_name=None)
  batch = Batch(**empty_batch(images, CANVAS, instances))
  inputs = (batch.images, batch.image_size, batch.valid_size)
  outputs, _ = jax.eval_shape(
    partial(model.init_with_output, train=True), jax.random.key(0), *inputs
  )

  def total_loss(outputs: HeadOutputs, batch: Batch) -> jax.Array:
    targets = assign_targets(batch, model.preset)
    total = normalisers(batch, targets)
    losses = compute_losses(outputs, targets, batch, total, preset=model.preset)
    return sum(losses.values())

  return jax.jit(jax.grad(total_loss)).lower(outputs, batch).compile()


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--images', type=int, default=2)
  parser.add_argument('--only', default='')
  parser.add_argument('--kept', action='store_true')
  parser.add_argument('--losses', action='store_true')
  arguments = parser.parse_args()
  if arguments.losses:
    print('MiB of scratch for targets, losses and their gradients')
    for instances in (32, 128, 512):
      program = compile_losses(instances, arguments.images)
      scratch = memory_of(program).scratch
      print(f'{scratch / 2**20:6.0f} {instances} instances', flush=True)
    return
  if arguments.kept:
    print('MiB kept for the backward pass of the network')
    for dtype, remat in itertools.product(
      ('float32', 'bfloat16'), ('none', 'blocks', 'stages')
    ):
      size = kept_bytes(dtype, remat, arguments.images)
      print(f'{size / 2**20:6.0f} {dtype} {remat}', flush=True)
    return
  print('MiB a device: state and batch, results, scratch, all; operations a step')
  for case in CASES:
    if arguments.only not in ('', case.name):
      continue
    start = time.perf_counter()
    program = compile_step(case, arguments.images)
    memory = memory_of(program)
    assert memory is not None
    sizes = (memory.arguments, memory.results, memory.scratch, memory.total)
    numbers = ' '.join(f'{size / 2**20:6.0f}' for size in sizes)
    tera = program.cost_analysis()['flops'] / 1e12
    seconds = time.perf_counter() - start
    print(f'{numbers} {tera:6.2f}e12  {case.name} ({seconds:.0f} s)', flush=True)


if __name__ == '__main__':
  main()
