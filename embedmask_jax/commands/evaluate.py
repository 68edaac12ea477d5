"""Scores a checkpoint, by default on the evaluation data of its own config.

WORKDIR/eval/<step> gets metrics.json, predictions.json, overlays/ and report.html: COCO
tables, curves, calibration, confusion and the best and worst images. --config=FILE
replaces the parts `data` and `eval` of the stored config.
"""

import argparse
import contextlib
import json
import sys

from embedmask_jax.commands.shared_arguments import (
  add_checkpoint,
  add_compilation_cache,
  add_model,
  open_stored,
)
from embedmask_jax.config_reading import stored_or_given_config
from embedmask_jax.exit_status import SUCCESS

SUMMARY = 'score a checkpoint: COCO metrics, a report and pictures'
EXAMPLE = """\
  embedmask eval --checkpoint=runs/mine \\
    --config.data.eval.annotations=test.json --config.data.eval.images=images
"""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  add_checkpoint(parser)
  add_model(parser)
  parser.add_argument(
    '--workdir',
    default='',
    help='where the results go, and the checkpoint comes from where none is named; '
    "default: the checkpoint's own",
  )
  parser.add_argument(
    '--json',
    action='store_true',
    help='print the metrics as JSON, and the table to standard error',
  )
  add_compilation_cache(parser)


def run(arguments: argparse.Namespace) -> int:
  """Evaluates; returns the exit status."""
  path = arguments.checkpoint or ('' if arguments.model else arguments.workdir)
  stored = open_stored(path, arguments.model)
  from embedmask_jax.compilation_cache import enable_compilation_cache
  from embedmask_jax.evaluate import evaluate_checkpoint

  config = stored_or_given_config(stored.metadata.config, arguments.config_flags)
  enable_compilation_cache(arguments.compilation_cache)
  table = sys.stderr if arguments.json else sys.stdout
  with contextlib.redirect_stdout(table):
    metrics = evaluate_checkpoint(stored, config, workdir=arguments.workdir)
  if arguments.json:
    print(json.dumps(metrics, indent=2))
  return SUCCESS
