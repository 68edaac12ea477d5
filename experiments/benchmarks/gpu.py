"""What a GPU makes of it, beside torchvision's Mask R-CNN on the same images.

  pip install torch torchvision
  python experiments/benchmarks/gpu.py [--rounds=10] [--limit=540]

bfloat16, ResNet-50, 800x1333, 100 masks of 640x480, random weights that give tens of
detections. In one run: the images/s of Mask R-CNN, in a process of its own
(mask_rcnn.py); the rate of a large matrix product; the images/s of inference and
training step at batch 8, at 1, and at the largest that memory should hold, and of the
bare network, with the share of that rate that their convolutions use; inference with
its masks in one part; and where the time of inference goes, from a profile. Nothing
begins after --limit seconds; what is left out or fails is said. Not run on a GPU yet.
"""

import argparse
import dataclasses
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# What the allocator says when memory is short would drown the figures.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import jax
import jax.numpy as jnp
from convolution_flops import convolution_flops
from full_size import OUTPUT_CANVAS, full_size_batch, full_size_model
from timing import print_machine

from configs import base
from embedmask_jax.devices import data_mesh, replicate, split
from embedmask_jax.inference import make_inference
from embedmask_jax.optim import OptimSettings, Schedule, is_trained, make_optimizer
from embedmask_jax.postprocess import DetectionSettings
from embedmask_jax.programs import memory_of
from embedmask_jax.train_state import create_train_state
from embedmask_jax.train_step import make_train_step

# Low enough for these weights to fill all 100 places.
SETTINGS = DetectionSettings(score_threshold=0.01)
MATRIX_SIDE = 8192
PRODUCTS = 50
# Feature maps of more images have more elements than cuDNN counts in 32 bits.
MOST_IMAGES = 120
# Kernels of convolutions that say not whose they are.
CONVOLUTION_KERNEL = re.compile(r'conv(?!ert)|cudnn|xmma|fprop|nvjet', re.IGNORECASE)
SHOWN_KERNELS = 8


@dataclasses.dataclass(frozen=True)
class Measured:
  """A compiled function at one batch size; bytes of memory by the compiler."""

  images_per_second: float
  memory: int


