"""Checkpoints, WORKDIR/checkpoints/<step>: what they hold, and how they are read.

A checkpoint has three items: `variables` (parameters, or their moving average where
there is one, and batch statistics: all that evaluation and prediction read),
`training` (step and optimiser state; beside an average the parameters themselves)
and `metadata/metadata.json` (format version, config, classes, preprocessing and a
checksum of the two others, since a flipped bit in an array goes unnoticed
otherwise). `checkpoint_writer.py` writes them.
"""

import dataclasses
import json
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from embedmask_jax.config import from_json, to_json
from embedmask_jax.errors import UserError
from embedmask_jax.hosts import from_first, is_first
from embedmask_jax.storage import located
from embedmask_jax.train_state import TrainState

FORMAT_VERSION = 1
Tree = Any


class CorruptCheckpointError(UserError):
  """A checkpoint that cannot be read back as it was written."""


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What a checkpoint says about itself.

  Attributes:
    config: the run's whole config.
    category_ids: of the training annotations, ascending; class c is the c-th.
    class_names: in the same order.
  """

  config: ConfigDict
  category_ids: tuple[int, ...]
  class_names: tuple[str, ...]

  @property
  def categories(self) -> tuple[tuple[int, str], ...]:
    """(category id, name) of every class."""
    return tuple(zip(self.category_ids, self.class_names, strict=True))

  def as_json(self) -> dict[str, Any]:
    """The content of metadata.json but for the checksums."""
    model, data = self.config.model, self.config.data
    return {
      'format_version': FORMAT_VERSION,
      'config': to_json(self.config),
      'category_ids': list(self.category_ids),
      'class_names': list(self.class_names),
      'preprocessing': {
        'channels': 'BGR',
        'pixel_mean': list(model.pixel_mean),
        'pixel_std': list(model.pixel_std),
        'short_side': data.eval_short_side,
        'long_side': data.long_side,
      },
    }


@dataclasses.dataclass(frozen=True)
class StoredCheckpoint:
  """A checkpoint on disk: its folder, its step, and what it says about itself."""

  folder: epath.Path
  step: int
  metadata: Metadata
  checksums: Mapping[str, int]

  @property
  def workdir(self) -> epath.Path:
    """The folder of the run that wrote it."""
    return self.folder.parents[1]

  def read(self, item: str, template: Tree) -> Tree:
    """Reads an item in the structure of `template`.

    Args:
      item: 'variables' or 'training'.
      template: tree of arrays (or `jax.ShapeDtypeStruct`); jax arrays are read
        onto their devices, the others as NumPy arrays.

    Raises:
      CorruptCheckpointError: the item cannot be read, or is not what was written.
      UserError: names, shapes or dtypes differ from the template's; names them.
    """
    found = self.shapes(item)
    if problems := _misfits(found, flat_shapes(template)):
      raise UserError(
        f'{self.folder}: {item} do not fit the model and optimiser of this config: '
        f'{"; ".join(problems)}'
      )
    tree = self._restore(item, template)
    if checksum(tree) != self.checksums.get(item):
      raise CorruptCheckpointError(
        f'{self.folder}/{item} is not what was written (checksum differs); use '
        'another checkpoint'
      )
    return tree

  def _restore(self, item: str, template: Tree) -> Tree:
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(
          self.folder / item, jax.tree.map(_restore_target, template)
        )
    except Exception as error:  # whatever the storage library raises
      raise CorruptCheckpointError(
        f'{self.folder}/{item} cannot be read ({first_line(error)}); use another '
        'checkpoint'
      ) from error

  def shapes(self, item: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype) of every array of an item.

    Raises:
      CorruptCheckpointError: the item does not say.
    """
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.metadata(self.folder / item).item_metadata.tree
    except Exception as error:
      raise CorruptCheckpointError(
        f'{self.folder}/{item} cannot be read ({first_line(error)}); use another '
        'checkpoint'
      ) from error
    return flat_shapes(tree)


def open_checkpoint(path: epath.PathLike) -> StoredCheckpoint:
  """Opens WORKDIR/checkpoints/<step>, or the newest checkpoint of a WORKDIR.

  Raises:
    UserError: no such folder, no checkpoint in it, unreadable metadata, or a
      format version that this program does not read.
  """
  path = located(path)
  if not path.exists():
    raise UserError(f'checkpoint {path}: no such folder')
  if path.name.isdigit() and not (path / 'checkpoints').exists():
    return _open_step(path)
  folder = path if path.name == 'checkpoints' else path / 'checkpoints'
  steps = list_steps(folder)
  if not steps:
    raise UserError(
      f'{path} holds no checkpoint; give a work folder or WORKDIR/checkpoints/<step>'
    )
  return _open_step(folder / str(steps[-1]))


def list_steps(folder: epath.Path) -> list[int]:
  """The steps of the finished checkpoints in WORKDIR/checkpoints, ascending."""
  return sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []


