"""Evaluation around the network: every image once, and the truth scores 1."""

import dataclasses
import io
import json
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from peak_memory import peak_memory
from PIL import Image
from pycocotools import mask as rle

from configs import base
from embedmask_jax import evaluate as evaluate_module
from embedmask_jax.checkpoint import Metadata, StoredCheckpoint
from embedmask_jax.datasets import open_eval_source
from embedmask_jax.devices import data_mesh
from embedmask_jax.errors import UserError
from embedmask_jax.evaluate import Evaluator, evaluate_checkpoint
from embedmask_jax.evaluation_folder import evaluation_record
from embedmask_jax.presets import PRESETS
from embedmask_jax.structures import Detections

SIZES = [(64, 96), (96, 64), (64, 96), (50, 50), (200, 70), (64, 96), (31, 97)]
CATEGORIES = ((3, 'box'), (8, 'bar'))


@pytest.fixture
def config(tmp_path):
  """A config over images of many sizes, each with two rectangles."""
  images, annotations = [], []
  for i, (height, width) in enumerate(SIZES):
    name = f'{i}.png'
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(tmp_path / name)
    images.append({'id': 10 * i, 'file_name': name, 'height': height, 'width': width})
    for k, (category, _) in enumerate(CATEGORIES):
      x, y, w, h = 5 + 20 * k, 4 + i, 12 + i, 20
      annotations.append(
        {
          'id': len(annotations) + 1,
          'image_id': 10 * i,
          'category_id': category,
          'bbox': [x, y, w, h],
          'area': w * h,
          'iscrowd': 0,
          'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
      )
  content = {
    'images': images,
    'annotations': annotations,
    'categories': [{'id': key, 'name': name} for key, name in CATEGORIES],
  }
  path = tmp_path / 'truth.json'
  path.write_text(json.dumps(content))
  config = base.get_config()
  config.data.eval.annotations = str(path)
  config.data.eval.images = str(tmp_path)
  config.data.eval_short_side = 64
  config.data.long_side = 128
  config.eval.output_ladder = ((64, 96), (256, 256))
  config.eval.num_overlays = 3
  config.eval.max_detections = 4
  return config


@pytest.fixture
def oracle(monkeypatch, config):
  """Puts in the network's place one that knows the annotations."""
  with open(config.data.eval.annotations) as file:
    truth = json.load(file)
  canvases = []

  def make_inference(model, settings, mesh):
    count = settings.max_detections

    def inference(variables, batch, canvas):
      canvases.append(canvas)
      rows = len(batch.image_index)
      boxes = np.zeros((rows, count, 4), np.float32)
      labels = np.zeros((rows, count), np.int32)
      valid = np.zeros((rows, count), bool)
      masks = np.zeros((rows, count, canvas[0], canvas[1]), bool)
      for row, index in enumerate(np.asarray(batch.image_index)):
        if index < 0:
          # Rows that fill the batch find things too; they must not count.
          valid[row] = True
          continue
        height, width = SIZES[index]
        own = [a for a in truth['annotations'] if a['image_id'] == 10 * index]
        for k, annotation in enumerate(own):
          x, y, w, h = annotation['bbox']
          boxes[row, k] = x, y, x + w - 1, y + h - 1
          labels[row, k] = [3, 8].index(annotation['category_id'])
          valid[row, k] = True
          polygon = rle.frPyObjects(annotation['segmentation'], height, width)
          masks[row, k, :height, :width] = rle.decode(rle.merge(polygon))
      return Detections(
        boxes=boxes,
        network_boxes=boxes,
        scores=np.where(valid, 0.9, 0).astype(np.float32),
        labels=labels,
        valid=valid,
        location=labels,
        masks=np.packbits(masks, axis=-1),
        num_candidates=valid.sum(axis=1),
        num_kept=np.full(rows, 2) + 3 * (np.asarray(batch.image_index) == 4),
      )

    return inference

  monkeypatch.setattr(evaluate_module, 'make_inference', make_inference)
  return canvases


@pytest.mark.parametrize('batch_size', [1, 2, 3, 16])
def test_the_truth_scores_1_and_every_image_counts_once(
  config, oracle, tmp_path, capsys, caplog, batch_size
):
  config.eval.batch_size = batch_size
  source = open_eval_source(config.data, CATEGORIES, PRESETS['2021'])
  evaluator = Evaluator(None, source, config, data_mesh())
  metrics = evaluator({}, tmp_path / 'eval', step=7)
  for name in ('segm/AP', 'bbox/AP', 'segm/AP/bar', 'segm/AR100'):
    assert metrics[name] == pytest.approx(1), name
  assert metrics['count/images'] == len(SIZES)
  results = json.loads((tmp_path / 'eval' / 'predictions.json').read_text())
  assert Counter(entry['image_id'] for entry in results) == {
    10 * i: 2 for i in range(len(SIZES))
  }
  for entry in results:
    height, width = SIZES[entry['image_id'] // 10]
    assert entry['segmentation']['size'] == [height, width]
  written = json.loads((tmp_path / 'eval' / 'metrics.json').read_text())
  assert written == metrics
  assert 'AP75' in capsys.readouterr().out
  names = [path.name for path in sorted((tmp_path / 'eval' / 'overlays').iterdir())]
  assert names == ['000000.png', '000003.png', '000006.png']
  # The cap is 4 and one image had 5 before it.
  assert metrics['count/images_at_cap'] == 1
  assert 'up to 5 detections in 1 of 7 images' in caplog.text


def test_small_originals_get_the_small_output_canvas(config, oracle, tmp_path):
  source = open_eval_source(config.data, CATEGORIES, PRESETS['2021'])
  mesh = data_mesh(num_devices=1)
  Evaluator(None, source, config, mesh)({}, tmp_path / 'eval', step=7)
  assert Counter(oracle) == {(64, 96): 4, (256, 256): 3}


def test_classes_that_the_data_lack_may_be_predicted(config, oracle, tmp_path):
  categories = ((1, 'unseen'), *CATEGORIES)
  source = open_eval_source(config.data, categories, PRESETS['2021'])
  metrics = Evaluator(None, source, config, data_mesh())({}, tmp_path / 'e', step=7)
  # The oracle now names its classes one too low: 'unseen' is found, 'bar' never.
  assert metrics['segm/AP/unseen'] is None
  assert metrics['segm/AP/bar'] == 0


def stored_checkpoint(config, categories, tmp_path):
  ids, names = zip(*categories, strict=True)
  metadata = Metadata(config, ids, names)
  return StoredCheckpoint(tmp_path / 'run' / 'checkpoints' / '5', 5, metadata, {})


def test_a_checkpoint_is_evaluated_into_its_own_work_folder(
  config, oracle, tmp_path, monkeypatch
):
  monkeypatch.setattr(evaluate_module, 'load_model', lambda *_: (None, {}))
  stored = stored_checkpoint(config, CATEGORIES, tmp_path)
  metrics = evaluate_checkpoint(stored, config)
  assert metrics['segm/AP'] == pytest.approx(1)
  assert (tmp_path / 'run' / 'eval' / '5' / 'metrics.json').exists()
  report = (tmp_path / 'run' / 'eval' / '5' / 'report.html').read_text()
  assert 'run, step 5' in report
  assert 'Every image is perfect.' in report
  evaluate_checkpoint(stored, config, workdir=str(tmp_path / 'elsewhere'))
  assert (tmp_path / 'elsewhere' / 'eval' / '5' / 'metrics.json').exists()


def test_other_data_leave_the_runs_own_evaluation_alone(
  config, oracle, tmp_path, monkeypatch
):
  monkeypatch.setattr(evaluate_module, 'load_model', lambda *_: (None, {}))
  stored = stored_checkpoint(config, CATEGORIES, tmp_path)
  other = config.copy_and_resolve_references()
  shutil.copy(tmp_path / 'truth.json', tmp_path / 'x.json')
  other.data.eval.annotations = str(tmp_path / 'x.json')
  root = tmp_path / 'run' / 'eval'
  # The work folder may be named as well.
  for workdir in ('', str(tmp_path / 'run')):
    evaluate_checkpoint(stored, other, workdir=workdir)
    assert [path.name for path in root.iterdir()] == ['5-x']
  assert json.loads((root / '5-x' / 'data.json').read_text()) == {
    'checkpoint': str(stored.folder),
    'annotations': str(tmp_path / 'x.json'),
    'images': [str(tmp_path)],
    'settings': {
      'model.dtype': 'float32',
      'data.eval_short_side': 64,
      'data.long_side': 128,
      'eval.score_threshold': 0.05,
      'eval.pre_nms_top_k': 1000,
      'eval.nms_threshold': 0.6,
      'eval.max_detections': 4,
      'eval.max_dets': [1, 10, 100],
      'eval.mask_threshold': 0.53,
    },
  }
  # Others may have the same name, or other images.
  (tmp_path / 'site').mkdir()
  shutil.copy(tmp_path / 'truth.json', tmp_path / 'site' / 'x.json')
  other.data.eval.annotations = str(tmp_path / 'site' / 'x.json')
  evaluate_checkpoint(stored, other)
  other = config.copy_and_resolve_references()
  for path in tmp_path.glob('*.png'):
    shutil.copy(path, tmp_path / 'site')
  other.data.eval.images = str(tmp_path / 'site')
  evaluate_checkpoint(stored, other)
  assert {path.name for path in root.iterdir()} == {'5-x', '5-x-2', '5-truth'}
  # Of another run, at the same step, on its own data.
  second = dataclasses.replace(stored, folder=tmp_path / 'b' / 'checkpoints' / '5')
  evaluate_checkpoint(stored, config)
  evaluate_checkpoint(second, config, workdir=str(tmp_path / 'run'))
  assert {path.name for path in root.iterdir()} >= {'5', '5-2'}
  evaluate_checkpoint(stored, config)
  assert len(list(root.iterdir())) == 5


def test_other_settings_leave_the_runs_own_evaluation_alone(
  config, oracle, tmp_path, monkeypatch
):
  monkeypatch.setattr(evaluate_module, 'load_model', lambda *_: (None, {}))
  stored = stored_checkpoint(config, CATEGORIES, tmp_path)
  root = tmp_path / 'run' / 'eval'
  names = []
  for field, value in (
    ('eval.num_overlays', 1),
    ('data.eval_short_side', 96),
    ('eval.max_dets', (1, 10, 200)),
    ('eval.max_dets', (1, 10, 200)),
  ):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict({field: value})
    evaluate_checkpoint(stored, other)
    names.append(sorted(path.name for path in root.iterdir()))
  assert names[:2] == [['5'], ['5', '5-truth']]
  assert names[2] == names[3] == ['5', '5-truth', '5-truth-2']


def test_folders_of_an_evaluation_do_not_follow_from_where_it_is_asked_for(
  config, tmp_path, monkeypatch
):
  stored = stored_checkpoint(config, CATEGORIES, tmp_path)
  other = config.copy_and_resolve_references()
  other.data.eval.annotations, other.data.eval.images = str(tmp_path / 'records'), ''
  records = []
  for name in ('here', 'there'):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    records.append(evaluation_record(stored.folder, other))
  assert records[0] == records[1]
  assert records[0]['images'] == []


def test_overlays_of_an_evaluation_before_do_not_stay(config, oracle, tmp_path):
  source = open_eval_source(config.data, CATEGORIES, PRESETS['2021'])
  for count in (3, 2):
    config.eval.num_overlays = count
    Evaluator(None, source, config, data_mesh())({}, tmp_path / 'eval', step=7)
    assert len(list((tmp_path / 'eval' / 'overlays').iterdir())) == count


def test_unknown_categories_and_missing_data_are_told(config, tmp_path):
  stored = stored_checkpoint(config, ((3, 'box'), (8, 'rod')), tmp_path)
  told = "1 categories are unknown to the model: 8 'bar'; .* with the same --names"
  with pytest.raises(UserError, match=told):
    evaluate_checkpoint(stored, config)
  config.data.eval.annotations = ''
  with pytest.raises(UserError, match='nothing to evaluate'):
    evaluate_checkpoint(stored, config)


def test_an_unwritable_folder_is_told_before_the_work(config, oracle, tmp_path):
  (tmp_path / 'file').touch()
  source = open_eval_source(config.data, CATEGORIES, PRESETS['2021'])
  evaluator = Evaluator(None, source, config, data_mesh())
  with pytest.raises(UserError, match='cannot be written'):
    evaluator({}, tmp_path / 'file' / 'eval', step=7)
  assert not oracle


def test_batch_size_is_rounded_up_to_the_devices(config, oracle, monkeypatch, tmp_path):
  class FourDevices:
    size = 4

  shapes = []
  monkeypatch.setattr(
    evaluate_module, 'split', lambda mesh, batch: shapes.append(batch) or batch
  )
  config.eval.batch_size = 5
  source = open_eval_source(config.data, CATEGORIES, PRESETS['2021'])
  Evaluator(None, source, config, FourDevices())({}, tmp_path / 'eval', step=7)
  assert {len(batch.image_index) for batch in shapes} == {8}
  indices = np.concatenate([batch.image_index for batch in shapes])
  assert sorted(indices[indices >= 0]) == list(range(len(SIZES)))


def test_a_file_that_cannot_be_written_is_named(config, oracle, tmp_path):
  source = open_eval_source(config.data, CATEGORIES, PRESETS['2021'])
  folder = tmp_path / 'eval'
  (folder / 'predictions.json').mkdir(parents=True)
  (folder / 'metrics.json').write_text('{}')  # of an evaluation before
  with pytest.raises(UserError, match='eval: cannot be written'):
    Evaluator(None, source, config, data_mesh())({}, folder, step=7)
  assert not (folder / 'metrics.json').exists()


class OneImage(list):
  """As much of a data set as overlays look at."""

  class_names = ('box',)


def test_a_picture_of_many_instances_takes_little_memory(config, oracle):
  count, size = 300, (600, 640)
  file = io.BytesIO()
  Image.new('RGB', size[::-1]).save(file, 'PNG')
  record = SimpleNamespace(
    encoded=file.getvalue(), file_name='a.png', height=size[0], width=size[1]
  )
  masks = np.zeros((count, size[0], size[1] // 8), np.uint8)
  masks[:, 0, 0] = 255
  boxes, zeros = np.zeros((count, 4), np.float32), np.zeros(count, np.int32)
  found = Detections(
    boxes=boxes,
    network_boxes=boxes,
    scores=np.full(count, 0.9, np.float32),
    labels=zeros,
    valid=np.ones(count, bool),
    location=zeros,
    masks=masks,
    num_candidates=np.asarray(count),
    num_kept=np.asarray(count),
  )
  evaluator = Evaluator(None, OneImage([record]), config, data_mesh())
  # Unpacked they are 115 MB.
  assert peak_memory(lambda: evaluator._overlay(found, 0, size)) < 40e6
