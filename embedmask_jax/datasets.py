"""The data sets that a config names, and its fields as the data code takes them."""

from collections.abc import Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.scenes import generate_scenes
from embedmask_jax.data.source import open_source
from embedmask_jax.errors import UserError
from embedmask_jax.presets import PRESETS, Preset


def open_train_source(data: ConfigDict, preset: Preset) -> ImageSource:
  """Opens what `config.data` trains on; its categories become the classes.

  Args:
    data: the config's part.
    preset: for the meaning of boxes.

  Raises:
    UserError: no data are named, or they cannot be used.
  """
  if data.generated.enabled:
    scenes = data.generated
    return _open_scenes(data, scenes.train_images, 2 * scenes.seed, preset)
  if not data.train.annotations:
    raise UserError(
      'nothing to train on: set config.data.train.annotations and '
      'config.data.train.images, or config.data.generated.enabled'
    )
  return _open(data, data.train, preset)


def open_eval_source(
  data: ConfigDict, categories: Sequence[tuple[int, str]], preset: Preset
) -> ImageSource | None:
  """Opens what `config.data` evaluates on, or returns None where nothing is named.

  Args:
    data: the config's part.
    categories: (id, name) of the model's classes.
    preset: for the meaning of boxes.

  Raises:
    UserError: the data cannot be used, or have categories that are not the model's.
  """
  # A data set named by hand goes before the scenes, on which a model was trained.
  if data.eval.annotations:
    return _open(data, data.eval, preset, categories)
  if data.generated.enabled:
    scenes = data.generated
    seed = 2 * scenes.seed + 1
    return _open_scenes(data, scenes.eval_images, seed, preset, categories)
  return None


def log_training_data(source: ImageSource) -> None:
  """Logs what of a data set is trained on, and what is left out."""
  logging.info('training data: %d classes, %s', len(source.categories), source.report)


def log_evaluation_data(source: ImageSource) -> None:
  """Logs what of a data set is scored, and what is left out."""
  logging.info(
    'evaluation data: %d classes, %s',
    len(source.categories),
    source.report.of_evaluation(),
  )


def train_settings(config: ConfigDict) -> dict[str, Any]:
  """The arguments of `train_batches` but for the source and the first step."""
  data = config.data
  return {
    **plan_settings(config),
    'workers': data.workers,
    'prefetch': data.prefetch,
    'max_worker_deaths': data.max_worker_deaths,
  }


def plan_settings(config: ConfigDict) -> dict[str, Any]:
  """The arguments of `train_plan` but for the source."""
  data = config.data
  return {
    'seed': config.seed,
    'batch_size': config.train.batch_size,
    'short_sides': data.short_sides,
    'long_side': data.long_side,
    'flip_probability': data.flip_probability,
    'instance_ladder': data.instance_ladder,
    'crop_size': data.crop_size,
    'scale_jitter': data.scale_jitter,
    'copy_paste_probability': data.copy_paste_probability,
    'canvases': data.canvases,
    'preset': PRESETS[config.model.preset],
  }


def view_settings(config: ConfigDict) -> dict[str, Any]:
  """The arguments of `EvalPlan` but for the sizes and the batch size."""
  return {
    'short_side': config.data.eval_short_side,
    'long_side': config.data.long_side,
    'canvases': config.data.canvases,
    'output_ladder': config.eval.output_ladder,
    'preset': PRESETS[config.model.preset],
  }


def _open(
  data: ConfigDict,
  part: ConfigDict,
  preset: Preset,
  categories: Sequence[tuple[int, str]] | None = None,
) -> ImageSource:
  return open_source(
    part.annotations,
    part.images,
    categories,
    min_box_side=data.min_box_side,
    preset=preset,
  )


def _open_scenes(
  data: ConfigDict,
  num_images: int,
  seed: int,
  preset: Preset,
  categories: Sequence[tuple[int, str]] | None = None,
) -> ImageSource:
  annotations, images = generate_scenes(
    num_images=num_images, image_size=data.generated.image_size, seed=seed
  )
  return open_source(
    annotations, images, categories, min_box_side=data.min_box_side, preset=preset
  )
