"""What a run says while it goes: a progress bar, or lines where nobody watches."""

import logging
import math
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm


class Progress:
  """Averages the metrics of the steps, measures the speed, and shows both.

  With a terminal on stderr it is a bar that moves with every step; otherwise
  `report` logs a line. Usable as a context manager.
  """

  def __init__(self, *, first_step: int, num_steps: int, batch_size: int):
    """Starts at `first_step` of `num_steps`, of `batch_size` images each."""
    self._num_steps = num_steps
    self._batch_size = batch_size
    self._is_watched = sys.stderr.isatty()
    self._bar = tqdm(
      total=num_steps,
      initial=first_step,
      disable=not self._is_watched,
      dynamic_ncols=True,
      unit='step',
    )
    self._sums: dict[str, float] = {}
    self._count = 0
    self._timed_steps = 0
    self._since: float | None = None

  def add(self, metrics: Mapping[str, float]) -> None:
    """Counts a finished step."""
    for name, value in metrics.items():
      self._sums[name] = self._sums.get(name, 0.0) + value
    self._count += 1
    # The clock starts when a step ends: the first one holds the compilation.
    if self._since is None:
      self._since = time.perf_counter()
    else:
      self._timed_steps += 1
    self._bar.update()

  def pause(self) -> None:
    """Stops the clock, for an evaluation or a checkpoint, until the next step."""
    self._since = None
    self._timed_steps = 0

  def report(self, step: int, learning_rate: float) -> dict[str, float]:
    """Shows and returns the means since the last report, and the speed.

    Args:
      step: updates done.
      learning_rate: of the last of them.

    Returns:
      The means under their names, `learning_rate`, and `images_per_second` where at
      least one step was timed.
    """
    means = {name: total / self._count for name, total in self._sums.items()}
    means['learning_rate'] = learning_rate
    seconds_left = math.nan
    if self._timed_steps and self._since is not None:
      per_step = (time.perf_counter() - self._since) / self._timed_steps
      means['images_per_second'] = self._batch_size / per_step
      seconds_left = per_step * (self._num_steps - step)
    text = _describe(means)
    if self._is_watched:
      self._bar.set_postfix_str(text)
    else:
      left = '' if math.isnan(seconds_left) else f', {_duration(seconds_left)} left'
      logging.getLogger(__name__).info(
        'step %d/%d: %s%s', step, self._num_steps, text, left
      )
    self._sums, self._count = {}, 0
    self.pause()
    self._since = time.perf_counter()
    return means

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_: object) -> None:
    self._bar.close()


def _describe(means: Mapping[str, float]) -> str:
  parts = ', '.join(
    f'{name.removeprefix("loss/")} {value:.3f}'
    for name, value in means.items()
    if name.startswith('loss/')
  )
  text = f'loss {means["loss"]:.3f} ({parts}), rate {means["learning_rate"]:.2e}'
  if 'images_per_second' in means:
    text += f', {means["images_per_second"]:.1f} images/s'
  return text


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}'