class Benchmark:
  """Our functions on one GPU."""

  def __init__(self, rounds: int):
    """Makes model and weights, and measures the rate of a matrix product."""
    self._rounds = rounds
    self._model, variables = full_size_model('bfloat16')
    self._mesh = data_mesh(1)
    self._variables = replicate(self._mesh, variables)
    self._images = full_size_batch(8)
    self._rate = self._matrix_rate()
    print(f'matrix product in bfloat16: {self._rate / 1e12:.1f} TFLOP/s')

  def network(self, batch_size: int) -> Measured:
    """Measures the bare network."""
    batch = self._batch(batch_size)
    inputs = (batch.images, batch.image_size, batch.valid_size)
    function = jax.jit(partial(self._model.apply, train=False))
    program, flops = _compiled(function, self._variables, *inputs)
    task = partial(program, self._variables, *inputs)
    return self._show('network', batch_size, program, flops, task)

  def inference(
    self, batch_size: int, *, settings: DetectionSettings = SETTINGS
  ) -> Measured:
    """Measures everything from pixels to masks."""
    batch = self._batch(batch_size)
    function = make_inference(self._model, settings, self._mesh)
    program, flops = _compiled(function, self._variables, batch, OUTPUT_CANVAS)
    found = program(self._variables, batch)
    masks = int(found.valid.sum()) / batch_size
    print(f'batch {batch_size}: {masks:.0f} masks an image')
    task = partial(program, self._variables, batch)
    self._latest = program, task
    return self._show('inference', batch_size, program, flops, task)

  def inference_profiled(self, batch_size: int) -> Measured:
    """Measures inference again, and prints where its time goes."""
    measured = self.inference(batch_size)
    print_profile(*self._latest, batch_size / measured.images_per_second)
    return measured

  def training(self, batch_size: int) -> Measured:
    """Measures the training step."""
    batch = self._batch(batch_size)
    settings = OptimSettings(**base.get_config().optim)
    # The step gives its state's memory away; the weights are used again.
    variables = jax.tree.map(jnp.copy, self._variables)
    trained = is_trained(variables['params'], self._model.frozen_stages)
    optimizer = make_optimizer(settings, Schedule(settings, 90000), trained=trained)
    state = replicate(self._mesh, create_train_state(variables, optimizer))
    function = make_train_step(self._model, optimizer, self._mesh)
    program, flops = _compiled(function, state, batch)

    def update() -> Any:
      nonlocal state
      state, metrics = program(state, batch)
      return metrics

    return self._show('training', batch_size, program, flops, update)

  def _batch(self, batch_size: int) -> Any:
    repeated = jax.tree.map(
      lambda leaf: leaf[jnp.arange(batch_size) % len(leaf)], self._images
    )
    return split(self._mesh, repeated)

  def _show(
    self,
    name: str,
    batch_size: int,
    program: Any,
    flops: float,
    task: Callable[[], Any],
  ) -> Measured:
    seconds = seconds_of(task, self._rounds, calls=max(16 // batch_size, 1))
    memory = memory_of(program).total
    used = flops / seconds / self._rate
    print(
      f'batch {batch_size}: {name} {batch_size / seconds:.1f} images/s, {used:.3f} of '
      f'the matrix rate, {memory / 2**30:.2f} GiB'
    )
    return Measured(batch_size / seconds, memory)

  def _matrix_rate(self) -> float:
    """FLOP/s of bfloat16 products of random matrices, one after another."""
    a, b = (
      jax.random.normal(key, (MATRIX_SIDE, MATRIX_SIDE), jnp.bfloat16)
      for key in jax.random.split(jax.random.key(0))
    )
    b *= MATRIX_SIDE**-0.5
    products = jax.jit(
      lambda a, b: jax.lax.fori_loop(0, PRODUCTS, lambda _, x: x @ b, a)
    )
    seconds = seconds_of(partial(products, a, b), self._rounds, calls=1)
    return PRODUCTS * 2 * MATRIX_SIDE**3 / seconds


def seconds_of(task: Callable[[], Any], rounds: int, *, calls: int) -> float:
  """Median seconds of a call, of rounds of several calls with one wait at their end."""
  for _ in range(2):
    jax.block_until_ready(task())
  seconds = []
  for _ in range(rounds):
    start = time.perf_counter()
    for _ in range(calls):
      result = task()
    jax.block_until_ready(result)
    seconds.append((time.perf_counter() - start) / calls)
  return statistics.median(seconds)


def _compiled(function: Any, *arguments: Any) -> tuple[Any, float]:
  """The program, and the FLOPs of its convolutions."""
  traced = function.trace(*arguments)
  return traced.lower().compile(), convolution_flops(traced.jaxpr)


def print_profile(program: Any, task: Callable[[], Any], seconds: float) -> None:
  """Prints which shares of the time are convolutions, all else, and waiting.

  Args:
    program: compiled.
    task: calls it.
    seconds: of a call, without a profiler.
  """
  named = re.findall(
    r'%([\w.\-]+) = [^\n]*op_name="[^"]*conv_general_dilated', program.as_text()
  )
  convolutions = {name for name in named if 'convert' not in name}
  spent: dict[tuple[str, bool], float] = {}
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(task())
    path = max(Path(folder).glob('**/*.xplane.pb'), default=None)
    if path is None:
      print('  the profiler has written nothing')
      return
    profile = jax.profiler.ProfileData.from_file(str(path))
    for plane in profile.planes:
      for line in plane.lines:
        is_kernels = plane.name.startswith('/device:GPU') and 'Stream' in line.name
        for event in line.events if is_kernels else ():
          operation = dict(event.stats).get('hlo_op')
          is_convolution = (
            operation in convolutions
            if operation
            else bool(CONVOLUTION_KERNEL.search(event.name))
          )
          key = (f'{operation} {event.name}', is_convolution)
          spent[key] = spent.get(key, 0.0) + event.duration_ns * 1e-9
  inside = sum(value for (_, is_one), value in spent.items() if is_one)
  busy = sum(spent.values())
  if not inside:
    print('  the profile has no kernel that was recognised as a convolution')
  print(
    f'  of {seconds:.4f} s: convolutions {inside / seconds:.3f}, other kernels '
    f'{(busy - inside) / seconds:.3f}, waiting {max(1 - busy / seconds, 0):.3f}'
  )
  longest = sorted(spent.items(), key=lambda item: item[1], reverse=True)
  for (name, is_one), value in longest[:SHOWN_KERNELS]:
    kind = 'convolution' if is_one else 'other'
    print(f'  {value / seconds:.3f} {kind}: {name[:100]}')


def mask_rcnn_rates(batch_size: int, rounds: int, limit: float) -> dict[str, float]:
  """Runs mask_rcnn.py; the images/s by what was done, as far as it came."""
  script = Path(__file__).with_name('mask_rcnn.py')
  command = [sys.executable, '-u', script, f'--batch_size={batch_size}']
  command.append(f'--rounds={rounds}')
  with tempfile.TemporaryFile('w+') as output:
    try:
      done = subprocess.run(
        command,
        stdout=output,
        timeout=limit,
        check=False,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      )
      if done.returncode:
        print(f'batch {batch_size}: Mask R-CNN failed, status {done.returncode}')
    except subprocess.TimeoutExpired:
      print(f'batch {batch_size}: Mask R-CNN was stopped after {limit:.0f} s')
    output.seek(0)
    text = output.read()
  print(text, end='')
  rates = re.findall(r'Mask R-CNN, (.+): ([\d.]+) images/s', text)
  return {name: float(rate) for name, rate in rates}


def largest(memory: dict[int, int]) -> int:
  """The batch that 90 % of the memory should hold, from the bytes of two others."""
  limit = 0.9 * jax.devices()[0].memory_stats()['bytes_limit']
  (few, less), (many, more) = sorted(memory.items())
  images = many + (limit - more) / ((more - less) / (many - few))
  return min(int(images) // 8 * 8, MOST_IMAGES)


def main() -> None:
  start = time.monotonic()
  parser = argparse.ArgumentParser()
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument('--limit', type=float, default=540, help='seconds')
  arguments = parser.parse_args()
  sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

  # Before JAX takes the GPU's memory.
  theirs = {
    batch_size: mask_rcnn_rates(batch_size, arguments.rounds, limit)
    for batch_size, limit in ((8, 150), (1, 60))
  }
  print_machine()
  if jax.default_backend() != 'gpu':
    sys.exit(f'no GPU: jax has {jax.devices()}')
  ours = Benchmark(arguments.rounds)

  def attempt(
    name: str, measure: Callable[[int], Measured], batch_size: int
  ) -> Measured | None:
    if time.monotonic() - start > arguments.limit:
      print(f'batch {batch_size}: no time left for {name}')
      return None
    try:
      return measure(batch_size)
    # The figures of the others are not to be lost by whatever one of them meets.
    except Exception as error:
      message = (str(error).splitlines() or [''])[0]
      print(f'batch {batch_size}: {name} failed ({type(error).__name__}: {message})')
      return None

  memory: dict[str, dict[int, int]] = {'inference': {}, 'training': {}}
  for batch_size in (8, 1):
    if found := attempt('inference', ours.inference, batch_size):
      memory['inference'][batch_size] = found.memory
      for name, rate in theirs[batch_size].items():
        ratio = found.images_per_second / rate
        print(f'batch {batch_size}: ours / Mask R-CNN, {name}: {ratio:.2f}')
    if found := attempt('training', ours.training, batch_size):
      memory['training'][batch_size] = found.memory
  attempt('network', ours.network, 8)
  for name, measure in (('inference', ours.inference), ('training', ours.training)):
    if len(memory[name]) == 2 and (most := largest(memory[name])) > 8:
      attempt(name, measure, most)
  whole = dataclasses.replace(SETTINGS, mask_chunk=SETTINGS.max_detections)
  in_one_part = partial(ours.inference, settings=whole)
  attempt('inference, masks in one part', in_one_part, 8)
  attempt('profile', ours.inference_profiled, 8)


if __name__ == '__main__':
  main()
