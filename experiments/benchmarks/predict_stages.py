"""Whether reading, the device and writing overlap in the command `predict`.

  python experiments/benchmarks/predict_stages.py CHECKPOINT IMAGES...
    [--device_seconds=0.1] [--rounds=3] [--save=overlay]

The same images one thing after another (no threads) and in stages, in turn in one run.
With --device_seconds the network is run once for each size, and then stands still for
that long a batch while the processor is free, as with an accelerator: the share of the
time in which it is busy says how well the host keeps up. Without, the network shares
the processor with the other stages.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from timing import add_arguments, measure, print_machine, ratio, show_times

from embedmask_jax.checkpoint import open_checkpoint
from embedmask_jax.image_files import find_images, output_names
from embedmask_jax.predict import Predictor
from embedmask_jax.predict.files import THREADS, FileRun
from embedmask_jax.predict.outputs import OutputFiles
from embedmask_jax.predict.summary import Summary


class TimedDevice(Predictor):
  """A predictor whose device takes a given time, and remembers how often."""

  seconds = 0.0
  busy = 0.0

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self._device = ThreadPoolExecutor(1)
    self._known: dict[Any, Any] = {}

  def _launch(self, rows: list, kind: Any) -> Any:
    if kind not in self._known:
      self._known[kind] = jax.device_get(super()._launch(rows, kind))
    return self._device.submit(self._stand_still, kind)

  def _stand_still(self, kind: Any) -> Any:
    time.sleep(self.seconds)
    TimedDevice.busy += self.seconds
    return self._known[kind]

  def _fetch(self, on_device: Any) -> Any:
    assert isinstance(on_device, Future)
    return on_device.result()


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('checkpoint')
  parser.add_argument('images', nargs='+')
  parser.add_argument('--device_seconds', type=float, default=0.0)
  add_arguments(parser, rounds=3)
  parser.add_argument('--threads', type=int, default=THREADS)
  parser.add_argument('--save', default='overlay')
  arguments = parser.parse_args()

  stored = open_checkpoint(arguments.checkpoint)
  TimedDevice.seconds = arguments.device_seconds
  kind = TimedDevice if arguments.device_seconds else Predictor
  predictor = kind(stored, stored.metadata.config)
  paths = find_images(arguments.images)
  busy: dict[int, list[float]] = {0: [], arguments.threads: []}

  def run(threads: int) -> None:
    before, start = TimedDevice.busy, time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
      FileRun(
        predictor,
        OutputFiles(Path(name), arguments.save.split(',')),
        Path(name),
        output_names(paths),
        Summary(paths, max_detections=predictor.max_detections),
        threads,
      ).images(paths)
    share = (TimedDevice.busy - before) / (time.perf_counter() - start)
    busy[threads].append(share)

  print_machine()
  seconds = measure(
    {'one after another': lambda: run(0), 'in stages': lambda: run(arguments.threads)},
    arguments.rounds,
  )
  print(f'{len(paths)} images')
  show_times(seconds, arguments.plot, 'Stages of prediction')
  print(
    f'one after another / in stages: '
    f'{ratio(seconds, "one after another", "in stages"):.2f}'
  )
  if arguments.device_seconds:
    for threads, name in ((0, 'one after another'), (arguments.threads, 'in stages')):
      share = statistics.median(busy[threads][1:])
      print(f'device busy, {name}: {share:.2f} of the time')


if __name__ == '__main__':
  main()
