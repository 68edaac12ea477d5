"""Says what a checkpoint is, or, without one, what this installation is."""

import argparse
import json

from embedmask_jax.exit_status import SUCCESS

SUMMARY = 'describe a checkpoint, or this installation'
EXAMPLE = """\
  embedmask info runs/mine
  embedmask info --json
"""
TAKES_CONFIG = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    'checkpoint',
    nargs='?',
    help='a work folder, WORKDIR/checkpoints/STEP, or a model file (.npz)',
  )
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(arguments: argparse.Namespace) -> int:
  """Prints the description; returns the exit status."""
  from embedmask_jax.describe import describe_checkpoint, describe_installation

  if arguments.checkpoint:
    facts = describe_checkpoint(arguments.checkpoint)
  else:
    facts = describe_installation()
  if arguments.json:
    print(json.dumps(facts, indent=2))
  else:
    for name, value in facts.items():
      print(f'{name.replace("_", " "):<16} {_in_words(value)}')
  return SUCCESS


def _in_words(value: object) -> str:
  if value in (None, '', [], {}):
    return 'none'
  if isinstance(value, dict):
    return ', '.join(f'{name} {_in_words(item)}' for name, item in value.items())
  if isinstance(value, list):
    return ', '.join(_in_words(item) for item in value)
  if isinstance(value, float):
    # Metrics are below 1; settings above it, such as a mean, are shown as they are.
    return f'{value:.4g}' if abs(value) < 1 else str(value)
  return str(value)
