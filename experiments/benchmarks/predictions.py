"""What it saves to compute the predictions of the box tower as one convolution.

  python experiments/benchmarks/predictions.py [--rounds=15]

The five of preset 2021 (regression, centerness, embedding in two parts, margin) on P3
of an image of 800x1333, float32: in one run and in turn, as five convolutions and as
one, forward and backward.
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from full_size import CANVAS
from timing import add_arguments, measure, print_machine, ratio, show_times

from embedmask_jax.ops.convolution import convolve
from embedmask_jax.structures import Array

CHANNELS = (4, 1, 2, 14, 16)


def separate(features: Array, kernels: Sequence[Array]) -> list[Array]:
  return [convolve(features, kernel) for kernel in kernels]


def joint(features: Array, kernels: Sequence[Array]) -> list[Array]:
  outputs = convolve(features, jnp.concatenate(kernels, axis=-1))
  return jnp.split(outputs, np.cumsum(CHANNELS)[:-1], axis=-1)


def main() -> None:
  parser = argparse.ArgumentParser()
  add_arguments(parser, rounds=15)
  arguments = parser.parse_args()
  keys = jax.random.split(jax.random.key(0), 2 * len(CHANNELS) + 1)
  shape = (1, CANVAS[0] // 8, CANVAS[1] // 8)
  features = jax.random.normal(keys[0], (*shape, 256))
  kernels = [
    0.01 * jax.random.normal(key, (3, 3, 256, channels))
    for key, channels in zip(keys[1::2], CHANNELS, strict=True)
  ]
  cotangents = [
    jax.random.normal(key, (*shape, channels))
    for key, channels in zip(keys[2::2], CHANNELS, strict=True)
  ]

  def backward(function):
    return jax.jit(lambda *inputs: jax.vjp(function, *inputs)[1](cotangents))

  tasks = {
    f'{name}, {direction}': lambda program=program: program(features, kernels)
    for name, function in (('five', separate), ('one', joint))
    for direction, program in (
      ('forward', jax.jit(function)),
      ('backward', backward(function)),
    )
  }
  print_machine()
  seconds = measure(tasks, arguments.rounds)
  show_times(seconds, arguments.plot, 'Predictions of the box tower on P3')
  for direction in ('forward', 'backward'):
    found = ratio(seconds, f'one, {direction}', f'five, {direction}')
    print(f'one / five, {direction}: {found:.2f}')


if __name__ == '__main__':
  main()
