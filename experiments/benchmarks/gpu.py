"""What a GPU makes of it, beside torchvision's Mask R-CNN on the same images.

  pip install torch torchvision
  python experiments/benchmarks/gpu.py [--batch_sizes=1,8,16,32] [--rounds=10]

bfloat16, ResNet-50, 800x1333, 100 masks of 640x480. In one run: the rate of a large
matrix product; for every batch size, as long as memory lasts, images/s of inference and
of the training step with the share of that rate that they use; the share of the time
that inference spends outside of convolutions, from a profile; and the images/s of
`maskrcnn_resnet50_fpn` with random weights, eager and compiled, from images on the
device to masks pasted to the original size. Not run on a GPU yet.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# PyTorch needs memory beside JAX.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax
import jax.numpy as jnp
from full_size import (
  IMAGE_SIZE,
  ORIGINAL_SIZE,
  OUTPUT_CANVAS,
  full_size_batch,
  full_size_model,
)
from timing import print_machine

from configs import base
from embedmask_jax.devices import data_mesh, replicate, split
from embedmask_jax.inference import make_inference
from embedmask_jax.optim import OptimSettings, Schedule, is_trained, make_optimizer
from embedmask_jax.postprocess import DetectionSettings
from embedmask_jax.train_state import create_train_state
from embedmask_jax.train_step import make_train_step

# Low enough for these weights to fill all 100 places.
SETTINGS = DetectionSettings(score_threshold=0.01)
MATRIX_SIDE = 8192
NUM_CLASSES = 91
CONVOLUTIONS = ('conv', 'cudnn', 'cutlass', 'gemm', 'dot', 'xmma')


def seconds_of(task: Callable[[], Any], rounds: int) -> float:
  """Median seconds of a task, run once to warm up."""
  jax.block_until_ready(task())
  seconds = []
  for _ in range(rounds):
    start = time.perf_counter()
    jax.block_until_ready(task())
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def matrix_rate(rounds: int) -> float:
  """FLOP/s of a bfloat16 matrix product."""
  matrix = jnp.ones((MATRIX_SIDE, MATRIX_SIDE), jnp.bfloat16)
  product = jax.jit(lambda a: a @ a)
  return 2 * MATRIX_SIDE**3 / seconds_of(lambda: product(matrix), rounds)


def measure_ours(batch_size: int, rounds: int, rate: float, *, is_profiled: bool):
  """Prints our images/s; returns that of inference."""
  model, variables = full_size_model('bfloat16')
  mesh = data_mesh(1)
  batch = split(mesh, full_size_batch(batch_size))
  variables = replicate(mesh, variables)
  inference = make_inference(model, SETTINGS, mesh)
  program = inference.lower(variables, batch, OUTPUT_CANVAS).compile()
  seconds = seconds_of(lambda: program(variables, batch), rounds)
  inference_rate = batch_size / seconds
  used = program.cost_analysis()['flops'] / seconds / rate
  print(
    f'batch {batch_size}: inference {inference_rate:.1f} images/s, {used:.3f} of it'
  )
  if is_profiled:
    print_profile(lambda: jax.block_until_ready(program(variables, batch)))

  settings = OptimSettings(**base.get_config().optim)
  trained = is_trained(variables['params'], model.frozen_stages)
  optimizer = make_optimizer(settings, Schedule(settings, 90000), trained=trained)
  state = replicate(mesh, create_train_state(variables, optimizer))
  step = make_train_step(model, optimizer, mesh).lower(state, batch).compile()

  def update() -> Any:
    nonlocal state
    state, metrics = step(state, batch)
    return metrics

  seconds = seconds_of(update, rounds)
  used = step.cost_analysis()['flops'] / seconds / rate
  print(f'batch {batch_size}: training {batch_size / seconds:.1f} images/s, {used:.3f}')
  return inference_rate


def print_profile(task: Callable[[], Any]) -> None:
  """Prints which share of the device's time is spent outside of convolutions."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      task()
    [path] = Path(folder).glob('**/*.xplane.pb')
    profile = jax.profiler.ProfileData.from_file(str(path))
    spent = {True: 0.0, False: 0.0}
    for plane in profile.planes:
      if not plane.name.startswith('/device:'):
        continue
      for line in plane.lines:
        if not line.name.startswith('Stream'):
          continue
        for event in line.events:
          is_convolution = any(word in event.name.lower() for word in CONVOLUTIONS)
          spent[is_convolution] += event.duration_ns
  total = sum(spent.values())
  share = (
    f'{spent[False] / total:.3f}' if total else 'unknown: no device in the profile'
  )
  print(f'  time outside of convolutions: {share}')


def measure_mask_rcnn(batch_size: int, rounds: int) -> float:
  """Prints and returns images/s of Mask R-CNN, the better of eager and compiled."""
  import torch
  import torchvision

  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = torchvision.models.detection.maskrcnn_resnet50_fpn(
    weights=None, weights_backbone=None, num_classes=NUM_CLASSES, box_score_thresh=0.0
  )
  model = model.eval().to(device)
  images = [torch.rand(3, *IMAGE_SIZE, device=device) for _ in range(batch_size)]
  paste = torchvision.models.detection.roi_heads.paste_masks_in_image
  scale = torch.tensor(
    [o / i for o, i in zip(ORIGINAL_SIZE[::-1] * 2, IMAGE_SIZE[::-1] * 2, strict=True)],
    device=device,
  )
  # The masks come pasted at the size of the input; here, at that of the original.
  model.transform.postprocess = lambda result, *_: [
    {
      **found,
      'masks': paste(found['masks'], found['boxes'] * scale, ORIGINAL_SIZE) > 0.5,
    }
    for found in result
  ]
  rates = []
  for name, network in (('eager', model), ('compiled', torch.compile(model))):

    def run(network: Any = network) -> None:
      with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        found = network(images)
      assert found[0]['masks'].shape[-2:] == ORIGINAL_SIZE
      if device == 'cuda':
        torch.cuda.synchronize()

    rates.append(batch_size / seconds_of(run, rounds))
    print(f'batch {batch_size}: Mask R-CNN, {name}, {rates[-1]:.1f} images/s')
  return max(rates)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--batch_sizes', default='1,8,16,32')
  parser.add_argument('--rounds', type=int, default=10)
  arguments = parser.parse_args()
  print_machine()
  rate = matrix_rate(arguments.rounds)
  print(f'matrix product in bfloat16: {rate / 1e12:.1f} TFLOP/s')
  ours = {}
  for batch_size in map(int, arguments.batch_sizes.split(',')):
    try:
      ours[batch_size] = measure_ours(
        batch_size, arguments.rounds, rate, is_profiled=batch_size == 8
      )
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      print(f'batch {batch_size}: does not fit')
      break
  for batch_size in sorted({1, 8} & set(ours)):
    theirs = measure_mask_rcnn(batch_size, arguments.rounds)
    print(f'batch {batch_size}: ours / Mask R-CNN {ours[batch_size] / theirs:.2f}')


if __name__ == '__main__':
  main()
