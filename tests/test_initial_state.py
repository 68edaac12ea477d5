"""Parameters of a run that begins from a checkpoint of another."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from synthetic import tiny_model, tiny_variables

from configs import base
from embedmask_jax.checkpoint import Metadata
from embedmask_jax.checkpoint_writer import CheckpointWriter
from embedmask_jax.errors import UserError
from embedmask_jax.initial_state import read_initial_variables
from embedmask_jax.models.factory import init_variables
from embedmask_jax.presets import PRESETS
from embedmask_jax.train_state import create_train_state

VARIABLES = {'params': {'weight': np.ones(2, np.float32)}, 'batch_stats': {}}


@pytest.fixture
def stored(tmp_path):
  """A checkpoint of preset 2021, and what it says of itself."""
  metadata = Metadata(base.get_config(), (1,), ('a',))
  with CheckpointWriter(
    tmp_path, metadata, keep_last=1, keep_best=0, best_metric='segm/AP'
  ) as writer:
    writer.save(create_train_state(VARIABLES, optax.sgd(0.1)))
  return str(tmp_path), metadata


def of_another(metadata, **fields):
  """Metadata of a run with other `model` fields."""
  config = metadata.config.copy_and_resolve_references()
  config.model.update(fields)
  return dataclasses.replace(metadata, config=config)


@pytest.mark.parametrize(
  ('field', 'value', 'flag'),
  [
    ('stride_in_1x1', False, 'stride_in_1x1=True'),
    ('pixel_mean', (1.0, 2.0, 3.0), 'pixel_mean=102.9801,115.9465,122.7717'),
    ('pixel_std', (58.0, 57.0, 57.0), 'pixel_std=1.0,1.0,1.0'),
  ],
)
def test_settings_that_would_spoil_the_parameters_are_refused(
  stored, field, value, flag
):
  path, metadata = stored
  other = of_another(metadata, **{field: value})
  with pytest.raises(UserError, match=rf'{path}: .* pass --config\.model\.{flag}$'):
    read_initial_variables(path, other, VARIABLES)


def test_parameters_of_another_preset_that_fit_are_told(stored, caplog):
  path, metadata = stored
  read_initial_variables(path, metadata, VARIABLES)
  assert 'preset' not in caplog.text
  read_initial_variables(path, of_another(metadata, preset='2020'), VARIABLES)
  assert 'with model.preset=2021 and this run has 2020' in caplog.text


def test_a_preset_that_differs_in_training_alone_is_not_told(tmp_path, caplog):
  config = base.get_config()
  config.model.preset = '2019'
  metadata = Metadata(config, (1,), ('a',))
  with CheckpointWriter(
    tmp_path, metadata, keep_last=1, keep_best=0, best_metric='segm/AP'
  ) as writer:
    writer.save(create_train_state(VARIABLES, optax.sgd(0.1)))
  other = of_another(metadata, preset='2019_released')
  read_initial_variables(str(tmp_path), other, VARIABLES)
  assert 'another meaning' not in caplog.text


def test_only_the_layers_with_an_output_per_class_stay_initial(tmp_path):
  three = Metadata(base.get_config(), (1, 2, 3), ('a', 'b', 'c'))
  trained = jax.tree.map(lambda x: x + 1, tiny_variables(preset='adelaidet'))
  with CheckpointWriter(
    tmp_path, three, keep_last=1, keep_best=0, best_metric='segm/AP'
  ) as writer:
    writer.save(create_train_state(trained, optax.sgd(0.1)))

  two = dataclasses.replace(three, category_ids=(1, 2), class_names=('a', 'b'))
  model = tiny_model(num_classes=2, preset=PRESETS['adelaidet'])
  initial = init_variables(model, 1)
  read = read_initial_variables(str(tmp_path), two, initial)
  classes = {
    f'params/head/{layer}/{leaf}'
    for layer in ('class_logits', 'semantic_head/logits')
    for leaf in ('kernel', 'bias')
  }
  leaves = [jax.tree.leaves(tree) for tree in (initial, trained)]
  for (path, leaf), own, stored in zip(
    jax.tree.leaves_with_path(read), *leaves, strict=True
  ):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    is_per_class = name in classes
    np.testing.assert_array_equal(leaf, own if is_per_class else stored, name)
    classes.discard(name)
  assert not classes
