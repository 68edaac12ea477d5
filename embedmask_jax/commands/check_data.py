"""Looks at a data set before it is trained on."""

import argparse

from embedmask_jax.errors import UserError

SUMMARY = 'look at a data set before training on it'
EXAMPLE = """\
  embedmask check-data --annotations=train.json --images=images
"""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument('--annotations', required=True, help='COCO-format JSON')


def run(arguments: argparse.Namespace) -> int:
  """Reports; returns the exit status."""
  raise UserError('check-data is not there yet')
