"""The step that was not finite, once more: what training leaves for it, and the look.

WORKDIR/replay gets a checkpoint of the state before the step and, from every host, its
share of the batch, replay/<step>/batch-<host>-of-<hosts>.npz. `--mode=replay` computes
the step again, for the whole batch and for every image alone.
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator

import jax
import numpy as np
import optax
from absl import logging
from etils import epath

from embedmask_jax.checkpoint import Metadata, open_checkpoint
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.data.transforms import Arrays
from embedmask_jax.devices import data_mesh, replicate, split
from embedmask_jax.errors import UserError
from embedmask_jax.hosts import from_first, is_first
from embedmask_jax.models.factory import build_model
from embedmask_jax.storage import located
from embedmask_jax.stored_model import read_variables
from embedmask_jax.structures import Batch
from embedmask_jax.train_state import TrainState, create_train_state
from embedmask_jax.train_step import make_train_step
from embedmask_jax.writing import failures_told

FOLDER = 'replay'


class NonFiniteLossError(UserError):
  """Training has diverged: names the step, the loss and the images.

  Attributes:
    batch: this host's share of the batch, the fields of `structures.Batch`, and
      `image_id`, int64 [B].
  """

  def __init__(self, message: str, batch: Arrays):
    super().__init__(message)
    self.batch = batch


@contextlib.contextmanager
def replayable(
  workdir: epath.Path, metadata: Metadata, state: TrainState
) -> Iterator[None]:
  """Leaves `state` and the batch for a replay where a step is found not finite.

  Args:
    workdir: of the run.
    metadata: of the run.
    state: after any number of steps; one that is not finite changes nothing.

  Raises:
    NonFiniteLossError: the one that was raised inside; also where nothing can be left,
      of which a warning tells.
  """
  try:
    yield
  except NonFiniteLossError as error:
    try:
      save_for_replay(workdir, metadata, state, error.batch)
    except UserError as unwritten:
      logging.warning('nothing to replay: %s', unwritten)
    raise


def save_for_replay(
  workdir: epath.Path, metadata: Metadata, state: TrainState, batch: Arrays
) -> None:
  """Writes the state before a step and the batch of that step; all hosts call it.

  They take the place of those of a step before.

  Raises:
    UserError: they cannot be written.
  """
  folder = workdir / FOLDER / str(int(state.step))
  with failures_told(folder):
    if is_first() and (workdir / FOLDER).exists():
      (workdir / FOLDER).rmtree()
  from_first(None)  # the others wait until it is gone
  host, hosts = jax.process_index(), jax.process_count()
  content = io.BytesIO()
  np.savez(content, **batch)  # type: ignore[arg-type]
  with failures_told(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'batch-{host}-of-{hosts}.npz').write_bytes(content.getvalue())
  with CheckpointWriter(
    workdir / FOLDER, metadata, keep_last=1, keep_best=0, best_metric=''
  ) as checkpoints:
    checkpoints.save(dataclasses.replace(state, ema_params=None))
  logging.info('state and batch are in %s', workdir / FOLDER)


def replay(workdir: epath.PathLike) -> str:
  """Computes the last step that was not finite again; the command `--mode=replay`.

  All of it on one device and in one part. Where a preset draws proposals or has batch
  norm over parts of the batch (docs/presets.md), they are of the whole here.

  Args:
    workdir: of the run.

  Returns:
    A table: the losses and the gradient's norm of the whole batch and, from the same
    state, of every image as a batch of its own.

  Raises:
    UserError: nothing was left for a replay.
  """
  folder = located(workdir) / FOLDER
  if not folder.is_dir():
    raise UserError(
      f'--workdir={workdir} has no step to replay: no loss was other than finite'
    )
  stored = open_checkpoint(folder)
  batch = _read_batch(folder / str(stored.step))
  image_ids = batch.pop('image_id')
  config = stored.metadata.config
  mesh = data_mesh(1)
  model = build_model(config.model, len(stored.metadata.class_names))
  # On the host: the step gives away what it is given on the device.
  variables = read_variables(stored, config)
  optimizer = optax.set_to_zero()
  train_step = make_train_step(model, optimizer, mesh, seed=config.seed)
  step = np.int32(stored.step)
  lines = []
  for name, rows in [
    ('whole batch', slice(None)),
    *((f'image {key}', slice(i, i + 1)) for i, key in enumerate(image_ids)),
  ]:
    part = Batch(**{field: array[rows] for field, array in batch.items()})
    # The step decides which proposals are drawn.
    state = dataclasses.replace(create_train_state(variables, optimizer), step=step)
    _, metrics = train_step(replicate(mesh, state), split(mesh, part))
    values = ', '.join(
      f'{key.removeprefix("loss/")} {float(value):.4g}'
      for key, value in sorted(metrics.items())
    )
    lines.append(f'{name}: {values}')
  return f'step {stored.step}\n' + '\n'.join(lines)


def _read_batch(folder: epath.Path) -> Arrays:
  """The shares of all hosts, put together.

  Raises:
    UserError: one of them is missing.
  """
  found = [re.fullmatch(r'batch-(\d+)-of-(\d+)\.npz', p.name) for p in folder.glob('*')]
  shares = {int(match[1]): match for match in found if match}
  count = int(next(iter(shares.values()))[2]) if shares else 1
  if sorted(shares) != list(range(count)):
    raise UserError(f'{folder} lacks the batch of {count - len(shares)} host(s)')
  parts = []
  for host in range(count):
    content = (folder / shares[host][0]).read_bytes()
    with np.load(io.BytesIO(content)) as arrays:
      parts.append(dict(arrays))
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
