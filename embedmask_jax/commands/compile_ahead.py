"""Compiles all programs of a run into the cache, and says the memory of each.

A run of the same config on the same devices with the same library versions then starts
at once, on a preemptible machine after every restart.
"""

import argparse

from embedmask_jax.commands.shared_arguments import (
  add_compilation_cache,
  add_distributed,
)
from embedmask_jax.config_reading import required_config
from embedmask_jax.exit_status import SUCCESS

SUMMARY = 'compile all programs of a run ahead'
EXAMPLE = """\
  embedmask compile --config=configs/custom.py \\
    --config.data.train.annotations=train.json --config.data.train.images=images
"""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  add_distributed(parser)
  add_compilation_cache(parser)


def run(arguments: argparse.Namespace) -> int:
  """Compiles; returns the exit status."""
  _, config = required_config(arguments.config_flags)
  from embedmask_jax import hosts
  from embedmask_jax.compilation_cache import enable_compilation_cache

  enable_compilation_cache(arguments.compilation_cache)
  if arguments.distributed:
    hosts.join()
  from embedmask_jax.compile_ahead import compile_ahead

  compile_ahead(config)
  return SUCCESS
