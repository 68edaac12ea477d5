"""Training: from a config and a work folder to checkpoints, logs and evaluations.

The work folder gets::

  running.lock              held while a run is going
  config.json               what this run was started with
  checkpoints/<step>/       the last ones and the best ones
  metrics.jsonl, tensorboard/
  eval/<step>/              metrics.json, predictions.json, overlays/

where <step> is the number of updates done. Started again, a run goes on from its
newest checkpoint, with the batches it would have seen; the same config and seed
give the same parameters bit for bit (on the same devices and library versions, and
on GPUs with the flag that docs/scale.md names).

Among several hosts (`hosts.py`) each reads its share of every batch, all write their
part of a checkpoint, and the first alone logs and evaluates.
"""

import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from absl import logging
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from embedmask_jax import hosts
from embedmask_jax.checkpoint import (
  Metadata,
  StoredCheckpoint,
  list_steps,
  open_checkpoint,
)
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.config import to_json
from embedmask_jax.data.pipeline import train_batches
from embedmask_jax.datasets import (
  log_evaluation_data,
  log_training_data,
  open_eval_source,
  open_train_source,
  train_settings,
)
from embedmask_jax.devices import (
  check_batch_size,
  data_mesh,
  local_mesh,
  replicate,
  split,
)
from embedmask_jax.evaluate import Evaluator
from embedmask_jax.evaluation_folder import evaluation_folder, evaluation_record
from embedmask_jax.folders import writable_folder
from embedmask_jax.initial_state import initial_state
from embedmask_jax.metrics.coco import Metrics
from embedmask_jax.metrics.writer import MetricWriter
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.models.factory import build_model, init_variables
from embedmask_jax.optim import (
  OptimSettings,
  Schedule,
  is_trained,
  make_optimizer,
  scale_to_batch,
)
from embedmask_jax.preemption import PreemptedError, StopRequest
from embedmask_jax.presets import PRESETS
from embedmask_jax.programs import TrainPrograms
from embedmask_jax.progress import Progress
from embedmask_jax.replay import replayable
from embedmask_jax.step_reader import StepReader
from embedmask_jax.structures import Batch
from embedmask_jax.train_state import TrainState
from embedmask_jax.train_step import TrainStep, make_train_step
from embedmask_jax.work_folder_lock import work_folder_lock
from embedmask_jax.writing import failures_told


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """What a run ended with.

  Attributes:
    step: updates done.
    metrics: of the last evaluation; None where nothing was evaluated.
    folder: of the last evaluation's files, or None.
    seconds: of this call, compilation and evaluation included.
  """

  step: int
  metrics: Metrics | None
  folder: epath.Path | None
  seconds: float


@dataclasses.dataclass(frozen=True)
class Training:
  """What a config trains: everything but the data and the state.

  Attributes:
    model: the network.
    variables: {'params', 'batch_stats'} as drawn from the seed.
    trained: bool leaves like the parameters.
    optimizer: of the parameters.
    schedule: its rate, by step.
    num_steps: updates of the whole run.
    train_step: see `make_train_step`.
  """

  model: EmbedMask
  variables: dict
  trained: Any
  optimizer: optax.GradientTransformation
  schedule: Schedule
  num_steps: int
  train_step: TrainStep


def set_up(config: ConfigDict, num_classes: int, mesh: Mesh) -> Training:
  """What `config` trains on the devices of `mesh`."""
  settings, num_steps = scale_to_batch(
    OptimSettings(**config.optim),
    steps=config.train.steps,
    batch_size=config.train.batch_size,
  )
  schedule = Schedule(settings, num_steps)
  model = build_model(config.model, num_classes)
  variables = init_variables(model, config.seed)
  trained = is_trained(
    variables['params'],
    config.model.frozen_stages,
    has_frozen_mask_norm=config.model.mask_branch_norm == 'frozen_bn',
  )
  optimizer = make_optimizer(settings, schedule, trained=trained)
  train_step = make_train_step(
    model,
    optimizer,
    mesh,
    accumulation_steps=config.train.accumulation_steps,
    ema_decay=config.train.ema_decay,
    remat=config.train.remat,
    seed=config.seed,
  )
  return Training(model, variables, trained, optimizer, schedule, num_steps, train_step)


def train(
  config: ConfigDict, workdir: epath.PathLike, *, take_over: bool = False
) -> TrainResult:
  """Trains, evaluates and saves as the config says; the command `--mode=train`.

  Args:
    config: validated.
    workdir: the run's folder, made if need be; may be gs://BUCKET/...
    take_over: see `work_folder_lock`.

  Raises:
    UserError: a folder, data set or checkpoint that cannot be used; a batch size
      that does not divide over the devices; a loss that is not finite.
    PreemptedError: SIGTERM or Ctrl-C was received; the state is saved.
  """
  mesh = data_mesh()
  check_batch_size(
    config.train.batch_size,
    devices=mesh.size,
    parts=config.train.accumulation_steps,
  )
  workdir = writable_folder(workdir, '--workdir')
  lock = (
    work_folder_lock(workdir, take_over=take_over)
    if hosts.is_first()
    else contextlib.nullcontext()
  )
  with lock:
    return _train(config, workdir, mesh)


