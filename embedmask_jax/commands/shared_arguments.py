"""Arguments that several commands have, under one name and with one meaning."""

import argparse
from typing import TYPE_CHECKING

from embedmask_jax.errors import UserError

if TYPE_CHECKING:
  from embedmask_jax.checkpoint import StoredCheckpoint


def add_checkpoint(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
  """Adds --checkpoint, which `open_stored` opens."""
  parser.add_argument(
    '--checkpoint',
    default='',
    required=required,
    help='a work folder, whose newest is taken, or WORKDIR/checkpoints/STEP',
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


def open_stored(path: str) -> 'StoredCheckpoint':
  """Opens a checkpoint.

  Raises:
    UserError: none is named, or it cannot be opened.
  """
  if not path:
    raise UserError(
      '--checkpoint is missing; a work folder or WORKDIR/checkpoints/STEP'
    )
  from embedmask_jax.checkpoint import open_checkpoint

  return open_checkpoint(path)
