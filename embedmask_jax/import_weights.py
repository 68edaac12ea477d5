"""Weights of others, and ours for others.

Reads the authors' 2021 checkpoints and ImageNet backbones, writes our parameters
in the authors' layout. Every tensor is accounted for, and a file that lacks what
the network needs is refused, where the original silently left such tensors at
their initial values.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from embedmask_jax.errors import UserError
from embedmask_jax.weights.authors import export_authors, import_authors
from embedmask_jax.weights.backbones import import_backbone
from embedmask_jax.weights.files import read_weights, write_torch
from embedmask_jax.weights.report import WeightReport
from embedmask_jax.weights.tree import get_leaf, has_leaf, leaf_paths

__all__ = [
  'WeightReport',
  'export_authors',
  'import_authors',
  'import_backbone',
  'import_weights',
  'read_weights',
  'run_export',
  'run_import',
]


def import_weights(
  path: str | Path,
  variables: Mapping[str, Any],
  model_settings: Mapping[str, Any],
) -> tuple[dict[str, Any], WeightReport]:
  """Reads a weight file into a model, whichever kind of file it is.

  Args:
    path: checkpoint of the authors, MSRA `.pkl`, or torchvision state dict.
    variables: initial {'params', 'batch_stats'} of the model (arrays or shapes; for
      a backbone, the arrays that the rest of the network keeps).
    model_settings: the config's `model` fields by name.

  Returns:
    The model's variables with the file's weights, and the account.

  Raises:
    UserError: the file does not fit the model, or the config's settings are not
      those that the weights were made for.
  """
  tensors = read_weights(path)
  try:
    if any('backbone.body.' in name for name in tensors):
      imported, report = import_authors(tensors)
      _check_settings(report.settings, model_settings)
      _check_same_shapes(imported, variables)
    else:
      imported, report = import_backbone(tensors, variables)
      _check_settings(report.settings, model_settings)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  return imported, report


def run_import(
  path: str | Path,
  output: str | Path,
  *,
  variables: Mapping[str, Any],
  model_settings: Mapping[str, Any],
  save: Callable[[str | Path, dict[str, Any]], None],
) -> WeightReport:
  """The command: weight file to checkpoint of ours, with the account on the log.

  Args:
    path: see `import_weights`.
    output: where the checkpoint goes.
    variables: see `import_weights`.
    model_settings: see `import_weights`.
    save: writes variables as a checkpoint of ours to `output`.

  Raises:
    UserError: see `import_weights`.
  """
  imported, report = import_weights(path, variables, model_settings)
  for line in report.table().splitlines():
    logging.info('%s', line)
  save(output, imported)
  logging.info('%s -> %s: %s', path, output, report.summary().splitlines()[0])
  return report


def run_export(variables: Mapping[str, Any], path: str | Path) -> None:
  """Writes our variables as a checkpoint that the authors' code loads.

  Args:
    variables: {'params', 'batch_stats'} of a 2021 model with frozen batch norm.
    path: `.pth` file to write.

  Raises:
    UserError: the model has no place in their layout, or PyTorch is absent.
  """
  state_dict = export_authors(variables)
  write_torch(path, state_dict)
  logging.info("%s: %d tensors in the authors' layout", path, len(state_dict))


def _check_same_shapes(
  imported: Mapping[str, Any], variables: Mapping[str, Any]
) -> None:
  for path in leaf_paths(variables):
    name = '/'.join(path)
    if not has_leaf(imported, path):
      raise UserError(
        f'the model has {name}, which no checkpoint of this kind has: it is of '
        "preset '2021' with norm='frozen_bn'"
      )
    found = np.shape(get_leaf(imported, path))
    expected = np.shape(get_leaf(variables, path))
    if found != expected:
      raise UserError(f'{name} is {found} in the file and {expected} in the model')
  for path in leaf_paths(imported):
    if not has_leaf(variables, path):
      raise UserError(
        f'the file has {"/".join(path)}, which the model lacks: set model.backbone '
        'and model.preset to match'
      )


def _check_settings(needed: Mapping[str, Any], configured: Mapping[str, Any]) -> None:
  for name, value in needed.items():
    if not _same(configured[name], value):
      raise UserError(
        f'these weights need model.{name}={value}, the config has '
        f'{configured[name]}: pass --config.model.{name}={value}'
      )


def _same(found: Any, needed: Any) -> bool:
  if isinstance(needed, tuple):
    return len(found) == len(needed) and bool(np.allclose(found, needed))
  return found == needed
