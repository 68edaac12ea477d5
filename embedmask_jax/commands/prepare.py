"""Converts a data set: other formats to COCO JSON, COCO JSON to ArrayRecord.

--from=coco          --annotations=A.json --images=DIR         -> folder of records
--from=labelme       --labels=DIR [--images=DIR]               -> JSON
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

_FORMATS = ('coco', 'labelme', 'yolo', 'instance-ids', 'mask-folders', 'cityscapes')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument('--from', dest='format', required=True, choices=_FORMATS)
  parser.add_argument('--output', required=True, help='what to write; must not exist')
  parser.add_argument('--annotations', default='', help='coco: the JSON')
  parser.add_argument('--labels', default='', help='folder of the labels')
  parser.add_argument('--images', default='', help='folder of the images')
  parser.add_argument(
    '--names', default='', help='yolo: names of the classes, .yaml or one a line'
  )
  parser.add_argument(
    '--category',
    default='object',
    help='instance-ids, mask-folders: the name of what there is; default: object',
  )
  parser.add_argument(
    '--split', default='train', help='coco: name of the records for TFDS'
  )
  parser.add_argument(
    '--skip-broken',
    action='store_true',
    help='leave out, and name, images whose labels cannot be used; not for coco',
  )
  parser.add_argument('--json', action='store_true', help='print JSON')


def run(arguments: argparse.Namespace) -> int:
  """Converts; returns the exit status: 1 where something was left out."""
  if arguments.format == 'coco':
    return _write_records(arguments)
  labels = _open(arguments)
  from embedmask_jax.prepare.coco_writer import write_coco

  names = ('format', 'labels', 'images', 'names', 'category')
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


def _open(arguments: argparse.Namespace) -> 'LabelFormat':
  labels, images = arguments.labels, arguments.images
  if arguments.format == 'labelme':
    from embedmask_jax.prepare.labelme import LabelmeLabels

    return LabelmeLabels(labels, images)
  if arguments.format == 'yolo':
    if not arguments.names:
      raise UserError('--names is missing; see embedmask prepare --help')
    from embedmask_jax.prepare.image_folder import read_names
    from embedmask_jax.prepare.yolo import YoloLabels

    return YoloLabels(labels, images, read_names(arguments.names))
  if arguments.format == 'instance-ids':
    from embedmask_jax.prepare.instance_ids import InstanceIdLabels

    return InstanceIdLabels(labels, images, arguments.category)
  if arguments.format == 'mask-folders':
    from embedmask_jax.prepare.mask_folders import MaskFolderLabels

    return MaskFolderLabels(labels, images, arguments.category)
  from embedmask_jax.prepare.cityscapes import CityscapesLabels

  return CityscapesLabels(labels, images)


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
      arguments.annotations, arguments.images, arguments.output, arguments.split
    )
  report = RecordSource(output).report
  if arguments.json:
    print(json.dumps(dataclasses.asdict(report), indent=2))
  else:
    print(f'{output}\n{report}')
  return SUCCESS
