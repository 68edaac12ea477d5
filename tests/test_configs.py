"""The configs that come with the project, and what a config may hold."""

import dataclasses
import importlib
import json
import re

import pytest
from pages import ROOT, blocks

from configs import base, custom, nuclei, nuclei_adelaidet, small
from embedmask_jax.config import (
  FIELDS,
  check_names,
  differences,
  flatten,
  from_json,
  to_json,
  validate_config,
)
from embedmask_jax.config_reading import required_config, stored_or_given_config
from embedmask_jax.errors import UserError
from embedmask_jax.optim import OptimSettings, scale_to_batch

CONFIGS = sorted(path.stem for path in (ROOT / 'configs').glob('[a-z]*.py'))

PAPER = {
  'model.preset': '2021',
  'model.stride_in_1x1': True,
  'model.norm': 'frozen_bn',
  'model.frozen_stages': 2,
  'model.fpn_channels': 256,
  'model.head_channels': 256,
  'model.head_depth': 4,
  'model.embedding_dim': 16,
  'model.pixel_mean': (102.9801, 115.9465, 122.7717),
  'model.pixel_std': (1.0, 1.0, 1.0),
  'model.prior_probability': 0.01,
  'data.long_side': 1333,
  'data.eval_short_side': 800,
  'data.flip_probability': 0.5,
  'data.crop_size': (),
  'train.batch_size': 16,
  'optim.name': 'sgd',
  'optim.learning_rate': 0.01,
  'optim.reference_batch_size': 16,
  'optim.weight_decay': 1e-4,
  'optim.norm_decay_multiplier': 1.0,
  'optim.momentum': 0.9,
  'optim.bias_rate_multiplier': 2.0,
  'optim.bias_weight_decay': 0.0,
  'optim.warmup_steps': 500,
  'optim.warmup': 'constant',
  'optim.warmup_factor': 1 / 3,
  'optim.schedule': 'step',
  'optim.decay_factor': 0.1,
  'optim.clip_norm': 0.0,
  'eval.score_threshold': 0.05,
  'eval.pre_nms_top_k': 1000,
  'eval.nms_threshold': 0.6,
  'eval.max_detections': 100,
  'eval.max_dets': (1, 10, 100),
  'eval.mask_threshold': 0.53,
}
R50_1X = {
  'model.backbone': 'resnet50',
  'train.steps': 90000,
  'optim.milestones': (60000, 80000),
  'data.short_sides': (800,),
}
R101_MS_3X = {
  'model.backbone': 'resnet101',
  'train.steps': 270000,
  'optim.milestones': (210000, 250000),
  'data.short_sides': (640, 800),
}
SCHEDULES = {'r50_1x': R50_1X, 'r101_ms_3x': R101_MS_3X}
GENERATIONS = {
  '2019': {
    'model.preset': '2019',
    'model.embedding_dim': 32,
    'eval.mask_threshold': 0.5,
  },
  '2020': {'model.preset': '2020', 'model.embedding_dim': 8},
  '2021': {},
  'adelaidet': {
    'model.preset': 'adelaidet',
    'model.pixel_mean': (103.53, 116.28, 123.675),
    'data.short_sides': (640, 672, 704, 736, 768, 800),
    'data.min_box_side': 1e-5,
    'optim.norm_decay_multiplier': 0.0,
    'optim.bias_rate_multiplier': 1.0,
    'optim.bias_weight_decay': 1e-4,
    'optim.warmup_steps': 1000,
    'optim.warmup': 'linear',
    'optim.warmup_factor': 0.001,
    'eval.mask_threshold': 0.5,
  },
}


@pytest.mark.parametrize('name', CONFIGS)
def test_config_is_valid_and_survives_json(name):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config()
  validate_config(config)
  stored = json.loads(json.dumps(to_json(config)))
  assert from_json(stored).to_dict() == config.to_dict()
  assert not differences(from_json(stored), config)
  assert module.__doc__


@pytest.mark.parametrize('preset', GENERATIONS)
@pytest.mark.parametrize(('name', 'own'), SCHEDULES.items())
def test_paper_configs_are_the_papers(preset, name, own):
  config = importlib.import_module(f'configs.coco_{preset}_{name}').get_config()
  flat, own = flatten(config), {**own, **GENERATIONS[preset]}
  for field, value in {**PAPER, **own}.items():
    assert flat[field] == value, field
  assert set(differences(base.get_config(), config)) <= set(own)


