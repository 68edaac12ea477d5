"""Where the state of a run comes from.

The order: the newest checkpoint of its own work folder; else `init.checkpoint`; else
random parameters drawn from the seed. What was taken is logged.
"""

import numpy as np
import optax
from absl import logging
from etils import epath
from jax.sharding import Mesh

from embedmask_jax.checkpoint import (
  Metadata,
  StoredCheckpoint,
  restore_latest,
)
from embedmask_jax.config import differences
from embedmask_jax.devices import replicate
from embedmask_jax.errors import UserError, shorten
from embedmask_jax.import_weights import import_weights
from embedmask_jax.model_file import SUFFIX, open_model
from embedmask_jax.presets import share_weights
from embedmask_jax.shipped import shipped_models
from embedmask_jax.storage import is_remote, located
from embedmask_jax.train_state import TrainState, create_train_state
from embedmask_jax.weights.architecture import MSRA_SETTINGS
from embedmask_jax.weights.class_layers import class_layers, with_class_layers
from embedmask_jax.weights.settings import check_settings
from embedmask_jax.weights.tree import copy_tree, get_leaf, set_leaf


def initial_state(
  workdir: epath.Path,
  metadata: Metadata,
  variables: dict,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
) -> TrainState:
  """The state to train from, whole on every device of the mesh.

  Args:
    workdir: the run's folder.
    metadata: of this run.
    variables: {'params', 'batch_stats'} as drawn from the seed.
    optimizer: of this run.
    mesh: of this run.

  Raises:
    UserError: the work folder holds another run (other classes or another model);
      no checkpoint in it can be read; `init.checkpoint` cannot be used.
  """
  has_ema = metadata.config.train.ema_decay > 0
  template = replicate(mesh, create_train_state(variables, optimizer, has_ema=has_ema))
  restored = restore_latest(
    workdir, template, accept=lambda stored: _check_same_run(stored, metadata)
  )
  if restored is not None:
    logging.info('resumed from step %d of %s', int(restored.step), workdir)
    return restored
  path = metadata.config.init.checkpoint
  if path:
    variables = read_initial_variables(path, metadata, variables)
    return replicate(mesh, create_train_state(variables, optimizer, has_ema=has_ema))
  logging.info(
    'starting from scratch (seed %d): neither a checkpoint in %s nor init.checkpoint',
    metadata.config.seed,
    workdir,
  )
  if metadata.config.model.norm == 'frozen_bn':
    logging.warning(
      'frozen batch norm with random weights does not train: give init.checkpoint, '
      'or set model.norm=group and model.frozen_stages=0'
    )
  return template


def read_initial_variables(path: str, metadata: Metadata, variables: dict) -> dict:
  """The variables of `init.checkpoint` in the structure of `variables`.

  Class logits for another number of classes are left as they are, which is logged;
  anything else that does not fit is an error.

  Args:
    path: a checkpoint, work folder or model file of ours, the name of a model that
      comes along, or a weight file of others (`import_weights`).
    metadata: of this run.
    variables: {'params', 'batch_stats'} as drawn from the seed.

  Raises:
    UserError: it cannot be read, or does not fit.
  """
  if path in shipped_models() and not located(path).exists():
    path = str(shipped_models()[path])
  if located(path).is_file() and not path.endswith(SUFFIX):
    if is_remote(path):
      raise UserError(
        f'init.checkpoint={path}: weight files are read from a file system; copy it'
      )
    imported, report = import_weights(
      path, variables, metadata.config.model, may_replace_classes=True
    )
    logging.info('starting from %s: %s', path, report.summary())
    return imported
  stored = open_model(path)
  own_model, model = stored.metadata.config.model, metadata.config.model
  try:
    check_settings({name: own_model[name] for name in MSRA_SETTINGS}, model)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  read = _read_with_fitting_classes(stored, metadata, variables)
  logging.info('starting from the parameters of %s (step %d)', path, stored.step)
  if not share_weights(own_model.preset, model.preset):
    logging.warning(
      'init.checkpoint was trained with model.preset=%s and this run has %s: the '
      'parameters fit, but have to learn another meaning',
      own_model.preset,
      model.preset,
    )
  return read


def _read_with_fitting_classes(
  stored: StoredCheckpoint, metadata: Metadata, variables: dict
) -> dict:
  """The stored variables, or the class layers of `variables` where sizes differ."""
  old, new = stored.metadata.class_names, metadata.class_names
  if len(old) == len(new):
    if old != new:
      logging.warning(
        'init.checkpoint was trained for the classes %s; its class logits are taken '
        'over for %s in this order',
        ', '.join(old),
        ', '.join(new),
      )
    return stored.read('variables', variables)
  logging.warning(
    'init.checkpoint has %d classes and the data %d: the class logits are left at '
    'their initial values, all else is taken over',
    len(old),
    len(new),
  )
  shapes = stored.shapes('variables')
  template = copy_tree(variables)
  for layer in class_layers(variables):
    for name, leaf in get_leaf(variables, layer).items():
      stored_leaf = shapes.get('/'.join((*layer, name)), (leaf.shape,))
      set_leaf(template, (*layer, name), np.empty(*stored_leaf))
  return with_class_layers(stored.read('variables', template), variables)


def _check_same_run(stored: StoredCheckpoint, metadata: Metadata) -> None:
  """Logs what differs from the run in the work folder; refuses another model."""
  if stored.metadata.categories != metadata.categories:
    raise UserError(
      f'{stored.folder} was trained for {_summary(stored.metadata)}, the data have '
      f'{_summary(metadata)}: use another work folder, and init.checkpoint to start '
      'from these parameters'
    )
  changes = differences(stored.metadata.config, metadata.config)
  for field, change in changes.items():
    if field.startswith('model.'):
      raise UserError(
        f'{stored.folder} was trained with another {field} ({change}): set it back, '
        'or use another work folder'
      )
    logging.warning('resuming with another %s: %s', field, change)


def _summary(metadata: Metadata) -> str:
  names = [f'{name} ({key})' for key, name in metadata.categories]
  return f'{len(names)} classes: {shorten(names)}'
