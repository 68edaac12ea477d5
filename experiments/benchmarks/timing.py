"""Times several things in turn in one run, so that their ratios mean something."""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from embedmask_jax.charts import bar_chart


def measure(
  tasks: Mapping[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
  """Runs every task once to warm up, then all of them in turn, `rounds` times.

  Returns:
    Seconds of every round, by task.
  """
  for task in tasks.values():
    jax.block_until_ready(task())
  seconds: dict[str, list[float]] = {name: [] for name in tasks}
  for _ in range(rounds):
    for name, task in tasks.items():
      start = time.perf_counter()
      jax.block_until_ready(task())
      seconds[name].append(time.perf_counter() - start)
  return seconds


def ratio(seconds: Mapping[str, list[float]], above: str, below: str) -> float:
  """The median over the rounds of how much longer one task took than the other."""
  pairs = zip(seconds[above], seconds[below], strict=True)
  return statistics.median(a / b for a, b in pairs)


def add_arguments(parser: argparse.ArgumentParser, rounds: int) -> None:
  """Adds --rounds and --plot, which all benchmarks have."""
  parser.add_argument('--rounds', type=int, default=rounds)
  parser.add_argument('--plot', type=Path, help='.svg file to draw the medians into')


def show_times(
  seconds: Mapping[str, list[float]], plot: Path | None, title: str
) -> None:
  """Prints medians and best times of what `measure` gave; draws the medians."""
  print(f'{"":24s}{"median":>10s}{"best":>10s}')
  for name, values in seconds.items():
    print(f'{name:24s}{statistics.median(values):9.3f}s{min(values):9.3f}s')
  if plot:
    medians = [statistics.median(values) for values in seconds.values()]
    size = (140 * len(medians) + 66, 300)
    chart = bar_chart(
      list(seconds), medians, title=title, x_name='median seconds', size=size
    )
    plot.write_text(chart)


def print_machine() -> None:
  cpu = next(
    (
      line.split(':')[1].strip()
      for line in Path('/proc/cpuinfo').read_text().splitlines()
      if line.startswith('model name')
    ),
    platform.processor(),
  )
  device = jax.devices()[0]
  print(
    f'{cpu}, {len(os.sched_getaffinity(0))} cores, '
    f'{device.platform} {device.device_kind}, Python {platform.python_version()}, '
    f'jax {jax.__version__}'
  )
