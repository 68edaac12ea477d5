"""A weight file becomes a checkpoint that evaluates, and a checkpoint a weight file."""

import pickle

import numpy as np
import pytest

from configs import base
from embedmask_jax import convert
from embedmask_jax.checkpoint import open_checkpoint
from embedmask_jax.convert import run_export, run_import
from embedmask_jax.errors import UserError
from embedmask_jax.models.factory import build_model, init_variables
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
  model = build_model(small_config().model, 80)
  variables = init_variables(model, 3)
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


def test_coco_has_eighty_classes_in_order():
  ids = [category_id for category_id, _ in COCO_CATEGORIES]
  assert (len(ids), ids[0], ids[-1]) == (80, 1, 90)
  assert ids == sorted(set(ids))
