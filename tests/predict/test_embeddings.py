"""Embeddings beside predictions: whose they are, and what is read from them."""

import numpy as np
import pytest
from planted_network import CELLS, REGIONS, PlantedNetwork

from configs import base
from embedmask_jax.checkpoint import Metadata, StoredCheckpoint
from embedmask_jax.predict import Predictor
from embedmask_jax.predict import predictor as predict_module
from embedmask_jax.predict.embedding_predictor import EmbeddingPredictor
from embedmask_jax.predict.embedding_view import principal_components
from embedmask_jax.presets import PRESETS

SIZE = (60, 90)


def image():
  return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def checkpoint(tmp_path, preset='2021'):
  config = base.get_config()
  config.model.preset = preset
  config.data.eval_short_side = 64
  config.data.long_side = 128
  config.eval.max_detections = 5
  config.eval.output_ladder = ((64, 96),)
  metadata = Metadata(config, (3, 8), ('box', 'bar'))
  return StoredCheckpoint(tmp_path / 'run' / 'checkpoints' / '5', 5, metadata, {})


def use_planted(monkeypatch, preset='2021'):
  network = PlantedNetwork(PRESETS[preset])
  monkeypatch.setattr(predict_module, 'load_model', lambda *_: (network, {}))


@pytest.mark.parametrize('preset', ['2021', '2020', 'adelaidet'])
def test_masks_are_where_the_map_exceeds_the_threshold(tmp_path, monkeypatch, preset):
  use_planted(monkeypatch, preset)
  stored = checkpoint(tmp_path, preset)
  predictor = EmbeddingPredictor(stored, stored.metadata.config, score_threshold=0.05)
  prediction, view = predictor.explain(image())
  assert prediction.class_names == ('box', 'bar')
  assert len(view.proposal) == len(view.margin) == 2
  for index, mask in enumerate(prediction.masks):
    log_p = view.log_probability(index, SIZE)
    assert log_p.shape == SIZE
    assert log_p.max() <= 0
    assert log_p.min() >= -10
    is_near = log_p > np.log(view.mask_threshold)
    assert 100 < mask.sum() < 2000
    x1, y1, x2, y2 = np.rint(prediction.boxes[index]).astype(int)
    box = np.s_[y1 : y2 + 1, x1 : x2 + 1]
    assert (is_near[box] != mask[box]).sum() <= 1
    if preset == 'adelaidet':
      assert (is_near != mask).sum() <= 1
  assert prediction.masks[0].sum() != prediction.masks[1].sum()


def test_it_finds_what_the_predictor_finds(tmp_path, monkeypatch):
  use_planted(monkeypatch)
  stored = checkpoint(tmp_path)
  options = {'score_threshold': 0.5}
  found, view = EmbeddingPredictor(stored, stored.metadata.config, **options).explain(
    image()
  )
  [expected] = Predictor(stored, stored.metadata.config, **options)(image())
  np.testing.assert_array_equal(found.boxes, expected.boxes)
  np.testing.assert_array_equal(found.masks, expected.masks)
  assert len(found) == len(view.proposal) == 1
  # The embedding is that of the cell which proposed it.
  np.testing.assert_allclose(view.proposal[0], [0, 0, 2.5, 0, 0, 1.5])
  row, column = CELLS[0]
  assert np.abs(view.pixel[row, column] - view.proposal[0]).max() < 1


def test_colours_tell_regions_apart(tmp_path, monkeypatch):
  use_planted(monkeypatch)
  stored = checkpoint(tmp_path)
  _, view = EmbeddingPredictor(stored, stored.metadata.config).explain(image())
  colours = view.colours((640, 960)).astype(float)
  assert colours.shape == (640, 960, 3)
  scale = 640 / view.image_size[0] * 8

  def middle(region):
    rows, columns = (
      slice(int((part.start + 1) * scale), int((part.stop - 1) * scale))
      for part in region
    )
    return np.median(colours[rows, columns].reshape(-1, 3), axis=0)

  first, second = map(middle, REGIONS)
  ground = np.median(colours[:40].reshape(-1, 3), axis=0)
  assert np.abs(first - second).max() > 60
  assert np.abs(first - ground).max() > 60
  assert np.abs(second - ground).max() > 60


def test_principal_components_are_those_of_the_inside():
  rng = np.random.default_rng(1)
  hidden = rng.normal(size=(20, 30, 3)) * (5, 2, 1)
  turn = np.linalg.qr(rng.normal(size=(7, 7)))[0][:3]
  features = (hidden @ turn + 4).astype(np.float32)
  features[16:] = 1e3
  found = principal_components(features, (16, 30))
  assert found.shape == (20, 30, 3)
  for k in range(3):
    agreement = np.corrcoef(found[:16, :, k].ravel(), hidden[:16, :, k].ravel())[0, 1]
    assert abs(agreement) > 0.98
  inside = found[:16].reshape(-1, 3)
  assert (np.abs(np.percentile(inside, (1, 99), axis=0).T - (0, 1)) < 1e-4).all()


@pytest.mark.parametrize('dims', [1, 2, 4])
def test_components_that_there_are_not_are_grey(dims):
  features = np.zeros((4, 5, dims), np.float32)
  features[2:, :, 0] = 1
  found = principal_components(features, (4, 5))
  assert set(np.unique(found[..., 0])) == {0, 1}
  assert (found[..., 1:] == 0.5).all()
