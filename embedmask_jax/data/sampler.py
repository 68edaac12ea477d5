"""Which images make up which batch, and how each of them is shown.

A training plan is an endless stream of images: one permutation of the data set after
another. Along the stream each image joins the queue of its canvas, and a full queue
becomes a batch; what is left in the queues at the end of an epoch goes on into the
next, so no image is dropped or repeated. Everything follows from the seed: the batch
of a step is the same whenever and wherever it is asked for.
"""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedmask_jax.data.augmentation import Augmentation, AugmentationSettings
from embedmask_jax.data.canvases import (
  Canvas,
  choose_canvases,
  complete_canvases,
  derive_canvases,
)
from embedmask_jax.data.draws import Stream, draw_bits
from embedmask_jax.data.views import Paste, View, round_up

# A block of the stream is computed at once: as many epochs as make this many images.
_BLOCK = 4096


@dataclass(frozen=True)
class PlannedRow:
  """An image of a batch.

  Attributes:
    index: its position in the source.
    epoch: how often the stream has gone through the data set before.
    view: how it is shown.
    paste: what is laid over it, if anything.
  """

  index: int
  epoch: int
  view: View
  paste: Paste | None = None


@dataclass(frozen=True)
class BatchPlan:
  """A batch before anything is read.

  Attributes:
    canvas: (H, W).
    num_instances: N, what the instances are padded to.
    batch_size: rows.
    rows: at most `batch_size`; the remaining rows only fill the batch.
  """

  canvas: Canvas
  num_instances: int
  batch_size: int
  rows: tuple[PlannedRow, ...]

  def share(self, process_index: int, process_count: int) -> 'BatchPlan':
    """The contiguous part of a process, of equal size for all."""
    size = self.batch_size // process_count
    first = process_index * size
    rows = self.rows[first : first + size]
    return BatchPlan(self.canvas, self.num_instances, size, rows)


def pad_to_ladder(count: int, ladder: Sequence[int]) -> int:
  """The smallest value of the ladder from `count` up; its end doubled if need be."""
  for step in ladder:
    if step >= count:
      return step
  step = ladder[-1]
  while step < count:
    step *= 2
  return step


class TrainPlan:
  """The endless stream of training batches; `plan[step]` is a BatchPlan.

  Steps may be asked for in any order and from several threads. Only what is in the
  queues at the beginning of every block of the stream is remembered.
  """

  def __init__(
    self,
    *,
    image_ids: Sequence[int],
    sizes: np.ndarray,
    boxes: np.ndarray,
    instance_counts: np.ndarray,
    seed: int,
    batch_size: int,
    canvases: Sequence[Canvas] = (),
    instance_ladder: Sequence[int],
    **augmentation: Any,
  ):
    """Decides everything that does not depend on the step.

    Args:
      image_ids: of all n images; what is drawn for an image depends on its id.
      sizes: int32 [n, 2], (height, width) of the stored images.
      boxes: float32 [instances, 4], of all images one after another, xyxy, original
        pixels.
      instance_counts: int32 [n].
      seed: from 0 up.
      batch_size: images of a batch, over all processes.
      canvases: (height, width), multiples of 32; () for derived ones. Images that fit
        none get another.
      instance_ladder: ascending values that the instances of a batch are padded to.
      **augmentation: the attributes of `AugmentationSettings`.

    Raises:
      UserError: fewer than two images have instances to copy.
    """
    self._image_ids = np.asarray(image_ids, np.int64)
    self._seed = seed
    self._batch_size = batch_size
    self._ladder = tuple(instance_ladder)
    settings = AugmentationSettings(**augmentation)
    self._augmentation = Augmentation(
      image_ids=image_ids,
      sizes=sizes,
      boxes=boxes,
      instance_counts=instance_counts,
      seed=seed,
      settings=settings,
    )
    if not canvases and settings.crop_size:
      height, width = settings.crop_size
      canvases = [(round_up(height), round_up(width))]
    canvases = canvases or derive_canvases(settings.short_sides, settings.long_side)
    self.canvases = complete_canvases(canvases, self._augmentation.largest_sizes)

    self._epochs_per_block = max(1, _BLOCK // len(self._image_ids))
    self._first_steps = [0]
    self._queues: list[list[np.ndarray]] = [
      [np.zeros(0, np.int64) for _ in self.canvases]
    ]
    self._recent: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    self._lock = threading.Lock()

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_lock': None, '_recent': {}}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state, _lock=threading.Lock())

  def __getitem__(self, step: int) -> BatchPlan:
    if step < 0:
      raise IndexError(f'step {step}')
    with self._lock:
      while self._first_steps[-1] <= step:
        self._block(len(self._first_steps) - 1)
      number = bisect_right(self._first_steps, step) - 1
      batches, canvases = self._block(number)
    offset = step - self._first_steps[number]
    epochs, indices = np.divmod(batches[offset], len(self._image_ids))
    return self._plan(epochs, indices, self.canvases[canvases[offset]])

  def _block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The batches of a block of epochs.

    Returns:
      int64 [batches, batch_size], the images as epoch * n + position, and int64
      [batches], their canvases.
    """
    if number in self._recent:
      return self._recent[number]
    count = len(self._image_ids)
    epochs = number * self._epochs_per_block + np.arange(self._epochs_per_block)
    keys = draw_bits(self._seed, Stream.ORDER, epochs[:, None], self._image_ids)
    order = np.argsort(keys, axis=1, kind='stable')
    stream = (epochs[:, None] * count + order).ravel()
    shown = self._augmentation.shown_sizes(*np.divmod(stream, count))
    canvas_of = choose_canvases(shown, self.canvases)

    batches, moments, canvases, queues = [], [], [], []
    for canvas, waiting in enumerate(self._queues[number]):
      places = np.flatnonzero(canvas_of == canvas)
      queue = np.concatenate([waiting, stream[places]])
      full = len(queue) // self._batch_size
      last = np.arange(1, full + 1) * self._batch_size - 1 - len(waiting)
      batches.append(queue[: full * self._batch_size].reshape(full, self._batch_size))
      moments.append(places[last])
      canvases.append(np.full(full, canvas))
      queues.append(queue[full * self._batch_size :])
    by_moment = np.argsort(np.concatenate(moments))
    block = np.concatenate(batches)[by_moment], np.concatenate(canvases)[by_moment]
    if number + 1 == len(self._first_steps):
      self._first_steps.append(self._first_steps[number] + len(by_moment))
      self._queues.append(queues)
    if len(self._recent) > 1:
      self._recent.pop(next(iter(self._recent)))
    self._recent[number] = block
    return block

  def _plan(self, epochs: np.ndarray, indices: np.ndarray, canvas: Canvas) -> BatchPlan:
    views = self._augmentation.views(epochs, indices, canvas)
    pastes = self._augmentation.pastes(epochs, indices, views)
    rows = tuple(
      PlannedRow(index, epoch, view, paste)
      for index, epoch, view, paste in zip(
        indices.tolist(), epochs.tolist(), views, pastes, strict=True
      )
    )
    largest = max(
      self._augmentation.count_instances(row.index, row.view, row.paste) for row in rows
    )
    num_instances = pad_to_ladder(largest, self._ladder)
    return BatchPlan(canvas, num_instances, self._batch_size, rows)
