"""The data sets that a config names."""

import json
from pathlib import Path

import pytest
from coco_files import write_dataset

from configs import base
from embedmask_jax.datasets import open_eval_source, open_train_source
from embedmask_jax.presets import PRESETS


@pytest.mark.parametrize('name', ['2021', 'adelaidet'])
def test_boxes_are_read_by_the_rule_of_the_preset(tmp_path, monkeypatch, name):
  monkeypatch.setenv('EMBEDMASK_CACHE', str(tmp_path / 'cache'))
  preset = PRESETS[name]
  data = base.get_config().data
  data.eval.annotations, data.eval.images = write_dataset(tmp_path, [(64, 64)] * 2)
  content = json.loads(Path(data.eval.annotations).read_text())
  content['annotations'][0]['bbox'] = [50, 50, 14, 14]
  Path(data.eval.annotations).write_text(json.dumps(content))
  categories = [(entry['id'], entry['name']) for entry in content['categories']]
  named = open_eval_source(data, categories, preset)
  data.eval.annotations = ''
  # Of these scenes some lie at the edge.
  data.generated.enabled = True
  data.generated.train_images = data.generated.eval_images = 9
  data.generated.image_size = 64
  train = open_train_source(data, preset)
  scenes = open_eval_source(data, train.categories, preset)
  for source in (named, train, scenes):
    # The last pixel, or the line behind it.
    assert source.boxes.max() == 64 - preset.box_extent
