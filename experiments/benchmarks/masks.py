"""Mask assembly alone: over proposals, and over the size of the original.

  python experiments/benchmarks/masks.py [--rounds=3]

One image of 800x1333. Times in turn in one run; memory is what the compiler sets aside
beside arguments and result.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from full_size import CANVAS, IMAGE_SIZE
from timing import add_arguments, measure, print_machine, show_times

from embedmask_jax.ops.locations import locations
from embedmask_jax.postprocess import DetectionSettings, Proposals, assemble_masks
from embedmask_jax.presets import PRESETS
from embedmask_jax.structures import HeadOutputs

EMBEDDING_DIM = 16
CASES = [
  (10, (480, 640)),
  (100, (480, 640)),
  (400, (480, 640)),
  (100, (960, 1280)),
  (100, (1536, 2048)),
]


def random_case(count: int) -> tuple[HeadOutputs, Proposals]:
  """Head outputs of one image, and `count` proposals with boxes of all sizes."""
  rng = np.random.default_rng(0)
  height, width = IMAGE_SIZE
  points = locations(CANVAS)
  shape = (1, len(points))
  low = rng.random((1, count, 2)) * [0.8 * width, 0.8 * height]
  side = rng.uniform(10, 0.5 * height, (1, count, 2))
  high = np.minimum(low + side, [width - 1, height - 1])
  normal = rng.standard_normal

  def array(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)

  outputs = HeadOutputs(
    class_logits=jnp.zeros((*shape, 1)),
    box_regression=jnp.zeros((*shape, 4)),
    centerness=jnp.zeros(shape),
    proposal_embedding=array(normal((*shape, EMBEDDING_DIM))),
    margin=array(rng.random((*shape, EMBEDDING_DIM))),
    pixel_embedding=array(normal((1, CANVAS[0] // 8, CANVAS[1] // 8, EMBEDDING_DIM))),
  )
  found = Proposals(
    boxes=array(np.concatenate([low, high], axis=-1)),
    scores=jnp.ones((1, count)),
    labels=jnp.zeros((1, count), jnp.int32),
    valid=jnp.ones((1, count), bool),
    location=jnp.asarray(rng.integers(0, len(points), (1, count)), jnp.int32),
    num_candidates=jnp.full(1, count),
    num_kept=jnp.full(1, count),
  )
  return outputs, found


def main() -> None:
  parser = argparse.ArgumentParser()
  add_arguments(parser, rounds=3)
  arguments = parser.parse_args()

  image_size = jnp.asarray([IMAGE_SIZE], jnp.int32)
  valid_size = jnp.asarray([CANVAS], jnp.int32)
  tasks, megabytes = {}, {}
  for count, original in CASES:
    assemble = partial(
      assemble_masks,
      settings=DetectionSettings(max_detections=count),
      preset=PRESETS['2021'],
      output_canvas=original,
    )
    inputs = (
      *random_case(count),
      image_size,
      valid_size,
      jnp.asarray([original], jnp.int32),
    )
    compiled = jax.jit(assemble).lower(*inputs).compile()
    name = f'{count} masks of {original[1]}x{original[0]}'
    tasks[name] = partial(compiled, *inputs)
    megabytes[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20

  print_machine()
  show_times(
    measure(tasks, arguments.rounds), arguments.plot, 'Masks of an image of 800x1333'
  )
  for name, size in megabytes.items():
    print(f'{name}: {size:.0f} MiB')


if __name__ == '__main__':
  main()
