"""Writes a checkpoint as a program that runs without this package, or as weights.

stablehlo and onnx hold everything from an 8-bit image of any size up to --canvas to
boxes, classes, scores and masks at the size of the image, and come as a folder with
contract.json, which says what goes in and out. pth is a file of weights in the layout
of the authors' code; npz a file that --checkpoint takes again, with parameters of half
the precision.
"""

import argparse
import re

from embedmask_jax.commands.shared_arguments import (
  add_checkpoint,
  add_compilation_cache,
  add_model,
  open_stored,
)
from embedmask_jax.config_reading import stored_or_given_config
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import FINDINGS, SUCCESS

SUMMARY = 'write a checkpoint as StableHLO, as ONNX, or as one file of weights'
EXAMPLE = """\
  embedmask export runs/mine -o exported --canvas=480x640 --verify photos
  embedmask export runs/mine --format=onnx -o exported-onnx --canvas=480x640
  embedmask export --checkpoint=runs/mine --output=mine.pth
  embedmask export --checkpoint=runs/mine --output=mine.npz
"""
TAKES_CONFIG = True

STABLEHLO, ONNX, PTH, NPZ = 'stablehlo', 'onnx', 'pth', 'npz'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    'source', nargs='?', metavar='CHECKPOINT', help='the same as --checkpoint'
  )
  add_checkpoint(parser)
  add_model(parser)
  parser.add_argument(
    '-o',
    '--output',
    required=True,
    help='folder to write, new or empty; for pth a file ending in .pth or .pt, for npz '
    'in .npz',
  )
  parser.add_argument(
    '--format',
    choices=(STABLEHLO, ONNX, PTH, NPZ),
    help=f'default: {PTH} or {NPZ} by the ending of --output, else {STABLEHLO}',
  )
  parser.add_argument(
    '--canvas',
    metavar='HEIGHTxWIDTH',
    help='the largest image; default: the smallest of config.eval.output_ladder',
  )
  parser.add_argument(
    '--network-canvas',
    metavar='HEIGHTxWIDTH',
    help='what images are resized into, multiples of 32; default: room for every '
    'image up to --canvas. A smaller one is faster, and makes images smaller that do '
    'not fit',
  )
  parser.add_argument(
    '--verify',
    nargs='+',
    default=[],
    metavar='IMAGES',
    help='compare with this package on these images, and say the times of both; '
    'status 1 where they disagree',
  )
  add_compilation_cache(parser)


def run(arguments: argparse.Namespace) -> int:
  """Exports; returns the exit status, 1 where --verify finds a difference."""
  if arguments.source and arguments.checkpoint:
    raise UserError('the checkpoint is named twice; leave --checkpoint out')
  kind = arguments.format
  if kind is None:
    ending = arguments.output.rpartition('.')[2]
    kind = {PTH: PTH, 'pt': PTH, NPZ: NPZ}.get(ending, STABLEHLO)
  canvas = _size('--canvas', arguments.canvas)
  network_canvas = _size('--network-canvas', arguments.network_canvas, step=32)
  if kind in (PTH, NPZ):
    others = [*arguments.config_flags, *arguments.verify]
    if others or canvas or network_canvas:
      raise UserError(
        f'--format={kind} writes weights, for which there are no --canvas, '
        '--network-canvas, --verify and --config'
      )
  elif arguments.output.endswith(('.pth', '.pt', '.npz', '.onnx', '.bin')):
    raise UserError(
      f'--output={arguments.output}: --format={kind} writes a folder; name one'
    )
  stored = open_stored(arguments.source or arguments.checkpoint, arguments.model)
  if kind == PTH:
    from embedmask_jax.convert import run_export

    run_export(stored, arguments.output)
    return SUCCESS
  if kind == NPZ:
    from embedmask_jax.model_file import write_model_file

    write_model_file(stored, arguments.output)
    return SUCCESS
  from embedmask_jax.compilation_cache import enable_compilation_cache
  from embedmask_jax.export.artifact import export_artifact

  enable_compilation_cache(arguments.compilation_cache)
  agrees = export_artifact(
    stored,
    stored_or_given_config(stored.metadata.config, arguments.config_flags),
    kind=kind,
    output=arguments.output,
    canvas=canvas,
    network_canvas=network_canvas,
    images=arguments.verify,
  )
  return SUCCESS if agrees else FINDINGS


def _size(option: str, text: str | None, step: int = 1) -> tuple[int, int] | None:
  if text is None:
    return None
  found = re.fullmatch(r'(\d+)x(\d+)', text)
  size = (int(found[1]), int(found[2])) if found else (0, 0)
  if not all(32 <= side <= 8192 and side % step == 0 for side in size):
    multiples = f', multiples of {step}' if step > 1 else ''
    raise UserError(
      f'{option}={text} is not HEIGHTxWIDTH, such as 480x640, of 32 to 8192 pixels'
      f'{multiples}'
    )
  return size
