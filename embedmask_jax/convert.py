"""The commands `import` and `export`: between files of others and our checkpoints."""

from pathlib import Path

import optax
from absl import logging
from ml_collections import ConfigDict

from embedmask_jax.checkpoint import Metadata, StoredCheckpoint, list_steps
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.datasets import open_train_source
from embedmask_jax.errors import UserError
from embedmask_jax.folders import local_file, writable_folder
from embedmask_jax.import_weights import export_weights, import_weights
from embedmask_jax.models.factory import build_model, init_variables
from embedmask_jax.presets import PRESETS
from embedmask_jax.stored_model import read_variables
from embedmask_jax.train_state import create_train_state
from embedmask_jax.weights.architecture import msra_settings
from embedmask_jax.weights.coco_categories import COCO_CATEGORIES
from embedmask_jax.weights.files import write_torch
from embedmask_jax.weights.report import WeightReport
from embedmask_jax.weights.settings import as_flag, other_settings


def run_import(
  weights: str | Path, config: ConfigDict, output: str | Path
) -> WeightReport:
  """Writes a weight file of others as a checkpoint of ours, with the account.

  Args:
    weights: see `import_weights`.
    config: of the model that the weights are for, validated; goes into the
      checkpoint. The classes are those of its training data, COCO's where none are
      named.
    output: work folder, in which the checkpoint gets step 0.

  Raises:
    UserError: see `import_weights`; or `output` holds checkpoints.
  """
  folder = writable_folder(output, '--output')
  if list_steps(folder / 'checkpoints'):
    raise UserError(f'--output={output} holds checkpoints; name another folder')
  preset = PRESETS[config.model.preset]
  has_data = config.data.train.annotations or config.data.generated.enabled
  categories = (
    open_train_source(config.data, preset).categories if has_data else COCO_CATEGORIES
  )
  ids, names = zip(*categories, strict=True)
  model = build_model(config.model, len(categories))
  variables, report = import_weights(
    weights, init_variables(model, config.seed), config.model
  )
  for line in report.table().splitlines():
    logging.info('%s', line)
  metadata = Metadata(config, ids, names)
  with CheckpointWriter(folder, metadata, **config.checkpoint) as checkpoints:
    # Imported weights are no run to go on with: there is no state of an optimiser.
    checkpoints.save(create_train_state(variables, optax.identity()))
  logging.info('%s -> %s: %s', weights, output, report.summary().splitlines()[0])
  return report


def run_export(stored: StoredCheckpoint, output: str | Path) -> None:
  """Writes a checkpoint of ours as a `.pth` that the authors' code loads.

  Args:
    stored: of a model with frozen batch norm.
    output: `.pth` file to write.

  Raises:
    UserError: the model has no place in their layout, or settings that their code
      does not take from it; PyTorch is absent, or the file cannot be written.
  """
  model = stored.metadata.config.model
  for name, value in other_settings(msra_settings(model.preset), model).items():
    raise UserError(
      f'{stored.folder} has model.{name}={as_flag(model[name])}, and the code of the '
      f'authors takes it for {as_flag(value)}: write a model file (--output=NAME.npz) '
      'or a program (--format=stablehlo) instead'
    )
  output = local_file(output, '--output')
  state_dict = export_weights(read_variables(stored, stored.metadata.config))
  write_torch(output, state_dict)
  logging.info(
    "%s -> %s: %d tensors in the authors' layout",
    stored.folder,
    output,
    len(state_dict),
  )
