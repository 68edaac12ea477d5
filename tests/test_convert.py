"""A weight file becomes a checkpoint that evaluates, and a checkpoint a weight file."""

import pickle

import jax
import numpy as np
import pytest

from configs import base
from embedmask_jax import convert
from embedmask_jax.checkpoint import Metadata, StoredCheckpoint, open_checkpoint
from embedmask_jax.convert import run_export, run_import
from embedmask_jax.errors import UserError
from embedmask_jax.models.factory import variable_shapes
from embedmask_jax.weights.authors import export_authors
from embedmask_jax.weights.coco_categories import COCO_CATEGORIES
from embedmask_jax.weights.files import read_weights


def small_config():
  config = base.get_config()
  config.model.backbone = 'resnet18'
  config.model.backbone_width = 8
  config.model.fpn_channels = config.model.head_channels = 32
  config.model.head_depth = 1
  return config


@pytest.fixture
def weights(tmp_path):
  """A file in the authors' layout of a small network with 80 classes."""
  rng = np.random.default_rng(3)
  variables = jax.tree.map(
    lambda leaf: rng.random(leaf.shape, np.float32),
    variable_shapes(small_config().model, 80),
  )
  path = tmp_path / 'theirs.pkl'
  path.write_bytes(pickle.dumps({'model': export_authors(variables)}))
  return path


@pytest.fixture
def exported(monkeypatch):
  """Path -> tensors of what export would have PyTorch write."""
  files = {}
  monkeypatch.setattr(convert, 'write_torch', files.__setitem__)
  return files


def test_there_and_back(tmp_path, weights, exported):
  run_import(weights, small_config(), tmp_path / 'run')
  stored = open_checkpoint(tmp_path / 'run')
  assert stored.step == 0
  assert stored.metadata.categories == COCO_CATEGORIES
  path = tmp_path / 'back' / 'ours.pth'
  run_export(stored, path)
  returned = exported[path]
  theirs = read_weights(weights)
  assert returned.keys() == theirs.keys()
  for name, array in theirs.items():
    np.testing.assert_array_equal(returned[name], array)


def test_a_folder_with_checkpoints_is_left_alone(tmp_path, weights):
  run_import(weights, small_config(), tmp_path / 'run')
  with pytest.raises(UserError, match='holds checkpoints; name another folder'):
    run_import(weights, small_config(), tmp_path / 'run')


def test_a_refused_file_leaves_no_checkpoint(tmp_path, weights):
  config = small_config()
  config.model.backbone = 'resnet34'
  with pytest.raises(UserError, match=r'--config\.model\.backbone=resnet18'):
    run_import(weights, config, tmp_path / 'run')
  with pytest.raises(UserError, match='holds no checkpoint'):
    open_checkpoint(tmp_path / 'run')


@pytest.mark.parametrize(
  ('field', 'value', 'told'),
  [
    ('stride_in_1x1', False, 'model.stride_in_1x1=False, and .* takes it for True'),
    ('pixel_mean', (103.53, 116.28, 123.675), r'pixel_mean=103\.53,116\.28,123\.675,'),
    (
      'pixel_std',
      (58.0, 57.0, 57.0),
      r'pixel_std=58\.0,57\.0,57\.0, .* 1\.0,1\.0,1\.0:',
    ),
    ('norm', 'group', 'model.norm=group, .* frozen_bn: write a model file'),
  ],
)
def test_what_the_authors_code_would_read_otherwise_is_not_exported(
  tmp_path, exported, field, value, told
):
  config = small_config()
  config.model[field] = value
  metadata = Metadata(config, *zip(*COCO_CATEGORIES, strict=True))
  stored = StoredCheckpoint(tmp_path / 'checkpoints' / '0', 0, metadata, {})
  with pytest.raises(UserError, match=told):
    run_export(stored, tmp_path / 'ours.pth')
  assert not exported


def test_coco_has_eighty_classes_in_order():
  ids = [category_id for category_id, _ in COCO_CATEGORIES]
  assert (len(ids), ids[0], ids[-1]) == (80, 1, 90)
  assert ids == sorted(set(ids))
