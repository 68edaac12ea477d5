"""Looks at a data set before it is trained on, by the code that trains on it.

Files (missing, unreadable, of another size, turned by EXIF), annotations (left out,
wrong, twice, overlapping, beyond the image), categories, the score of the ground truth
against itself, which objects the targets can represent at the input size and the AP
that follows, and what a training step takes. Without --config that of
configs/custom.py is used.
"""

import argparse
import json

from embedmask_jax.config_reading import given_or_default_config
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import FINDINGS, SUCCESS

SUMMARY = 'look at a data set before training on it'
EXAMPLE = """\
  embedmask check-data --annotations=train.json --images=images --output=check
  embedmask check-data --config=configs/nuclei.py --annotations=train.json \\
    --images=images --json --allow=no_location,overlap

With --allow the findings of these kinds do not lead to exit status 1.
"""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    '--annotations',
    default='',
    help='COCO-format JSON, or a folder of records; default: those that the config '
    'trains on',
  )
  parser.add_argument(
    '--images', default='', help='image folder, or several joined by commas'
  )
  parser.add_argument(
    '--output', default='', help='folder for report.json and contact sheets'
  )
  parser.add_argument('--json', action='store_true', help='print JSON')
  parser.add_argument(
    '--allow',
    default='',
    metavar='KINDS',
    help='kinds of findings, joined by commas, that do not lead to exit status 1',
  )


def run(arguments: argparse.Namespace) -> int:
  """Prints the report; returns the exit status: 1 where something is lost."""
  config = given_or_default_config(arguments.config_flags, 'custom')
  annotations = arguments.annotations or config.data.train.annotations
  images = arguments.images or config.data.train.images
  if not annotations:
    raise UserError('--annotations is missing; see embedmask check-data --help')
  allowed = _allowed(arguments.allow)
  from embedmask_jax.check.data_check import check_data
  from embedmask_jax.data.source import open_source
  from embedmask_jax.folders import local_folder
  from embedmask_jax.presets import PRESETS
  from embedmask_jax.writing import write_json

  source = open_source(
    annotations,
    images,
    min_box_side=config.data.min_box_side,
    preset=PRESETS[config.model.preset],
    leaves_out_missing=True,
  )
  output = None
  if arguments.output:
    output = local_folder(arguments.output, '--output')
  report = check_data(source, config, folders=images, output=output)
  content = report.as_json()
  if output:
    write_json(output / 'report.json', content, indent=2)
  print(json.dumps(content, indent=2) if arguments.json else report)
  return FINDINGS if report.losses(allowed) else SUCCESS


def _allowed(kinds: str) -> set[str]:
  from embedmask_jax.check.findings import LOSSES, NOTES

  allowed = {kind.strip() for kind in kinds.split(',') if kind.strip()}
  if unknown := sorted(allowed - LOSSES - NOTES):
    raise UserError(
      f'--allow={kinds}: no kind {unknown[0]}; those that lead to status 1: '
      f'{", ".join(sorted(LOSSES))}'
    )
  return allowed
