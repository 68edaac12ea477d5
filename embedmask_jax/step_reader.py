"""What a step gave, read a step later, so that the device is never idle."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.transforms import Arrays
from embedmask_jax.metrics.writer import MetricWriter
from embedmask_jax.optim import Schedule
from embedmask_jax.progress import Progress
from embedmask_jax.replay import NonFiniteLossError


class StepReader:
  """Reads the metrics of a step from the device, checks and reports them."""

  def __init__(
    self,
    source: ImageSource,
    schedule: Schedule,
    log_every: int,
    progress: Progress,
    writer: MetricWriter | None,
  ):
    """Reports to `progress` and, if given, `writer` every `log_every` steps."""
    self._source = source
    self._schedule = schedule
    self._log_every = log_every
    self._progress = progress
    self._writer = writer
    # What `push` was given last, or None.
    self._pending: tuple[int, Mapping[str, Any], Arrays] | None = None

  def push(self, step: int, on_device: Mapping[str, Any], batch: Arrays) -> None:
    """Reads the step before, then keeps this one, which goes on meanwhile.

    Args:
      step: updates done before it.
      on_device: its metrics, maybe still to be computed.
      batch: this host's share of its batch.

    Raises:
      NonFiniteLossError: a loss or the gradient of the step before is not finite.
    """
    self.flush()
    self._pending = (step, on_device, batch)

  def flush(self) -> None:
    """Waits for the last step, unless it has been read.

    Raises:
      NonFiniteLossError: a loss or the gradient is not finite.
    """
    if self._pending is None:
      return
    step, on_device, batch = self._pending
    self._pending = None
    values = {name: float(x) for name, x in jax.device_get(on_device).items()}
    bad = [
      f'{name} {value}' for name, value in values.items() if not math.isfinite(value)
    ]
    if bad:
      ids = [self._source.image_ids[i] for i in batch['image_index'] if i >= 0]
      raise NonFiniteLossError(
        f'step {step}: {", ".join(bad)}; image ids of the batch: '
        f'{", ".join(map(str, ids))}. See `embedmask replay`; lower '
        'optim.learning_rate, or set optim.clip_norm',
        {**batch, 'image_id': np.asarray(ids)},
      )
    self._progress.add(values)
    if (step + 1) % self._log_every == 0:
      means = self._progress.report(step + 1, float(self._schedule(step)))
      if self._writer:
        self._writer.scalars(step + 1, means)
