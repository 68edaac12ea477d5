"""A model in one file, half the size: what prediction and fine-tuning need of a run.

A .npz with the variables of a checkpoint under names such as 'params/fpn/p6/bias', the
parameters as float16 and the statistics as they are, and with `metadata.json`, what the
checkpoint says about itself and the step, but for the paths of its data, which mean
nothing elsewhere. It holds no pickles.
"""

import dataclasses
import json
import os
import zipfile
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from embedmask_jax.checkpoint import (
  CorruptCheckpointError,
  Metadata,
  StoredCheckpoint,
  Tree,
  checksum,
  first_line,
  flat_shapes,
  open_checkpoint,
  parse_metadata,
)
from embedmask_jax.errors import UserError
from embedmask_jax.folders import local_file
from embedmask_jax.storage import located
from embedmask_jax.stored_model import read_variables
from embedmask_jax.writing import failures_told, replaced_file

SUFFIX = '.npz'
_METADATA = 'metadata.json'


@dataclasses.dataclass(frozen=True)
class ModelFile(StoredCheckpoint):
  """A model file on disk; its `folder` is the file."""

  @property
  def workdir(self) -> epath.Path:
    """There is none.

    Raises:
      UserError: always; names the remedy.
    """
    raise UserError(f'{self.folder} belongs to no work folder: name one (--workdir)')

  def shapes(self, item: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, dtype after reading) of every array of an item."""
    return flat_shapes(_widened(_read_arrays(self.folder, item)))

  def _restore(self, item: str, template: Tree) -> Tree:
    arrays = _widened(_read_arrays(self.folder, item))
    tree = ocp.tree.from_flat_dict(arrays, template, sep='/')
    return jax.tree.map(
      lambda array, leaf: (
        jax.device_put(array, leaf.sharding) if isinstance(leaf, jax.Array) else array
      ),
      tree,
      template,
    )


def open_model(path: epath.PathLike) -> StoredCheckpoint:
  """Opens a model file, or a checkpoint as `open_checkpoint` does.

  Raises:
    UserError: there is nothing that can be read; see `open_checkpoint`.
  """
  path = located(path)
  if path.suffix != SUFFIX:
    return open_checkpoint(path)
  if not path.is_file():
    raise UserError(f'model {path}: no such file')
  try:
    [text] = _read_arrays(path, _METADATA).values()
    stored = json.loads(bytes(text).decode())
    step, checksums = int(stored['step']), dict(stored['checksums'])
  except (KeyError, ValueError, TypeError) as error:
    raise CorruptCheckpointError(
      f'{path} is not a model file of this program, or is damaged ({first_line(error)})'
    ) from error
  return ModelFile(path, step, parse_metadata(path, stored), checksums)


def write_model_file(stored: StoredCheckpoint, path: str | os.PathLike) -> None:
  """Writes a checkpoint's variables and metadata; whole or not at all.

  Args:
    stored: what is written.
    path: the file, its name ending in .npz.

  Raises:
    UserError: another ending, a parameter beyond the range of float16, a checkpoint
      that cannot be read, or a file that cannot be written, as in gs://...
  """
  path = local_file(path, '--output')
  if path.suffix != SUFFIX:
    raise UserError(f'{path}: the name of a model file ends in {SUFFIX}')
  metadata = stored.metadata
  variables = ocp.tree.to_flat_dict(
    jax.tree.map(np.asarray, read_variables(stored, metadata.config)), sep='/'
  )
  arrays = {name: _narrowed(name, array) for name, array in variables.items()}
  content = {
    **_without_paths(metadata).as_json(),
    'step': stored.step,
    'checksums': {'variables': checksum(_widened(arrays))},
  }
  text = np.frombuffer(json.dumps(content).encode(), np.uint8)
  file_content: dict[str, Any] = {_METADATA: text}
  file_content |= {f'variables/{name}': array for name, array in arrays.items()}
  with failures_told(path), replaced_file(path) as beside, open(beside, 'wb') as file:
    np.savez_compressed(file, **file_content)


def _without_paths(metadata: Metadata) -> Metadata:
  config = metadata.config.copy_and_resolve_references()
  for data in (config.data.train, config.data.eval):
    data.annotations = data.images = ''
  config.init.checkpoint = ''
  return dataclasses.replace(metadata, config=config)


def _narrowed(name: str, array: np.ndarray) -> np.ndarray:
  if not name.startswith('params/'):
    return array
  with np.errstate(over='ignore'):
    narrow = array.astype(np.float16)
  if not np.isfinite(narrow).all():
    raise UserError(f'{name} has values that float16 cannot hold: keep the checkpoint')
  return narrow


def _widened(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {
    name: array.astype(np.float32) if array.dtype == np.float16 else array
    for name, array in arrays.items()
  }


def _read_arrays(path: epath.Path, item: str) -> dict[str, Any]:
  """The array `item`, or those under it, without it in their names."""
  try:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as content:
      return {
        name.removeprefix(f'{item}/'): content[name]
        for name in content.files
        if name == item or name.startswith(f'{item}/')
      }
  # NotImplementedError, a RuntimeError, is for kinds of compression.
  except (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    raise CorruptCheckpointError(
      f'{path} is not a model file, or is damaged ({first_line(error)})'
    ) from error