def restore_latest(
  workdir: epath.PathLike,
  template: TrainState,
  *,
  accept: Callable[[StoredCheckpoint], None] = lambda stored: None,
) -> TrainState | None:
  """The newest readable state of a work folder.

  Unreadable checkpoints are renamed to <step>.corrupt, with a warning, so that
  the run can write that step again. All hosts call this together.

  Args:
    workdir: the run's folder.
    template: a state of the same run; its arrays say where the restored ones go.
    accept: called with the checkpoint before its arrays are read; may raise.

  Returns:
    The state, or None where the folder holds no checkpoint.

  Raises:
    UserError: there are checkpoints, but none can be read; or the newest one is
      of another model, optimiser or format version.
  """
  folder = located(workdir) / 'checkpoints'
  steps = list_steps(folder)
  state = None
  corrupt: dict[int, CorruptCheckpointError] = {}
  for step in reversed(steps):
    try:
      stored = _open_step(folder / str(step))
      if state is None:
        accept(stored)
        state = _read_state(stored, template)
    except CorruptCheckpointError as error:
      corrupt[step] = error
  if steps and state is None:
    raise UserError(
      f'none of the {len(steps)} checkpoints in {folder} can be read; start in '
      f'another work folder. The newest: {corrupt[steps[-1]]}'
    )
  for step, reason in corrupt.items():
    logging.warning('%s; it is renamed to %d.corrupt', reason, step)
    if is_first():
      _set_aside(folder / str(step))
  found = int(state.step) if state else None
  if from_first(found) != found:
    raise UserError(
      f'the hosts do not read the same checkpoints in {folder} (this one: {found}); '
      'the work folder must be shared by all of them'
    )
  return state


def state_items(state: TrainState) -> dict[str, dict[str, Tree]]:
  """The items of a checkpoint with arrays, by name; together all of a state."""
  training = {'step': state.step, 'opt_state': state.opt_state}
  if state.ema_params is not None:
    training['params'] = state.params
  return {'variables': state.variables, 'training': training}


def flat_shapes(tree: Tree) -> dict[str, tuple[tuple[int, ...], str]]:
  """Path such as 'params/fpn/p6/bias' -> (shape, dtype), for every array."""
  return {
    name: (tuple(leaf.shape), np.dtype(leaf.dtype).name)
    for name, leaf in ocp.tree.to_flat_dict(tree, sep='/').items()
  }


def checksum(tree: Tree) -> int:
  """CRC-32 over the names and bytes of all arrays, in the order of the names."""
  total = 0
  for name, leaf in sorted(ocp.tree.to_flat_dict(tree, sep='/').items()):
    total = zlib.crc32(name.encode(), total)
    total = zlib.crc32(np.asarray(leaf).tobytes(), total)
  return total


def _read_state(stored: StoredCheckpoint, template: TrainState) -> TrainState:
  variables, training = (
    stored.read(name, tree) for name, tree in state_items(template).items()
  )
  has_ema = template.ema_params is not None
  return TrainState(
    **{**variables, **training},
    ema_params=variables['params'] if has_ema else None,
    is_finite=template.is_finite,
  )


def _open_step(folder: epath.Path) -> StoredCheckpoint:
  """Reads what a checkpoint says about itself; see `open_checkpoint`."""
  try:
    content = dict(json.loads((folder / 'metadata' / 'metadata.json').read_text()))
    if (folder / 'metrics').exists():
      json.loads((folder / 'metrics' / 'metrics').read_text())
  except (OSError, ValueError, TypeError) as error:
    raise CorruptCheckpointError(
      f'{folder} is not a checkpoint of this program, or is damaged '
      f'({first_line(error)})'
    ) from error
  metadata = parse_metadata(folder, content)
  checksums = content.get('checksums', {})
  return StoredCheckpoint(folder, int(folder.name), metadata, checksums)


def parse_metadata(place: epath.Path, content: Mapping[str, Any]) -> Metadata:
  """The inverse of `Metadata.as_json`.

  Args:
    place: of the checkpoint, for messages.
    content: of its metadata.json.

  Raises:
    CorruptCheckpointError: something is missing.
    UserError: a format version that this program does not read.
  """
  version = content.get('format_version')
  if version != FORMAT_VERSION:
    raise UserError(
      f'{place} has format version {version}; this program reads {FORMAT_VERSION}'
    )
  try:
    return Metadata(
      config=from_json(content['config']),
      category_ids=tuple(content['category_ids']),
      class_names=tuple(content['class_names']),
    )
  except KeyError as error:
    raise CorruptCheckpointError(f'{place}: metadata.json lacks {error}') from error


def _misfits(found: Mapping, expected: Mapping, limit: int = 4) -> list[str]:
  """What differs between two `flat_shapes`, in words, the first few."""
  problems = [
    f'{name} is {found[name]} in the checkpoint and {expected[name]} here'
    for name in expected
    if name in found and found[name] != expected[name]
  ]
  problems += [f'{name} is missing' for name in expected if name not in found]
  problems += [f'{name} has no place here' for name in found if name not in expected]
  if len(problems) > limit:
    problems[limit:] = [f'and {len(problems) - limit} more']
  return problems


def _restore_target(leaf: Any) -> Any:
  if isinstance(leaf, jax.Array):
    return ocp.utils.to_shape_dtype_struct(leaf)
  return np.empty(leaf.shape, leaf.dtype)


def _set_aside(folder: epath.Path) -> None:
  target = folder.parent / f'{folder.name}.corrupt'
  if target.exists():
    target.rmtree()
  folder.rename(target)


def first_line(error: Exception) -> str:
  """What a library says went wrong, short enough for a message of ours."""
  text = str(error).strip() or type(error).__name__
  line = text.splitlines()[0]
  # TensorStore begins with the place and ends with the reason, behind which it may
  # repeat how it was called.
  line = re.split(r"[ \[']*tensorstore_spec=", line)[0]
  return line if len(line) <= 200 else f'{line[:100]} ... {line[-100:]}'