def test_the_page_lists_the_fields_that_go_with_a_preset():
  table = (ROOT / 'docs' / 'presets.md').read_text().split('| `model.preset` |')[1]
  found = {}
  for row in table.split('\n\n')[0].splitlines()[2:]:
    _, presets, fields = row.split('|', 2)
    flags = [f'--config.{field}' for field in re.findall(r'`(\S+=\S+)`', fields)]
    config = stored_or_given_config(base.get_config(), flags)
    fields = {
      name: flatten(config)[name] for name in differences(base.get_config(), config)
    }
    for preset in re.findall(r'`(\w+)`', presets):
      found[preset] = fields
  assert found.pop('2019_released') == found['2019']
  assert {
    preset: {'model.preset': preset, **fields} for preset, fields in found.items()
  } == {**GENERATIONS, '2021': {'model.preset': '2021'}}


def test_the_config_of_ones_own_that_the_page_shows(tmp_path, monkeypatch):
  [shown] = [
    block.text
    for block in blocks((ROOT / 'docs' / 'configs.md').read_text())
    if block.language == 'python'
  ]
  (tmp_path / 'cells.py').write_text(shown)
  monkeypatch.chdir(tmp_path)
  _, config = required_config(['--config=cells.py'])
  assert set(differences(small.get_config(), config)) == set(
    re.findall(r'config\.(\w+\.\w+) =', shown)
  )


def test_nuclei_with_another_preset_is_what_was_compared():
  changed = differences(nuclei.get_config(), nuclei_adelaidet.get_config())
  assert set(changed) == {'model.preset', 'data.min_box_side', 'eval.mask_threshold'}


def test_custom_leaves_the_model_alone():
  changed = differences(base.get_config(), custom.get_config())
  assert {field.split('.')[0] for field in changed} <= {
    'data',
    'train',
    'optim',
    'eval',
  }


def test_optimiser_settings_are_the_fields_of_the_config():
  optim = base.get_config().optim
  assert {f.name for f in dataclasses.fields(OptimSettings)} == set(optim)
  settings, steps = scale_to_batch(OptimSettings(**optim), steps=90000, batch_size=8)
  assert (settings.learning_rate, steps) == (0.005, 180000)
  assert settings.milestones == (120000, 160000)


WRONG = [
  ('seed', -1, 'an integer from 0 up'),
  ('model.preset', '2022', "'2021'"),
  ('model.backbone', 'vit', "'resnet50'"),
  ('model.norm', 'layer', "'group'"),
  ('model.frozen_stages', 6, '0 to 5'),
  ('model.fpn_channels', 0, 'from 1 up'),
  ('model.dtype', 'float16', "'bfloat16'"),
  ('model.pixel_mean', (1.0, 2.0), 'three numbers'),
  ('model.pixel_std', (1.0, 0.0, 1.0), 'above 0'),
  ('model.prior_probability', 1.0, 'between 0 and 1'),
  ('data.short_sides', (), 'at least one'),
  ('data.short_sides', (800, 640), 'ascending'),
  ('data.short_sides', (-5,), 'above 0'),
  ('data.long_side', 600, 'at least the largest short side, 800'),
  ('data.flip_probability', 1.5, '0 to 1'),
  ('data.flip_probability', float('nan'), '0 to 1'),
  ('data.crop_size', (5,), '(height, width)'),
  ('data.scale_jitter', (0.0, 2.0), 'above 0'),
  ('data.scale_jitter', (2.0, 0.1), 'ascending'),
  ('data.scale_jitter', (0.1, 2.0), 'set config.data.crop_size'),
  ('model.mask_branch_norm', 'frozen_bn', 'preset 2021 has no mask branch'),
  ('data.copy_paste_probability', 2, '0 to 1'),
  ('data.canvases', ((100, 64),), 'multiples of 32'),
  ('data.instance_ladder', (16, 8), 'ascending'),
  ('data.instance_ladder', (8, 8), 'ascending'),
  ('data.workers', -1, 'from 0 up'),
  ('train.batch_size', 0, 'from 1 up'),
  ('train.steps', 0, 'from 1 up'),
  ('train.accumulation_steps', 3, 'a multiple of config.train.accumulation_steps, 3'),
  ('optim.name', 'lion', "'sgd' or 'adamw'"),
  ('optim.learning_rate', 0.0, 'above 0'),
  ('optim.learning_rate', float('inf'), 'above 0'),
  ('optim.warmup', 'none', "'constant' or 'linear'"),
  ('optim.schedule', 'poly', "'step' or 'cosine'"),
  ('optim.milestones', (80000, 60000), 'ascending'),
  ('optim.clip_norm', -1.0, '0 or more'),
  ('eval.score_threshold', -0.1, '0 to 1'),
  ('eval.max_detections', 0, 'from 1 up'),
  ('eval.max_dets', (10, 1, 100), 'ascending'),
  ('eval.mask_threshold', 1.0, 'between 0 and 1'),
  ('eval.output_ladder', (), 'at least one'),
  ('eval.output_ladder', ((1024, 1024), (640, 640)), 'each holding the one before'),
  ('eval.output_ladder', ((100, 101),), 'multiples of 8'),
  ('checkpoint.keep_last', 0, 'from 1 up'),
  ('checkpoint.best_metric', 'accuracy', 'metrics.json'),
]


