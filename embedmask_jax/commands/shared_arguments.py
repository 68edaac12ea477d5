"""Arguments that several commands have, under one name and with one meaning."""

import argparse
from typing import TYPE_CHECKING

from embedmask_jax.errors import UserError
from embedmask_jax.shipped import shipped_model

if TYPE_CHECKING:
  from embedmask_jax.checkpoint import StoredCheckpoint


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
  """Adds --checkpoint, which `open_stored` opens."""
  parser.add_argument(
    '--checkpoint',
    default='',
    help='a work folder, whose newest is taken, WORKDIR/checkpoints/STEP, or a model '
    'file (.npz)',
  )


def add_model(parser: argparse.ArgumentParser) -> None:
  """Adds --model, in place of --checkpoint."""
  parser.add_argument(
    '--model', default='', metavar='NAME', help='a model that comes along: nuclei'
  )


def add_compilation_cache(parser: argparse.ArgumentParser) -> None:
  """Adds --compilation-cache, for `enable_compilation_cache`."""
  parser.add_argument(
    '--compilation-cache',
    default='',
    metavar='FOLDER',
    help='folder for compiled programs; "off" for none. Default: '
    'JAX_COMPILATION_CACHE_DIR, or xla in the cache folder',
  )


def add_distributed(parser: argparse.ArgumentParser) -> None:
  """Adds --distributed, on by default."""
  parser.add_argument(
    '--distributed',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='be one of several processes where the environment says so',
  )


def open_stored(path: str, model: str = '') -> 'StoredCheckpoint':
  """Opens a checkpoint, or a model that comes along.

  Raises:
    UserError: none is named, or both are, or it cannot be opened.
  """
  if path and model:
    raise UserError(f'--checkpoint={path} and --model={model}: name one of them')
  if model:
    path = str(shipped_model(model))
  if not path:
    raise UserError(
      '--checkpoint is missing; a work folder or WORKDIR/checkpoints/STEP'
    )
  from embedmask_jax.model_file import open_model

  return open_model(path)
