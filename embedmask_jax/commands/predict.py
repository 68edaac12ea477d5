"""Finds instances in images: an overlay for each, and predictions.json."""

import argparse

from embedmask_jax.commands.shared_arguments import (
  add_checkpoint,
  add_compilation_cache,
  open_stored,
)
from embedmask_jax.config_reading import stored_or_given_config
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import SUCCESS, USER_MISTAKE

SUMMARY = 'find instances in images'
EXAMPLE = """\
  embedmask predict --checkpoint=runs/mine --images=photos --output=found
"""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    '--images', required=True, help='an image file or a folder of them'
  )
  parser.add_argument(
    '--output', required=True, help='folder for the overlays and predictions.json'
  )
  add_checkpoint(parser)
  parser.add_argument(
    '--score-threshold',
    type=float,
    default=0.3,
    help='smallest score of a detection, 0 to 1; default 0.3',
  )
  add_compilation_cache(parser)


def run(arguments: argparse.Namespace) -> int:
  """Predicts; returns the exit status, 2 where images could not be read."""
  if not 0 <= arguments.score_threshold <= 1:
    raise UserError(
      f'--score-threshold={arguments.score_threshold} is not a number 0 to 1'
    )
  stored = open_stored(arguments.checkpoint)
  from embedmask_jax.compilation_cache import enable_compilation_cache
  from embedmask_jax.predict import predict_files

  config = stored_or_given_config(stored.metadata.config, arguments.config_flags)
  enable_compilation_cache(arguments.compilation_cache)
  unreadable = predict_files(
    stored,
    config,
    images=arguments.images,
    output=arguments.output,
    score_threshold=arguments.score_threshold,
  )
  return USER_MISTAKE if unreadable else SUCCESS
