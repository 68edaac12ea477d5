"""Writes a checkpoint as a .pth in the layout of the authors' code."""

import argparse

from embedmask_jax.commands.shared_arguments import add_checkpoint, open_stored
from embedmask_jax.exit_status import SUCCESS

SUMMARY = "write a checkpoint in the layout of the authors' code"
EXAMPLE = """\
  embedmask export --checkpoint=runs/mine --output=mine.pth
"""
TAKES_CONFIG = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  add_checkpoint(parser)
  parser.add_argument(
    '--output', required=True, help='file to write, its name ending in .pth'
  )


def run(arguments: argparse.Namespace) -> int:
  """Exports; returns the exit status."""
  stored = open_stored(arguments.checkpoint)
  from embedmask_jax.convert import run_export

  run_export(stored, arguments.output)
  return SUCCESS
