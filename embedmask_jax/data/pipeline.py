"""Batches as the network takes them: planned, read, decoded, ahead of time.

Grain maps the plan's steps to batches, in threads of this process or in worker
processes. A batch does not depend on who makes it, so neither the number of workers
nor the step that a run starts at changes anything.
"""

import contextlib
import logging
import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from absl import flags

from embedmask_jax.data.canvases import Canvas
from embedmask_jax.data.decode import open_rgb
from embedmask_jax.data.eval_plan import EvalPlan
from embedmask_jax.data.image_source import ImageRecord, ImageSource
from embedmask_jax.data.rows import fill_row
from embedmask_jax.data.sampler import BatchPlan, TrainPlan
from embedmask_jax.data.transforms import Arrays, empty_batch, fill_image
from embedmask_jax.data.worker_notes import WorkerNotes
from embedmask_jax.errors import UserError
from embedmask_jax.presets import PRESETS, Preset

# More steps than any run has; Grain wants a length.
_ENDLESS = 2**31 - 1

# Threads that make batches beside the main one. Pillow works outside of the
# interpreter's lock, so a second one still helps.
_THREADS = 2

# Of an error of Grain's, where a worker process has died.
_GRAIN_SAYS = 'terminated unexpectedly'


def train_batches(
  source: ImageSource,
  *,
  batch_size: int,
  start_step: int = 0,
  workers: int = 0,
  prefetch: int = 2,
  max_worker_deaths: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  **settings: Any,
) -> Generator[tuple[int, Arrays], None, None]:
  """Yields (step, batch) without end, from any step on.

  Args:
    source: annotated images.
    batch_size: images of a batch, over all processes.
    start_step: the first step to yield.
    workers: processes that make batches; 0 makes them in threads of this one.
    prefetch: batches made ahead; 0 makes each when it is asked for.
    max_worker_deaths: how many of the processes may die, say for lack of memory, and
      be replaced.
    process_index: which share of every batch to make.
    process_count: among how many processes a batch is shared.
    **settings: seed, sizes and augmentation, as `TrainPlan` takes them.

  Yields:
    The step, and the fields of `structures.Batch` as NumPy arrays, B being this
    process's share.

  Raises:
    UserError: the source has no instances, or too few to copy; the batch does not
      divide over the processes; or, while iterating, an image cannot be read or
      decoded, or too many worker processes have died; names the image.

  Close the generator when done with it, so that worker processes end.
  """
  _check_share(batch_size, process_count)
  if not source.instance_counts.sum():
    report = str(source.report).replace('\n ', ';')
    raise UserError(f'nothing to train on: {report}')
  plan = train_plan(source, batch_size=batch_size, **settings)
  loader = _Loader(source, plan, process_index, process_count, with_instances=True)
  return _numbered(
    _batches(loader, start_step, _ENDLESS, workers, prefetch, max_worker_deaths),
    start_step,
  )


def train_plan(source: ImageSource, **settings: Any) -> TrainPlan:
  """The plan of a source's training batches; settings as `TrainPlan` takes them."""
  return TrainPlan(
    image_ids=source.image_ids,
    sizes=source.sizes,
    boxes=source.boxes,
    instance_counts=source.instance_counts,
    **settings,
  )


def eval_batches(
  source: ImageSource,
  *,
  batch_size: int,
  short_side: int,
  long_side: int,
  canvases: Sequence[Canvas] = (),
  output_ladder: Sequence[Canvas] = (),
  preset: Preset = PRESETS['2021'],
  workers: int = 0,
  prefetch: int = 2,
  max_worker_deaths: int = 0,
) -> Generator[Arrays, None, None]:
  """Yields every image once, without instances.

  Args:
    source: images.
    batch_size: images of a batch.
    short_side: network pixels.
    long_side: network pixels, upper bound.
    canvases: (height, width), multiples of 32; () for derived ones.
    output_ladder: output canvases; a batch holds images of one class of original
      size, see `EvalPlan`.
    preset: for sizes, and what boxes and masks mean.
    workers: processes that make batches; 0 makes them in threads of this one.
    prefetch: batches made ahead; 0 makes each when it is asked for.
    max_worker_deaths: how many of the processes may die, say for lack of memory, and
      be replaced.

  Yields:
    The fields of `structures.Batch` as NumPy arrays with N = 1 and no instance. Rows
    that fill the last batches have `example_valid` False and `image_index` -1.

  Raises:
    UserError: while iterating, an image cannot be read or decoded, or too many worker
      processes have died.
  """
  plan = EvalPlan(
    sizes=source.sizes,
    short_side=short_side,
    long_side=long_side,
    batch_size=batch_size,
    canvases=canvases,
    output_ladder=output_ladder,
    preset=preset,
  )
  loader = _Loader(source, plan, 0, 1, with_instances=False)
  return _batches(loader, 0, len(plan), workers, prefetch, max_worker_deaths)


