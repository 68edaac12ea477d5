"""Trains, or goes on from the newest checkpoint of the work folder.

Where the environment names a cluster (Cloud TPU, GKE, Slurm, or as
embedmask_jax/hosts.py says) the process is one of several. After SIGTERM it saves at
the next step and exits with status 75, which asks to be started again; after the first
Ctrl-C it saves, too, and exits with 130.
"""

import argparse
import sys
from pathlib import Path

from embedmask_jax.commands.shared_arguments import (
  add_compilation_cache,
  add_distributed,
)
from embedmask_jax.config_reading import required_config
from embedmask_jax.exit_status import INTERRUPTED, RETRY, SUCCESS

SUMMARY = 'train, or go on with a run'
EXAMPLE = """\
  embedmask train --config=configs/small.py --workdir=runs/mine \\
    --config.data.train.annotations=train.json --config.data.train.images=images \\
    --config.data.eval.annotations=val.json --config.data.eval.images=images
"""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  parser.add_argument(
    '--workdir', required=True, help='folder of the run: checkpoints, logs, evaluations'
  )
  add_distributed(parser)
  parser.add_argument(
    '--take-over',
    action=argparse.BooleanOptionalAction,
    default=False,
    help='do not wait for a sign of life of a run on another machine that was killed '
    'in a work folder in gs://',
  )
  add_compilation_cache(parser)


def run(arguments: argparse.Namespace) -> int:
  """Trains; returns the exit status."""
  path, config = required_config(arguments.config_flags)
  from embedmask_jax import hosts
  from embedmask_jax.compilation_cache import enable_compilation_cache

  enable_compilation_cache(arguments.compilation_cache)
  if arguments.distributed:
    hosts.join()
  from embedmask_jax.preemption import PreemptedError
  from embedmask_jax.train import summary, train

  try:
    result = train(config, arguments.workdir, take_over=arguments.take_over)
  except PreemptedError as stop:
    print(f'{stop}; run the same command again to go on', file=sys.stderr)
    return INTERRUPTED if stop.is_by_hand else RETRY
  if hosts.is_first():
    print(f'{Path(path).stem}: {summary(result)}', flush=True)
  return SUCCESS