@pytest.mark.parametrize(('field', 'value', 'allowed'), WRONG)
def test_wrong_value_is_told_with_field_value_and_what_is_allowed(
  field, value, allowed
):
  config = base.get_config()
  part, name = field.rsplit('.', 1) if '.' in field else (None, field)
  target = config
  for step in part.split('.') if part else ():
    target = target[step]
  target[name] = value
  with pytest.raises(UserError) as caught:
    validate_config(config)
  message = str(caught.value)
  assert allowed in message
  if field != 'train.accumulation_steps':
    assert f'config.{field} is {value!r}' in message


def test_wrong_types_are_told():
  for field, value in (('steps', 10.0), ('steps', '10'), ('steps', True)):
    config = base.get_config()
    with config.ignore_type():
      config.train[field] = value
    with pytest.raises(UserError, match='config.train.steps is'):
      validate_config(config)


def test_unknown_and_missing_fields_are_told():
  config = base.get_config()
  config.model.depth = 3
  with pytest.raises(UserError, match='no config field model.depth; did you mean'):
    validate_config(config)
  config = base.get_config()
  del config.train.steps
  with pytest.raises(UserError, match='missing config field.*train.steps'):
    validate_config(config)


def test_names_of_fields_and_parts_exist():
  check_names(['train.steps', 'data', 'data.eval', 'seed'])
  with pytest.raises(UserError, match='train.stepz; did you mean train.steps'):
    check_names(['train.stepz'])
  with pytest.raises(UserError, match='data.eva'):
    check_names(['data.eva'])


def test_every_field_has_a_rule():
  assert set(flatten(base.get_config())) == set(FIELDS)


def test_differences_name_field_and_values():
  other = base.get_config()
  other.train.steps = 7
  assert differences(base.get_config(), other) == {'train.steps': '90000 -> 7'}


def test_the_config_of_a_checkpoint_stays_as_it_was():
  stored = base.get_config()
  found = stored_or_given_config(stored, ['--config.data.eval.annotations=x.json'])
  assert found.data.eval.annotations == 'x.json'
  assert not stored.data.eval.annotations


def test_what_a_config_beside_a_checkpoint_does_to_results_is_told(caplog):
  stored = base.get_config()
  flags = ['--config=configs/nuclei.py', '--config.eval.max_dets=1,10,50']
  stored_or_given_config(stored, flags)
  told = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
  assert told == [
    'data.eval_short_side is that of --config, not of the checkpoint (800 -> 512)',
    'data.long_side is that of --config, not of the checkpoint (1333 -> 2000)',
    'eval.max_detections is that of --config, not of the checkpoint (100 -> 500)',
  ]
  caplog.clear()
  stored_or_given_config(stored, ['--config.eval.max_detections=50'])
  assert not caplog.records


def test_fields_go_before_the_config_beside_a_checkpoint():
  stored = base.get_config()
  stored.model.dtype, stored.eval.max_detections = 'bfloat16', 7
  found = stored_or_given_config(
    stored,
    ['--config=configs/nuclei.py', '--config.model.dtype=float32'],
  )
  assert found.model.dtype == 'float32'
  assert found.eval.max_detections == 500
  assert found.model.backbone == stored.model.backbone