def _check_share(batch_size: int, process_count: int) -> None:
  if batch_size % process_count:
    below = batch_size // process_count * process_count
    nearest = ', '.join(str(n) for n in (below, below + process_count) if n)
    raise UserError(
      f'batch size {batch_size} does not divide over {process_count} processes; '
      f'nearest: {nearest}'
    )


@dataclass
class _Failure:
  """A user's mistake met by a thread or worker process, on its way to the user."""

  message: str


class _WorkerDiedError(Exception):
  """Names the image it was on."""


@dataclass
class _Loader:
  """Step -> batch; goes to the worker processes."""

  source: ImageSource
  plan: TrainPlan | EvalPlan
  process_index: int
  process_count: int
  with_instances: bool
  notes: WorkerNotes | None = None

  def __call__(self, step: int) -> Arrays | _Failure:
    plan = self.plan[step].share(self.process_index, self.process_count)
    try:
      return self._load(plan)
    except UserError as error:
      return _Failure(str(error))
    finally:
      if self.notes:
        self.notes.clear()

  def _load(self, plan: BatchPlan) -> Arrays:
    batch = empty_batch(plan.batch_size, plan.canvas, plan.num_instances)
    for row, planned in enumerate(plan.rows):
      if self.with_instances:
        fill_row(batch, row, self._read, planned)
      else:
        record = self._read(planned.index)
        size = (record.height, record.width)
        image = open_rgb(record.encoded, record.file_name, size)
        fill_image(batch, row, image, planned.view, planned.index)
    return batch

  def _read(self, index: int) -> ImageRecord:
    if self.notes:
      self.notes.write(index)
    return self.source[index]


def _batches(
  loader: _Loader,
  start: int,
  stop: int,
  workers: int,
  prefetch: int,
  max_worker_deaths: int,
) -> Generator[Arrays, None, None]:
  if not workers:
    return _read(loader, start, stop, workers, prefetch)
  return _outlive_workers(loader, start, stop, workers, prefetch, max_worker_deaths)


def _outlive_workers(
  loader: _Loader,
  start: int,
  stop: int,
  workers: int,
  prefetch: int,
  max_worker_deaths: int,
) -> Generator[Arrays, None, None]:
  """Starts the workers again, at the batch that is due, where one of them died."""
  deaths = 0
  with contextlib.closing(WorkerNotes()) as notes:
    loader = replace(loader, notes=notes)
    while start < stop:
      try:
        with contextlib.closing(_read(loader, start, stop, workers, prefetch)) as read:
          for batch in read:
            start += 1
            yield batch
      except _WorkerDiedError as error:
        deaths += 1
        if deaths > max_worker_deaths:
          raise UserError(
            f'{error} Look at that image and at the memory, lower data.workers, or '
            f'raise data.max_worker_deaths, which is {max_worker_deaths}'
          ) from error
        logging.getLogger(__name__).warning('%s It is replaced', error)


def _read(
  loader: _Loader, start: int, stop: int, workers: int, prefetch: int
) -> Generator[Arrays, None, None]:
  import grain

  if not flags.FLAGS.is_parsed():
    # Grain reads its flags even where nobody parses a command line.
    flags.FLAGS.mark_as_parsed()
  steps = grain.MapDataset.range(start, stop).map(loader)
  if workers:
    ahead = max(-(-prefetch // workers), 1)
    dataset = steps.to_iter_dataset(
      grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    ).mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead),
      worker_init_fn=_ignore_interrupts,
    )
  else:
    dataset = steps.to_iter_dataset(
      grain.ReadOptions(
        num_threads=min(_THREADS, prefetch), prefetch_buffer_size=prefetch
      )
    )
  return _checked(iter(dataset), loader)


def _ignore_interrupts(index: int, count: int) -> None:
  """Leaves Ctrl-C, which a terminal sends to workers as well, to the main process."""
  del index, count
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def _checked(batches: Any, loader: _Loader) -> Generator[Arrays, None, None]:
  try:
    for batch in batches:
      if isinstance(batch, _Failure):
        raise UserError(batch.message)
      # Workers hand over a subclass, backed by memory that lives as long as it does.
      yield {name: np.asarray(array) for name, array in batch.items()}
  except RuntimeError as error:
    if loader.notes is None or _GRAIN_SAYS not in str(error):
      raise
    # Before the others are closed, which would make them look dead as well.
    names = [loader.source.file_names[i] for i in loader.notes.left_by_dead()]
    raise _WorkerDiedError(
      f'a reading process died on {", ".join(names)} ({error})'
    ) from error
  finally:
    batches.close()


def _numbered(
  batches: Generator[Arrays, None, None], start: int
) -> Generator[tuple[int, Arrays], None, None]:
  try:
    yield from enumerate(batches, start)
  finally:
    batches.close()
