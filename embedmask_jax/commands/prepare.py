"""Converts data sets: other formats to COCO JSON, COCO JSON to ArrayRecord."""

import argparse

from embedmask_jax.errors import UserError

SUMMARY = 'convert a data set'
EXAMPLE = """\
  embedmask prepare --annotations=train.json --images=images --output=records
"""
TAKES_CONFIG = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument('--output', required=True, help='what to write')


def run(arguments: argparse.Namespace) -> int:
  """Converts; returns the exit status."""
  raise UserError('prepare is not there yet')
