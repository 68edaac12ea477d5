"""How much of inference is the network, how many images a second, how much memory.

  python experiments/benchmarks/inference.py [--batch_size=1] [--rounds=5]
    [--dtype=float32] [--arch=R50]

A ResNet at 800x1333, 100 masks of a 640x480 image. In one run and in turn: the bare
network, the whole inference function, its two parts after the network, and one large
3x3 convolution, whose FLOP rate is what the machine can do. Memory is the compiler's
account of the inference function.
"""

import argparse
import statistics
from functools import partial

import jax
import jax.numpy as jnp
from full_size import OUTPUT_CANVAS, full_size_batch, full_size_model
from timing import add_arguments, measure, print_machine, ratio, show_times

from embedmask_jax.devices import data_mesh, replicate, split
from embedmask_jax.inference import make_inference
from embedmask_jax.postprocess import (
  DetectionSettings,
  assemble_masks,
  select_proposals,
)
from embedmask_jax.programs import memory_of

# Low enough for these weights to fill all 100 places.
SETTINGS = DetectionSettings(score_threshold=0.01)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--batch_size', type=int, default=1)
  add_arguments(parser, rounds=5)
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--arch', choices=('R50', 'R101'), default='R50')
  arguments = parser.parse_args()

  model, variables = full_size_model(arguments.dtype, arch=arguments.arch)
  mesh = data_mesh(1)
  variables = replicate(mesh, variables)
  batch = split(mesh, full_size_batch(arguments.batch_size))
  inputs = (batch.images, batch.image_size, batch.valid_size)

  forward = jax.jit(partial(model.apply, train=False)).lower(variables, *inputs)
  forward = forward.compile()
  outputs = forward(variables, *inputs)
  inference = make_inference(model, SETTINGS, mesh)
  inference = inference.lower(variables, batch, OUTPUT_CANVAS).compile()
  select = jax.jit(partial(select_proposals, settings=SETTINGS, preset=model.preset))
  found = select(outputs, batch.image_size, batch.valid_size)
  assemble = jax.jit(
    partial(
      assemble_masks,
      settings=SETTINGS,
      preset=model.preset,
      output_canvas=OUTPUT_CANVAS,
    )
  )
  sizes = (batch.image_size, batch.valid_size, batch.original_size)

  features = jnp.ones((arguments.batch_size, 100, 168, 256), arguments.dtype)
  kernel = jnp.ones((3, 3, 256, 256), arguments.dtype)
  convolution = jax.jit(
    lambda x, k: jax.lax.conv_general_dilated(
      x, k, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
  )

  print_machine()
  print(f'{int(found.valid.sum())} detections in {arguments.batch_size} image(s)')
  seconds = measure(
    {
      'network': lambda: forward(variables, *inputs),
      'inference': lambda: inference(variables, batch),
      'selection with NMS': lambda: select(outputs, *sizes[:2]),
      'masks': lambda: assemble(outputs, found, *sizes),
      '3x3 convolution': lambda: convolution(features, kernel),
    },
    arguments.rounds,
  )
  show_times(seconds, arguments.plot, f'Inference, {arguments.arch}, 800x1333')
  rate = arguments.batch_size / statistics.median(seconds['inference'])
  print(f'inference: {rate:.2f} images/s, {memory_of(inference)}')
  flops = forward.cost_analysis()['flops']
  rate = flops / statistics.median(seconds['network'])
  best = 2 * 9 * 256 * features.size / statistics.median(seconds['3x3 convolution'])
  print(f'inference / network: {ratio(seconds, "inference", "network"):.3f}')
  print(f'network: {flops / 1e9:.0f} GFLOP, {rate / 1e9:.0f} GFLOP/s')
  print(f'FLOP rate of the network / of the convolution: {rate / best:.3f}')


if __name__ == '__main__':
  main()