def _train(config: ConfigDict, workdir: epath.Path, mesh: Mesh) -> TrainResult:
  """The run in its own folder."""
  start = time.perf_counter()
  source = open_train_source(config.data, PRESETS[config.model.preset])
  log_training_data(source)
  metadata = Metadata(config, source.category_ids, source.class_names)
  training = set_up(config, len(source.class_names), mesh)
  num_steps = training.num_steps
  state = initial_state(workdir, metadata, training.variables, training.optimizer, mesh)
  _log_run(config, training, mesh.devices)

  train_step = TrainPrograms(training.train_step)
  first_step = int(state.step)
  metrics, folder = None, None
  with (
    _open_writer(workdir, config, first_step) as writer,
    CheckpointWriter(workdir, metadata, **config.checkpoint) as checkpoints,
    StopRequest() as stop,
    Progress(
      first_step=first_step, num_steps=num_steps, batch_size=config.train.batch_size
    ) as progress,
    contextlib.closing(  # type: ignore[type-var]  # a generator
      train_batches(
        source,
        start_step=first_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **train_settings(config),
      )
    ) as batches,
  ):
    evaluate = _evaluation(training.model, config, metadata, workdir, writer)
    reader = StepReader(
      source, training.schedule, config.train.log_every, progress, writer
    )
    for step, arrays in itertools.islice(batches, max(num_steps - first_step, 0)):
      state, values = train_step(state, split(mesh, Batch(**arrays)))
      done = step + 1
      with replayable(workdir, metadata, state):
        # Reads the step before only now, so that the device is never idle.
        reader.push(step, values, arrays)
        is_stopped = stop.is_due(done) and done < num_steps
        is_evaluated = not is_stopped and (
          done == num_steps or _is_multiple(done, config.train.eval_every)
        )
        is_saved = (
          is_stopped
          or is_evaluated
          or _is_multiple(done, config.train.checkpoint_every)
        )
        if is_saved:
          # First of all, so that no state with a loss that is not finite is saved.
          reader.flush()
      if not is_saved:
        continue
      if is_evaluated:
        # Before saving: a checkpoint carries its own score.
        metrics, folder = evaluate(state, done)
      if writer:
        # What precedes a checkpoint is in the logs, however the run ends.
        writer.flush()
      checkpoints.save(state, metrics if is_evaluated else None)
      progress.pause()
      if is_stopped:
        raise PreemptedError(
          f'asked to stop: saved at step {done} of {num_steps}',
          is_by_hand=stop.is_by_hand,
        )
    if first_step >= num_steps:
      logging.info('all %d steps are done: evaluating', num_steps)
      metrics, folder = evaluate(state, first_step)
    if stop.is_by_hand:
      # All is done and saved, but nothing is to follow.
      raise KeyboardInterrupt
  return TrainResult(int(state.step), metrics, folder, time.perf_counter() - start)


def _open_writer(
  workdir: epath.Path, config: ConfigDict, first_step: int
) -> contextlib.AbstractContextManager[MetricWriter | None]:
  """The logs, on the first host."""
  if not hosts.is_first():
    return contextlib.nullcontext()
  text = json.dumps(to_json(config), indent=2)
  with failures_told(workdir):
    (workdir / 'config.json').write_text(text + '\n')
  return MetricWriter(workdir, restored_step=first_step)


def _evaluation(
  model: EmbedMask,
  config: ConfigDict,
  metadata: Metadata,
  workdir: epath.Path,
  writer: MetricWriter | None,
) -> Callable[[TrainState, int], tuple[Metrics | None, epath.Path | None]]:
  """Returns (state, step) -> (metrics, folder): by the first host, known to all."""
  evaluator = None
  if hosts.is_first():
    preset = PRESETS[config.model.preset]
    source = open_eval_source(config.data, metadata.categories, preset)
    if source is None:
      logging.warning('no config.data.eval: this run is not evaluated')
    else:
      log_evaluation_data(source)
      evaluator = Evaluator(model, source, config, local_mesh())

  def evaluate(
    state: TrainState, step: int
  ) -> tuple[Metrics | None, epath.Path | None]:
    metrics, place = None, ''
    if evaluator:
      variables = replicate(local_mesh(), state.variables)
      checkpoint = workdir / 'checkpoints' / str(step)
      stored = StoredCheckpoint(checkpoint, step, metadata, {})
      if step in list_steps(checkpoint.parent):
        # A finished run has come back, perhaps with another config.
        stored = open_checkpoint(checkpoint)
      folder = evaluation_folder(workdir, stored, config)
      record = evaluation_record(checkpoint, config)
      metrics = evaluator(variables, folder, step=step, record=record, writer=writer)
      place = str(folder)
      if writer:
        writer.draw_curves()
    metrics, place = hosts.from_first((metrics, place))
    return metrics, None if metrics is None else epath.Path(place)

  return evaluate


def summary(result: TrainResult) -> str:
  """One line about the end of a run."""
  metrics = result.metrics or {}
  scores = [
    f'{name} {metrics[key]:.3f}'
    for key, name in (('segm/AP', 'mask AP'), ('bbox/AP', 'box AP'))
    if metrics.get(key) is not None
  ]
  parts = [*(scores or [f'step {result.step}']), f'{result.seconds:.0f} s']
  if result.folder:
    parts.append(f'overlays in {result.folder / "overlays"}')
  return ', '.join(parts)


def _is_multiple(done: int, interval: int) -> bool:
  return interval > 0 and done % interval == 0


def _log_run(config: ConfigDict, training: Training, devices: np.ndarray) -> None:
  sizes = jax.tree.map(np.size, training.variables['params'])
  total = sum(jax.tree.leaves(sizes))
  moving = jax.tree.map(lambda size, is_: size * is_, sizes, training.trained)
  logging.info(
    '%s: %.1f million parameters, %.1f million of them trained; %d steps of %d images '
    'on %d %s device(s)',
    config.model.backbone,
    total / 1e6,
    sum(jax.tree.leaves(moving)) / 1e6,
    training.num_steps,
    config.train.batch_size,
    devices.size,
    devices.flat[0].platform,
  )
