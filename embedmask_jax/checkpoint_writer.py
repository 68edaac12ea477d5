"""Checkpoints, written by Orbax in the background; kept are the last and the best."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from orbax.checkpoint import checkpoint_managers

from embedmask_jax.checkpoint import Metadata, checksum, first_line, state_items
from embedmask_jax.errors import UserError
from embedmask_jax.storage import located
from embedmask_jax.train_state import TrainState


class CheckpointWriter:
  """Writes a run's checkpoints and keeps the last ones and the best ones."""

  def __init__(
    self,
    workdir: epath.PathLike,
    metadata: Metadata,
    *,
    keep_last: int,
    keep_best: int,
    best_metric: str,
  ):
    """Opens WORKDIR/checkpoints, which must hold no unreadable checkpoint.

    Args:
      workdir: the run's folder, writable.
      metadata: goes into every checkpoint.
      keep_last: number of newest checkpoints to keep.
      keep_best: number of checkpoints with the highest metric to keep besides.
      best_metric: key of the metrics given to `save`.

    Raises:
      UserError: the folder cannot be written.
    """
    self._folder = located(workdir) / 'checkpoints'
    self._metadata = metadata
    self._best_metric = best_metric

    def score(metrics: Mapping[str, float]) -> float:
      # Those of a run that chose by another metric have that one alone.
      return metrics.get(best_metric, -math.inf)

    policies = [checkpoint_managers.LatestN(keep_last)]
    if keep_best:
      best = checkpoint_managers.BestN(
        get_metric_fn=score, n=keep_best, keep_checkpoints_without_metrics=False
      )
      policies.append(best)
    with self._failure_told():
      self._manager = ocp.CheckpointManager(
        self._folder,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
          best_fn=score,  # without it the metrics would not be written
          best_mode='max',
          enable_async_checkpointing=True,
        ),
        item_handlers={
          'variables': ocp.StandardCheckpointHandler(),
          'training': ocp.StandardCheckpointHandler(),
          'metadata': ocp.JsonCheckpointHandler(filename='metadata.json'),
        },
      )

  def save(
    self, state: TrainState, metrics: Mapping[str, float | None] | None = None
  ) -> None:
    """Starts writing `state` under its step; a step that is there is left alone.

    Args:
      state: copied before this returns, so it may be donated afterwards.
      metrics: of this state; those without `best_metric` count as none.

    Raises:
      UserError: this one or the one before cannot be written, as on a full disk.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    items = state_items(state)
    checksums = {name: checksum(tree) for name, tree in items.items()}
    score = (metrics or {}).get(self._best_metric)
    if metrics is not None and score is None:
      logging.warning(
        'step %d has no metric %s: not a candidate for the best checkpoint',
        step,
        self._best_metric,
      )
    with self._failure_told():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          metadata=ocp.args.JsonSave(
            {**self._metadata.as_json(), 'checksums': checksums}
          ),
          **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
        ),
        metrics=None if score is None else {self._best_metric: float(score)},
      )

  def close(self) -> None:
    """Waits until everything is written.

    Raises:
      UserError: it cannot be.
    """
    with self._failure_told():
      self._manager.wait_until_finished()
      self._manager.close()

  @contextlib.contextmanager
  def _failure_told(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # whatever the storage library raises
      raise UserError(
        f'a checkpoint cannot be written into {self._folder} ({first_line(error)}); '
        'make room there, or use another work folder. Those before it are whole'
      ) from error

  def __enter__(self) -> 'CheckpointWriter':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()
