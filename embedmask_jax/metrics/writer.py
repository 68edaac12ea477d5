"""What a run reports over its steps: metrics.jsonl, curves and TensorBoard files."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from embedmask_jax.errors import UserError
from embedmask_jax.metrics.mirror import Mirror
from embedmask_jax.metrics.training_curves import write_training_curves
from embedmask_jax.storage import is_remote, located
from embedmask_jax.writing import replace_text

JSONL_NAME = 'metrics.jsonl'
TENSORBOARD_NAME = 'tensorboard'


class MetricWriter:
  """Writes scalars and pictures of a run into its work folder.

  `WORKDIR/metrics.jsonl` has one JSON object per line and call: step, wall_time
  (seconds since 1970) and the values under their names, null for what is not finite
  or None, since JSON has no NaN. `WORKDIR/tensorboard` has the same for TensorBoard,
  and the pictures; TensorFlow is not needed. Every line is on disk when its call
  returns; in an object store all are there after `flush`. `WORKDIR/training_curves.svg`
  shows the numbers, drawn at every evaluation and at the end. Usable as a context
  manager.

  Args:
    workdir: existing or new folder, of a file system or gs://...
    restored_step: the step that training goes on from (0 for a start from nothing).
      What an earlier run logged beyond it is dropped, so that curves do not fold
      back; None leaves all as it is and appends.

  Raises:
    UserError: the folder cannot be written.
  """

  def __init__(self, workdir: str | Path, *, restored_step: int | None = None):
    # It takes long to import, and reading this module should not.
    from tensorboardX import SummaryWriter

    self._mirror = Mirror(located(workdir)) if is_remote(workdir) else None
    if self._mirror:
      self._mirror.fetch(JSONL_NAME)
      workdir = self._mirror.folder
    path = Path(workdir) / JSONL_NAME
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      if path.exists():
        _keep_until(path, restored_step)
      self._lines = path.open('a', encoding='utf-8')
      self._events = SummaryWriter(
        str(Path(workdir) / TENSORBOARD_NAME),
        purge_step=None if restored_step is None else restored_step + 1,
      )
    except OSError as error:
      raise UserError(f'cannot write logs into {workdir}: {error.strerror}') from error

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Logs numbers: Python's, or arrays of one element, by name.

    Raises:
      UserError: the file cannot be written, as on a full disk.
    """
    numbers = {
      name: None if value is None else float(value) for name, value in values.items()
    }
    line = {
      'step': int(step),
      'wall_time': round(time.time(), 3),
      **{
        name: number if number is not None and math.isfinite(number) else None
        for name, number in numbers.items()
      },
    }
    try:
      self._lines.write(json.dumps(line, allow_nan=False) + '\n')
      self._lines.flush()
    except OSError as error:
      raise UserError(
        f'cannot write {self._lines.name}: {error.strerror}; make room there, or use '
        'another work folder'
      ) from error
    for name, number in numbers.items():
      if number is not None:
        self._events.add_scalar(name, number, int(step))
    if self._mirror:
      self._mirror.copy_if_due()

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Shows a picture, uint8 [h, w, 3], RGB, in TensorBoard."""
    self._events.add_image(name, image, int(step), dataformats='HWC')

  def draw_curves(self) -> None:
    """Draws training_curves.svg from what has been logged so far."""
    try:
      write_training_curves(Path(self._lines.name))
    except OSError as error:
      # The numbers are safe, and the run is worth more than its picture.
      logging.warning('the training curves cannot be written (%s)', error.strerror)

  def flush(self) -> None:
    """Puts what is pending where it belongs.

    Raises:
      UserError: it cannot be written.
    """
    self._events.flush()
    if self._mirror:
      self._mirror.copy()

  def close(self) -> None:
    """Puts what is pending where it belongs, draws the curves, closes the files.

    Raises:
      UserError: it cannot be written.
    """
    self.draw_curves()
    self._lines.close()
    self._events.close()
    if self._mirror:
      self._mirror.close()

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _keep_until(path: Path, restored_step: int | None) -> None:
  """Drops lines of later steps, and the torn last line of a killed run.

  The file is replaced in one go, so that a kill in the middle loses nothing.
  """
  old = path.read_text(encoding='utf-8')
  kept = []
  for line in old.splitlines():
    try:
      step = json.loads(line)['step']
    except (ValueError, KeyError, TypeError):
      continue
    if restored_step is None or step <= restored_step:
      kept.append(line + '\n')
  new = ''.join(kept)
  if new == old:
    return
  replace_text(path, new)
