"""Weights of others, and ours for others.

Reads the authors' checkpoints and ImageNet backbones, writes our parameters
in the authors' layout. Every tensor is accounted for, and a file that lacks what
the network needs is refused, where the original silently left such tensors at
their initial values. Where the files are to be had: docs/weights.md.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.weights.adelaidet import (
  export_adelaidet,
  import_adelaidet,
  is_adelaidet,
)
from embedmask_jax.weights.authors import export_authors, import_authors
from embedmask_jax.weights.backbones import import_backbone
from embedmask_jax.weights.class_layers import class_layers, with_class_layers
from embedmask_jax.weights.files import read_weights
from embedmask_jax.weights.report import WeightReport
from embedmask_jax.weights.settings import check_settings
from embedmask_jax.weights.tree import get_leaf, has_leaf, leaf_paths


def import_weights(
  path: str | Path,
  variables: Mapping[str, Any],
  model_settings: Mapping[str, Any],
  *,
  may_replace_classes: bool = False,
) -> tuple[dict[str, Any], WeightReport]:
  """Reads a weight file into a model, whichever kind of file it is.

  Args:
    path: checkpoint of the authors, MSRA `.pkl`, or torchvision state dict.
    variables: initial {'params', 'batch_stats'} of the model (arrays or shapes; for
      a backbone, the arrays that the rest of the network keeps).
    model_settings: the config's `model` fields by name.
    may_replace_classes: where the file is for another number of classes, take the
      class logits of `variables` instead of refusing it.

  Returns:
    The model's variables with the file's weights, and the account.

  Raises:
    UserError: the file does not fit the model, or the config's settings are not
      those that the weights were made for.
  """
  tensors = read_weights(path)
  try:
    is_authors = any('backbone.body.' in name for name in tensors)
    if is_authors or is_adelaidet(tensors):
      read = import_authors if is_authors else import_adelaidet
      imported, report = read(tensors)
      check_settings(report.settings, model_settings)
      if may_replace_classes:
        imported, report = _with_fitting_classes(imported, variables, report)
      _check_same_shapes(imported, variables)
    else:
      imported, report = import_backbone(
        tensors, variables, preset=model_settings['preset']
      )
      check_settings(report.settings, model_settings)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  return imported, report


def export_weights(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Writes our variables in the layout of the authors' code that they fit.

  Args:
    variables: {'params', 'batch_stats'} of a model with `norm='frozen_bn'`.

  Returns:
    float32 arrays by their names.

  Raises:
    UserError: the model has other leaves than theirs, or lacks some.
  """
  has_mask_branch = 'mask_branch' in variables['params']['head']
  return (export_adelaidet if has_mask_branch else export_authors)(variables)


def _with_fitting_classes(
  imported: dict[str, Any], variables: Mapping[str, Any], report: WeightReport
) -> tuple[dict[str, Any], WeightReport]:
  """Puts the class logits of `variables` in where the numbers of classes differ."""
  paths = class_layers(variables)
  found, own = (len(get_leaf(tree, paths[0])['bias']) for tree in (imported, variables))
  if found == own:
    return imported, report
  names = {f'{"/".join(p[1:])}/{leaf}' for p in paths for leaf in ('kernel', 'bias')}
  reason = f'for {found} classes instead of {own}'
  return with_class_layers(imported, variables), dataclasses.replace(
    report,
    mapped=tuple(pair for pair in report.mapped if pair[1] not in names),
    unused=(
      *report.unused,
      *((name, reason) for name, ours in report.mapped if ours in names),
    ),
    untouched=(*report.untouched, *sorted(names)),
  )


def _check_same_shapes(
  imported: Mapping[str, Any], variables: Mapping[str, Any]
) -> None:
  for path in leaf_paths(variables):
    name = '/'.join(path)
    if not has_leaf(imported, path):
      raise UserError(
        f'the model has {name}, which the file lacks: checkpoints of this kind are of '
        "models with norm='frozen_bn'"
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
