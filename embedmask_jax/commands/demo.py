"""Serves a page for trying a model out: drop an image, click what was found.

It shows masks, boxes and scores, the distance of every pixel to an instance in the
space of the embedding, and the pixel embedding as colours. Nothing leaves this machine:
see docs/demo.md. Needs gradio: pip install 'embedmask-jax[demo]'.
"""

import argparse
import importlib.util

from embedmask_jax.commands.shared_arguments import (
  add_checkpoint,
  add_compilation_cache,
  add_model,
  open_stored,
)
from embedmask_jax.config_reading import stored_or_given_config
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import SUCCESS

SUMMARY = 'try a model out in the browser'
EXAMPLE = """\
  embedmask demo --model=nuclei
  embedmask demo --checkpoint=runs/mine --port=8000
"""
TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the command's arguments."""
  add_checkpoint(parser)
  add_model(parser)
  parser.add_argument('--port', type=int, default=7860, help='default 7860')
  parser.add_argument(
    '--host',
    default='127.0.0.1',
    help='address to listen on; by default this machine only. 0.0.0.0: everyone who '
    'reaches it, without a password',
  )
  add_compilation_cache(parser)


def run(arguments: argparse.Namespace) -> int:
  """Serves until it is interrupted; returns the exit status."""
  if not 1 <= arguments.port <= 65535:
    raise UserError(f'--port={arguments.port} is not a number 1 to 65535')
  if importlib.util.find_spec('gradio') is None:
    raise UserError("the demo needs gradio: pip install 'embedmask-jax[demo]'")
  model = arguments.model or ('' if arguments.checkpoint else 'nuclei')
  stored = open_stored(arguments.checkpoint, model)
  from embedmask_jax.compilation_cache import enable_compilation_cache
  from embedmask_jax.demo.exploration import LOWEST_SCORE
  from embedmask_jax.demo.server import check_free, serve
  from embedmask_jax.predict.embedding_predictor import EmbeddingPredictor

  check_free(arguments.host, arguments.port)
  config = stored_or_given_config(stored.metadata.config, arguments.config_flags)
  enable_compilation_cache(arguments.compilation_cache)
  predictor = EmbeddingPredictor(stored, config, score_threshold=LOWEST_SCORE)
  name = model or arguments.checkpoint
  serve(predictor.explain, name, host=arguments.host, port=arguments.port)
  return SUCCESS
