"""What a checkpoint is, and what this installation is, as plain facts."""

import importlib.metadata
import json
import math
import os
import sys
from typing import Any

import jax

from embedmask_jax import __version__
from embedmask_jax.checkpoint import StoredCheckpoint
from embedmask_jax.config import to_json
from embedmask_jax.model_file import open_model
from embedmask_jax.presets import PRESETS

_LIBRARIES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
_MAIN_METRICS = ('segm/AP', 'segm/AP50', 'segm/AP75', 'bbox/AP')


def describe_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
  """Facts about a checkpoint, in JSON types; reads no arrays.

  Args:
    path: a work folder, whose newest checkpoint is taken, WORKDIR/checkpoints/STEP, or
      a model file.

  Raises:
    UserError: there is no checkpoint that can be opened.
  """
  stored = open_model(path)
  config = stored.metadata.config
  shapes = stored.shapes('variables')
  parameters = [
    math.prod(shape)
    for name, (shape, _) in shapes.items()
    if name.startswith('params/')
  ]
  return {
    'checkpoint': os.fspath(stored.folder),
    'step': stored.step,
    'preset': config.model.preset,
    'backbone': config.model.backbone,
    'norm': config.model.norm,
    'model': to_json(config.model),
    'classes': list(stored.metadata.class_names),
    'parameters': sum(parameters),
    'averaged': config.train.ema_decay > 0,
    'input_size': {
      'short_side': config.data.eval_short_side,
      'long_side': config.data.long_side,
    },
    'metrics': _stored_metrics(stored),
    'versions': library_versions(),
  }


def describe_installation() -> dict[str, Any]:
  """Versions, devices and presets, in JSON types."""
  return {
    'versions': library_versions(),
    'devices': [
      f'{device.platform} {device.id} ({device.device_kind})'
      for device in jax.devices()
    ],
    'presets': list(PRESETS),
  }


def library_versions() -> dict[str, str]:
  """Our version, Python's, and those of the libraries that results depend on."""
  libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
  python = '.'.join(map(str, sys.version_info[:3]))
  return {'embedmask': __version__, 'python': python, **libraries}


def _stored_metrics(stored: StoredCheckpoint) -> dict[str, float | None]:
  """The main ones of the evaluation of this step, if there was one."""
  if stored.folder.is_file():
    return {}
  for path in (
    stored.folder.parents[1] / 'eval' / str(stored.step) / 'metrics.json',
    # The one metric that decides which checkpoints are kept.
    stored.folder / 'metrics' / 'metrics',
  ):
    try:
      content = json.loads(path.read_text())
    except (OSError, ValueError):
      continue
    return {key: content[key] for key in _MAIN_METRICS if key in content}
  return {}
