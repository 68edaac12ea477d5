"""The network of a checkpoint, its variables, and how its output is read."""

import dataclasses

from jax.sharding import Mesh
from ml_collections import ConfigDict

from embedmask_jax.checkpoint import StoredCheckpoint
from embedmask_jax.devices import replicate
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.models.factory import build_model, variable_shapes
from embedmask_jax.postprocess import DetectionSettings


def load_model(
  stored: StoredCheckpoint, config: ConfigDict, mesh: Mesh
) -> tuple[EmbedMask, dict]:
  """The network of a checkpoint and its variables, whole on every device.

  Raises:
    UserError: the checkpoint cannot be read, or is not of `config.model`.
  """
  model = build_model(config.model, len(stored.metadata.class_names))
  return model, replicate(mesh, read_variables(stored, config))


def read_variables(stored: StoredCheckpoint, config: ConfigDict) -> dict:
  """{'params', 'batch_stats'} of a checkpoint, NumPy arrays.

  Raises:
    UserError: see `load_model`.
  """
  template = variable_shapes(config.model, len(stored.metadata.class_names))
  return stored.read('variables', template)


def detection_settings(evaluation: ConfigDict) -> DetectionSettings:
  """The `eval` fields of a config that say how detections are read off."""
  fields = dataclasses.fields(DetectionSettings)
  return DetectionSettings(**{field.name: evaluation[field.name] for field in fields})
