"""What a training step costs beside the network's forward pass.

  python experiments/benchmarks/train_step.py [--instances=16] [--rounds=3] [--arch=R50]

A ResNet, one image of 800x1333, SGD as in the paper's config. In one run and in turn:
the forward pass, the whole step, and targets with all losses and their gradients with
respect to the head outputs.
"""

import argparse

import jax
from full_size import full_size_batch, full_size_model
from timing import add_arguments, measure, print_machine, ratio, show_times

from configs import base
from embedmask_jax.devices import data_mesh, replicate, split
from embedmask_jax.losses import compute_losses, normalisers
from embedmask_jax.optim import OptimSettings, Schedule, is_trained, make_optimizer
from embedmask_jax.structures import Batch, HeadOutputs
from embedmask_jax.targets import assign_targets
from embedmask_jax.train_state import create_train_state
from embedmask_jax.train_step import make_train_step


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--instances', type=int, default=16)
  add_arguments(parser, rounds=3)
  parser.add_argument('--arch', choices=('R50', 'R101'), default='R50')
  arguments = parser.parse_args()

  model, variables = full_size_model(arch=arguments.arch)
  mesh = data_mesh(1)
  batch = split(mesh, full_size_batch(1, arguments.instances))
  settings = OptimSettings(**base.get_config().optim)
  trained = is_trained(variables['params'], model.frozen_stages)
  optimizer = make_optimizer(settings, Schedule(settings, 90000), trained=trained)
  state = replicate(mesh, create_train_state(variables, optimizer))
  step = make_train_step(model, optimizer, mesh)

  @jax.jit
  def forward(variables: dict, batch: Batch) -> HeadOutputs:
    return model.apply(
      variables, batch.images, batch.image_size, batch.valid_size, train=True
    )

  @jax.jit
  @jax.grad
  def losses(outputs: HeadOutputs, batch: Batch) -> jax.Array:
    targets = assign_targets(batch, model.preset)
    total = normalisers(batch, targets)
    values = compute_losses(outputs, targets, batch, total, preset=model.preset)
    return sum(values.values())

  variables = replicate(mesh, variables)
  outputs = forward(variables, batch)

  def update() -> dict:
    nonlocal state
    state, metrics = step(state, batch)
    return metrics

  print_machine()
  seconds = measure(
    {
      'forward': lambda: forward(variables, batch),
      'step': update,
      'targets and losses': lambda: losses(outputs, batch),
    },
    arguments.rounds,
  )
  show_times(seconds, arguments.plot, f'Training step, {arguments.arch}, 800x1333')
  print(f'step / forward: {ratio(seconds, "step", "forward"):.2f}')
  share = ratio(seconds, 'targets and losses', 'step')
  print(f'targets and losses / step, {arguments.instances} instances: {share:.3f}')


if __name__ == '__main__':
  main()
