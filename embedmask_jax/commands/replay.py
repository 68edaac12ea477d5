"""Computes the step whose loss was not finite once more, image by image."""

import argparse

from embedmask_jax.commands.shared_arguments import add_compilation_cache
from embedmask_jax.exit_status import SUCCESS

SUMMARY = 'compute a step whose loss was not finite once more'
EXAMPLE = """\
  embedmask replay --workdir=runs/mine
"""
TAKES_CONFIG = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument('--workdir', required=True, help='folder of the run')
  add_compilation_cache(parser)


def run(arguments: argparse.Namespace) -> int:
  """Prints the table of losses; returns the exit status."""
  from embedmask_jax.compilation_cache import enable_compilation_cache

  enable_compilation_cache(arguments.compilation_cache)
  from embedmask_jax.replay import replay

  print(replay(arguments.workdir))
  return SUCCESS
