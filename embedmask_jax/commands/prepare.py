"""Converts a data set: other formats to COCO JSON, COCO JSON to ArrayRecord.

--from=coco          --annotations=A.json --images=DIR         -> folder of records
--from=labelme       --labels=DIR [--images=DIR --names=FILE]  -> JSON
--from=yolo          --labels=DIR --images=DIR --names=FILE    -> JSON
--from=instance-ids  --labels=DIR --images=DIR                 -> JSON
--from=mask-folders  --labels=DIR --images=DIR                 -> JSON
--from=cityscapes    --labels=gtFine/train --images=leftImg8bit/train -> JSON

Images are not copied: file names in the JSON count from the image folder. The output
is complete or absent. An interrupted conversion to JSON goes on when the same command
is run again. What goes in and what comes out is counted, and what is left out is named;
the exit status is then 1.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import FINDINGS, SUCCESS

if TYPE_CHECKING:
  from embedmask_jax.prepare.label_format import LabelFormat

SUMMARY = 'convert a data set: labelme, YOLO, PNGs ... to COCO, COCO to ArrayRecord'
EXAMPLE = """\
  embedmask prepare --from=yolo --labels=labels/train --images=images/train \\
    --names=data.yaml --output=train.json
  embedmask prepare --from=coco --annotations=train.json --images=images/train \\
    --output=records/train
"""
TAKES_CONFIG = False

# What each format takes beside --output, --skip-broken and --json.
_OPTIONS = {
  'coco': ('annotations', 'images', 'split'),
  'labelme': ('labels', 'images', 'names'),
  'yolo': ('labels', 'images', 'names'),
  'instance-ids': ('labels', 'images', 'category', 'ignore'),
  'mask-folders': ('labels', 'images', 'category'),
  'cityscapes': ('labels', 'images'),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument('--from', dest='format', required=True, choices=[*_OPTIONS])
  parser.add_argument('--output', required=True, help='what to write; must not exist')
  parser.add_argument('--annotations', default='', help='coco: the JSON')
  parser.add_argument('--labels', default='', help='folder of the labels')
  parser.add_argument('--images', default='', help='folder of the images')
  parser.add_argument(
    '--names',
    default='',
    help='yolo, labelme: names of the classes, .yaml or one a line; without them '
    "labelme's are the labels found, and those of two data sets may differ",
  )
  parser.add_argument(
    '--category',
    default='',
    help='instance-ids, mask-folders: the name of what there is; default: object',
  )
  parser.add_argument(
    '--ignore',
    default='',
    metavar='VALUES',
    help='instance-ids: values, joined by commas, that are no object; 0 never is',
  )
  parser.add_argument(
    '--split', default='', help='coco: name of the records for TFDS; default: train'
  )
  parser.add_argument(
    '--skip-broken',
    action='store_true',
    help='leave out, and name, images whose labels cannot be used; not for coco',
  )
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(arguments: argparse.Namespace) -> int:
  """Converts; returns the exit status: 1 where something was left out."""
  _check_options(arguments)
  if arguments.format == 'coco':
    return _write_records(arguments)
  labels = _open(arguments)
  from embedmask_jax.prepare.coco_writer import write_coco

  names = ('format', *_OPTIONS[arguments.format])
  report = write_coco(
    labels,
    arguments.output,
    settings={name: getattr(arguments, name) for name in names},
    skips_broken=arguments.skip_broken,
  )
  images = arguments.images or arguments.labels
  if arguments.json:
    print(json.dumps(dataclasses.asdict(report), indent=2))
  else:
    print(f'{arguments.output}, for images in {images}\n{report}')
  return FINDINGS if report.left_out else SUCCESS


def _check_options(arguments: argparse.Namespace) -> None:
  taken = _OPTIONS[arguments.format]
  for name in sorted({name for names in _OPTIONS.values() for name in names}):
    if getattr(arguments, name) and name not in taken:
      raise UserError(
        f'--{name} is not for --from={arguments.format}, which takes '
        f'{", ".join(f"--{name}" for name in taken)}'
      )


def _open(arguments: argparse.Namespace) -> 'LabelFormat':
  labels, images = arguments.labels, arguments.images
  category = arguments.category or 'object'
  if arguments.format == 'labelme':
    from embedmask_jax.prepare.image_folder import read_names
    from embedmask_jax.prepare.labelme import LabelmeLabels

    names = read_names(arguments.names) if arguments.names else None
    return LabelmeLabels(labels, images, names)
  if arguments.format == 'yolo':
    if not arguments.names:
      raise UserError('--names is missing; see embedmask prepare --help')
    from embedmask_jax.prepare.image_folder import read_names
    from embedmask_jax.prepare.yolo import YoloLabels

    return YoloLabels(labels, images, read_names(arguments.names))
  if arguments.format == 'instance-ids':
    from embedmask_jax.prepare.instance_ids import InstanceIdLabels

    return InstanceIdLabels(labels, images, category, _values(arguments.ignore))
  if arguments.format == 'mask-folders':
    from embedmask_jax.prepare.mask_folders import MaskFolderLabels

    return MaskFolderLabels(labels, images, category)
  from embedmask_jax.prepare.cityscapes import CityscapesLabels

  return CityscapesLabels(labels, images)


def _values(text: str) -> frozenset[int]:
  try:
    return frozenset(int(value) for value in text.split(',') if text)
  except ValueError as error:
    raise UserError(
      f'--ignore={text}: must be whole numbers joined by commas, such as 255'
    ) from error


def _write_records(arguments: argparse.Namespace) -> int:
  for name in ('annotations', 'images'):
    if not getattr(arguments, name):
      raise UserError(f'--{name} is missing; see embedmask prepare --help')
  if arguments.skip_broken:
    raise UserError(
      '--skip-broken is not for --from=coco: leave such images out of the JSON '
      '(embedmask check-data names them all)'
    )
  from embedmask_jax.data.record_source import RecordSource
  from embedmask_jax.data.tfds_builder import prepare_records

  if arguments.quiet or not sys.stderr.isatty():
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
  # TFDS talks of downloads, on the stream that is the report's.
  with contextlib.redirect_stdout(sys.stderr):
    output = prepare_records(
      arguments.annotations,
      arguments.images,
      arguments.output,
      arguments.split or 'train',
    )
  report = RecordSource(output).report
  if arguments.json:
    print(json.dumps(dataclasses.asdict(report), indent=2))
  else:
    print(f'{output}\n{report}')
  return SUCCESS
