"""Cuts a COCO JSON in two, by image: OUTPUT/train.json and OUTPUT/val.json.

Images stay where they are. Which go to val.json follows from their names and the seed.
Every category is in both files, and those without an instance in one are named. Images
that belong together (a scene, a patient) are not known as such: split those by hand.
"""

import argparse

from embedmask_jax.exit_status import SUCCESS

SUMMARY = 'cut a COCO JSON in two, to train on and to evaluate on'
EXAMPLE = """\
  embedmask split --annotations=all.json --fraction=0.1 --output=annotations
"""
TAKES_CONFIG = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument('--annotations', required=True, help='COCO-format JSON')
  parser.add_argument(
    '--output', required=True, help='folder for train.json and val.json'
  )
  parser.add_argument(
    '--fraction', type=float, default=0.1, help='of images to val.json; default: 0.1'
  )
  parser.add_argument('--seed', type=int, default=0, help='draws others; default: 0')


def run(arguments: argparse.Namespace) -> int:
  """Splits and prints what came out; returns the exit status."""
  from embedmask_jax.prepare.split import split_coco

  for part in split_coco(
    arguments.annotations,
    arguments.output,
    fraction=arguments.fraction,
    seed=arguments.seed,
  ):
    print(part)
  return SUCCESS
