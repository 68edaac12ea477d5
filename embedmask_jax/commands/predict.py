"""Finds instances in images and videos; writes overlays, predictions.json and more.

IMAGES are image and video files, folders of them, patterns in quotes such as
'photos/**/*.jpg', and - for a list of files on standard input, one a line. What cannot
be read is named, left out, and makes the exit status 2.
"""

import argparse

from embedmask_jax.commands.shared_arguments import (
  add_checkpoint,
  add_compilation_cache,
  add_model,
  open_stored,
)
from embedmask_jax.config_reading import stored_or_given_config
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import SUCCESS, USER_MISTAKE
from embedmask_jax.output_kinds import OUTPUT_KINDS, OVERLAY

SUMMARY = 'find instances in images and videos'
EXAMPLE = """\
  embedmask predict slides/*.png --model=nuclei --output=found
  embedmask predict photos clip.mp4 --checkpoint=runs/mine --output=found
  embedmask predict 'maps/*.tif' --checkpoint=runs/mine --output=found \\
    --tile=1024 --save=geojson,label-map --class-threshold roof=0.5
  find photos -name '*.jpg' | embedmask predict - --checkpoint=runs/mine --output=found
"""
TAKES_CONFIG = True

# What a program with static shapes can be asked for within reason.
_MAX_DETECTIONS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    'inputs', nargs='*', metavar='IMAGES', help='files, folders, patterns, or -'
  )
  parser.add_argument(
    '--images', action='append', default=[], help='the same, as an option'
  )
  parser.add_argument(
    '--output', required=True, help='folder for what is written; made if need be'
  )
  add_checkpoint(parser)
  add_model(parser)
  parser.add_argument(
    '--score-threshold',
    type=float,
    default=0.3,
    help='smallest score of a detection, 0 to 1; default 0.3',
  )
  parser.add_argument(
    '--class-threshold',
    action='append',
    default=[],
    metavar='NAME=SCORE',
    help='the same for one class; may be given for several',
  )
  parser.add_argument(
    '--max-detections',
    type=int,
    help=f'detections per image, or tile, 1 to {_MAX_DETECTIONS}; default: '
    'config.eval.max_detections',
  )
  parser.add_argument(
    '--tile',
    type=int,
    default=0,
    metavar='SIDE',
    help='cut larger images into overlapping tiles of this side, in their pixels; '
    'objects on borders come out whole',
  )
  parser.add_argument(
    '--overlap',
    type=int,
    help='pixels that tiles share; best the size of the largest object; default: a '
    'quarter of a tile',
  )
  kinds = '; '.join(f'{kind} - {meaning}' for kind, meaning in OUTPUT_KINDS.items())
  parser.add_argument(
    '--save',
    default=OVERLAY,
    metavar='KIND,...',
    help=f'what to write beside predictions.json; default {OVERLAY}. {kinds}',
  )
  parser.add_argument(
    '--polygon-tolerance',
    type=float,
    default=0.0,
    metavar='PIXELS',
    help='by how much polygons of geojson and labelme may miss the mask, to have fewer '
    'points; default 0: exact',
  )
  add_compilation_cache(parser)


def run(arguments: argparse.Namespace) -> int:
  """Predicts; returns the exit status, 2 where images could not be read."""
  if not 0 <= arguments.score_threshold <= 1:
    raise UserError(
      f'--score-threshold={arguments.score_threshold} is not a number 0 to 1'
    )
  most = arguments.max_detections
  if most is not None and not 1 <= most <= _MAX_DETECTIONS:
    raise UserError(f'--max-detections={most} is not a number 1 to {_MAX_DETECTIONS}')
  class_thresholds = dict(map(_class_threshold, arguments.class_threshold))
  kinds = [kind for kind in arguments.save.split(',') if kind]
  for kind in kinds:
    if kind not in OUTPUT_KINDS:
      raise UserError(f'--save={kind}: there are {", ".join(OUTPUT_KINDS)}')
  images = [*arguments.inputs, *arguments.images]
  if not images:
    raise UserError('IMAGES is missing: files, folders or patterns, or - for a list')
  stored = open_stored(arguments.checkpoint, arguments.model)
  from embedmask_jax.compilation_cache import enable_compilation_cache
  from embedmask_jax.predict import predict_files

  config = stored_or_given_config(stored.metadata.config, arguments.config_flags)
  enable_compilation_cache(arguments.compilation_cache)
  unreadable = predict_files(
    stored,
    config,
    images=images,
    output=arguments.output,
    score_threshold=arguments.score_threshold,
    class_thresholds=class_thresholds,
    max_detections=most,
    tile=arguments.tile,
    overlap=arguments.overlap,
    save=kinds,
    polygon_tolerance=arguments.polygon_tolerance,
  )
  return USER_MISTAKE if unreadable else SUCCESS


def _class_threshold(text: str) -> tuple[str, float]:
  name, sign, score = text.rpartition('=')
  try:
    if not sign or not name:
      raise ValueError
    return name, float(score)
  except ValueError as error:
    raise UserError(
      f'--class-threshold={text} is not a class and a score such as cat=0.5'
    ) from error
