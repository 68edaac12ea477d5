"""Turns a weight file of the authors, or an ImageNet backbone, into a checkpoint."""

import argparse

from embedmask_jax.commands.shared_arguments import add_compilation_cache
from embedmask_jax.config_reading import required_config
from embedmask_jax.exit_status import SUCCESS

SUMMARY = "turn the authors' weights, or a backbone's, into a checkpoint"
EXAMPLE = """\
  embedmask import --config=configs/coco_2021_r50_1x.py --weights=CHECKPOINT.pth \\
    --output=runs/authors
"""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    '--weights', required=True, help='a .pth of the authors, .pth or .pkl of a backbone'
  )
  parser.add_argument('--output', required=True, help='work folder for the checkpoint')
  add_compilation_cache(parser)


def run(arguments: argparse.Namespace) -> int:
  """Imports; returns the exit status."""
  _, config = required_config(arguments.config_flags)
  from embedmask_jax.compilation_cache import enable_compilation_cache
  from embedmask_jax.convert import run_import

  enable_compilation_cache(arguments.compilation_cache)
  run_import(arguments.weights, config, arguments.output)
  return SUCCESS
