import json
import pickle
from pathlib import Path

import golden_rule
import jax
import numpy as np
import pytest
from shared_data import SHARED

from configs import base
from embedmask_jax.errors import UserError
from embedmask_jax.import_weights import export_weights, import_weights
from embedmask_jax.models.embedmask import EmbedMask, normalise_images
from embedmask_jax.models.factory import init_variables
from embedmask_jax.models.resnet import ResNet
from embedmask_jax.presets import PRESETS
from embedmask_jax.weights.adelaidet import import_adelaidet, is_adelaidet
from embedmask_jax.weights.architecture import (
  MSRA_SETTINGS,
  Backbone,
  backbone_of,
  count_blocks,
)
from embedmask_jax.weights.authors import (
  Sizes,
  export_authors,
  import_authors,
  places,
)
from embedmask_jax.weights.backbones import TORCHVISION_SETTINGS, import_backbone
from embedmask_jax.weights.files import read_weights
from embedmask_jax.weights.places import to_theirs
from embedmask_jax.weights.settings import check_settings
from embedmask_jax.weights.tree import get_leaf, leaf_paths

GOLDEN = Path(__file__).resolve().parent / 'golden' / '2021'
WIDTH, CHANNELS, CLASSES = 4, 32, 3
# Tensors of theirs that carry no weight.
COUNTERS = ('num_batches_tracked', 'mask_pred._iter', 'mask_pred.sizes_of_interest')


def manifest(arch):
  folders = (GOLDEN, SHARED / 'golden' / '2021' / 'public')
  for folder in folders:
    path = folder / f'manifest_{arch}.json'
    if path.exists():
      content = json.loads(path.read_text())
      if arch == 'R50' or 'c2_pickle' in content:
        return content
  return pytest.skip(f'no manifest of {arch} at hand')


def small_sizes(blocks=(1, 2, 1, 1), bottleneck=True):
  return Sizes(
    Backbone(blocks, bottleneck, WIDTH), num_classes=CLASSES, channels=CHANNELS
  )


def random_state_dict(sizes, seed=0):
  rng = np.random.default_rng(seed)
  return {p.key: rng.random(p.shape, np.float32) for p in places(sizes)}


def small_model(backbone, norm='frozen_bn'):
  return EmbedMask(
    num_classes=CLASSES,
    backbone=backbone,
    backbone_width=WIDTH,
    norm=norm,
    fpn_channels=CHANNELS,
    head_channels=CHANNELS,
    head_depth=1,
  )


def random_variables(model, seed=0):
  """Numbers in the shapes of the model's variables; spares compiling its init."""
  rng = np.random.default_rng(seed)
  tree = jax.eval_shape(lambda: init_variables(model, 0))
  return jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), tree)


def shapes(tree):
  return {path: np.shape(get_leaf(tree, path)) for path in leaf_paths(tree)}


@pytest.mark.parametrize('arch', ['R50', 'R101'])
def test_every_key_of_the_manifest_goes_in_and_comes_out(arch):
  entries = manifest(arch)['entries']
  # Values tell elements apart and stay exact in float32.
  state_dict = {
    e['key']: np.arange(np.prod(e['shape']), dtype=np.float32).reshape(e['shape'])
    + 1000 * i
    for i, e in enumerate(entries)
  }
  variables, report = import_authors(state_dict)
  assert len(report.mapped) == len(entries)
  assert not report.unused
  model = EmbedMask(num_classes=80, backbone=golden_rule.ARCHES[arch])
  expected = jax.eval_shape(lambda: init_variables(model, 0))
  assert shapes(variables) == shapes(expected)

  returned = export_authors(variables)
  assert returned.keys() == state_dict.keys()
  for key, array in state_dict.items():
    np.testing.assert_array_equal(returned[key], array)


@pytest.mark.parametrize(
  ('preset', 'dims', 'name'),
  [
    ('2019', 32, 'manifest_R50'),
    ('2020', 8, 'manifest_R50'),
    ('adelaidet', 16, 'manifest'),
  ],
)
def test_files_of_other_generations_tell_their_preset(preset, dims, name):
  path = GOLDEN.parent / preset / f'{name}.json'
  entries = json.loads(path.read_text())['entries']
  state_dict = {
    e['key']: np.arange(np.prod(e['shape']), dtype=np.float32).reshape(e['shape'])
    + 1000 * i
    for i, e in enumerate(entries)
  }
  is_theirs = is_adelaidet(state_dict)
  assert is_theirs == (preset == 'adelaidet')
  read_tensors = import_adelaidet if is_theirs else import_authors
  variables, report = read_tensors(state_dict)
  assert report.settings['preset'] == preset
  assert report.settings['embedding_dim'] == dims
  model = EmbedMask(
    num_classes=80,
    preset=PRESETS[preset],
    backbone=report.settings['backbone'],
    embedding_dim=dims,
  )
  expected = jax.eval_shape(lambda: init_variables(model, 0))
  assert shapes(variables) == shapes(expected)

  returned = export_weights(variables)
  unused = {key for key, _ in report.unused}
  assert all(key.endswith(COUNTERS) for key in unused)
  assert returned.keys() == state_dict.keys() - unused
  for key, array in returned.items():
    np.testing.assert_array_equal(array, state_dict[key])


def test_the_epsilon_of_adelaidet_is_in_our_variances():
  path = GOLDEN.parent / 'adelaidet' / 'manifest.json'
  entries = json.loads(path.read_text())['entries']
  state_dict = {e['key']: np.full(e['shape'], 0.25, np.float32) for e in entries}
  variables, _ = import_adelaidet(state_dict)
  statistics = variables['batch_stats']
  frozen = statistics['backbone']['stage1_block0']['norm1']['var']
  np.testing.assert_array_equal(frozen, np.float32(0.25) + np.float32(1e-5))
  live = statistics['head']['mask_branch']['block0']['norm']['var']
  np.testing.assert_array_equal(live, 0.25)


def test_kernels_are_transposed_and_levels_keep_their_order():
  state_dict = random_state_dict(small_sizes())
  variables, _ = import_authors(state_dict)
  theirs = state_dict['rpn.head.cls_logits.weight']
  ours = variables['params']['head']['class_logits']['kernel']
  assert ours[0, 2, 5, 1] == theirs[1, 5, 0, 2]
  for level in range(5):
    scale = state_dict[f'rpn.head.margin_scales.{level}.scale'][0]
    assert variables['params']['head']['margin_scale'][level] == scale
  norm = variables['batch_stats']['backbone']['stage2_block1']['norm3']
  key = 'backbone.body.layer2.1.bn3.running_var'
  np.testing.assert_array_equal(norm['var'], state_dict[key])


def test_module_prefix_is_dropped_only_from_all():
  state_dict = random_state_dict(small_sizes())
  prefixed = {f'module.{name}': v for name, v in state_dict.items()}
  variables, report = import_authors(prefixed)
  plain, _ = import_authors(state_dict)
  jax.tree.map(np.testing.assert_array_equal, variables, plain)
  assert len(report.mapped) == len(state_dict)
  mixed = {**prefixed, 'extra': np.zeros(1)}
  with pytest.raises(UserError, match='not a checkpoint'):
    import_authors(mixed)


@pytest.mark.parametrize(
  'key',
  [
    'backbone.body.layer2.1.conv1.weight',
    'backbone.body.layer1.0.downsample.1.running_var',
    'rpn.head.bbox_tower.9.weight',
    'rpn.head.scales.3.scale',
    'rpn.head.cls_logits.bias',
    'backbone.fpn.top_blocks.p7.bias',
  ],
)
def test_refuses_a_missing_or_misshapen_tensor_by_name(key):
  state_dict = random_state_dict(small_sizes())
  array = state_dict.pop(key)
  with pytest.raises(UserError, match=f'1 missing .{key}'):
    import_authors(state_dict)
  state_dict[key] = array.reshape(*array.shape, 1)
  with pytest.raises(UserError, match=key):
    import_authors(state_dict)


def test_refuses_values_that_are_no_weights():
  state_dict = random_state_dict(small_sizes())
  state_dict['rpn.head.cls_logits.bias'] = np.full(CLASSES, np.nan, np.float32)
  with pytest.raises(UserError, match='holds values that are not finite'):
    import_authors(state_dict)


def test_what_is_not_used_is_named():
  state_dict = random_state_dict(small_sizes())
  state_dict['rpn.anchors.cell'] = np.zeros(3, np.float32)
  _, report = import_authors(state_dict)
  assert [name for name, _ in report.unused] == ['rpn.anchors.cell']
  assert 'rpn.anchors.cell' in report.table()
  assert '1 unused' in report.summary()


def test_export_refuses_a_model_the_authors_did_not_have():
  variables = random_variables(small_model('resnet18', norm='group'))
  with pytest.raises(UserError, match='frozen_bn'):
    export_authors(variables)


def test_small_backbones_have_a_place_in_the_layout():
  variables = random_variables(small_model('resnet18'))
  state_dict = export_authors(variables)
  assert 'backbone.body.layer1.0.downsample.0.weight' not in state_dict
  returned, _ = import_authors(state_dict)
  jax.tree.map(np.testing.assert_array_equal, returned, variables)


def msra_names(state_dict):
  """The key table of the manifest, applied backwards."""
  table = manifest('R101')['c2_pickle']['table']
  return {
    row['c2_key']: state_dict[key] if key else np.zeros(1, np.float32)
    for row in table
    for key in row['model_keys'] or [None]
  }


def test_msra_key_table():
  tensors = golden_rule.tensor_places('R101', base.get_config().model)
  drawn = golden_rule.draw_state_dict(3, {p.key: p.shape for p in tensors})
  whole, _ = import_authors(drawn)
  start = jax.tree.map(np.zeros_like, whole)
  result, report = import_backbone(msra_names(drawn), start)
  backbone = whole['batch_stats']['backbone']
  expected = {
    block: {
      norm: {**leaves, 'mean': 0 * leaves['mean'], 'var': 0 * leaves['var'] + 1}
      for norm, leaves in norms.items()
    }
    for block, norms in backbone.items()
  }
  jax.tree.map(
    np.testing.assert_array_equal, result['batch_stats'], {'backbone': expected}
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    result['params'],
    {**start['params'], 'backbone': whole['params']['backbone']},
  )
  reasons = dict(report.unused)
  assert set(reasons) >= {'fc1000_w', 'fc1000_b'}
  assert report.settings['stride_in_1x1'] is True
  assert len(report.filled) == 2 * len(expected) + 2 * sum(
    len(norms) - 1 for norms in expected.values()
  )


def torchvision_state_dict(backbone, seed=0):
  rng = np.random.default_rng(seed)
  state_dict = {}
  for tensor in backbone.tensors():
    prefix = '' if tensor.stage is None else f'layer{tensor.stage}.{tensor.block}.'
    number = tensor.name.removeprefix('conv') or '1'
    shortcut = tensor.name == 'shortcut'
    conv = f'{prefix}{"downsample.0" if shortcut else f"conv{number}"}'
    norm = f'{prefix}{"downsample.1" if shortcut else f"bn{number}"}'
    fan_in = np.prod(tensor.shape[1:])
    state_dict[f'{conv}.weight'] = rng.normal(0, fan_in**-0.5, tensor.shape)
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
      state_dict[f'{norm}.{name}'] = rng.uniform(0.1, 1, tensor.shape[0])
    state_dict[f'{norm}.num_batches_tracked'] = np.array(7)
  state_dict['fc.weight'] = np.zeros((1000, 8))
  state_dict['fc.bias'] = np.zeros(1000)
  return {name: v.astype(np.float32) if v.ndim else v for name, v in state_dict.items()}


def torch_features(torch, state_dict, images, backbone):
  """C3, C4, C5 of torchvision's network, [B, rows, columns, channels]."""
  weights = {name: torch.from_numpy(v).double() for name, v in state_dict.items()}
  f = torch.nn.functional

  def norm(x, name):
    mean, var = weights[f'{name}.running_mean'], weights[f'{name}.running_var']
    gain, offset = weights[f'{name}.weight'], weights[f'{name}.bias']
    return f.batch_norm(x, mean, var, gain, offset, eps=1e-5)

  def layer(x, conv, bn, stride=1):
    kernel = weights[f'{conv}.weight']
    x = f.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    return norm(x, bn)

  x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
  mean = torch.tensor([0.485, 0.456, 0.406]).double()[:, None, None]
  std = torch.tensor([0.229, 0.224, 0.225]).double()[:, None, None]
  x = f.relu(layer((x - mean) / std, 'conv1', 'bn1', 2))
  x = f.max_pool2d(x, 3, 2, 1)
  features = []
  for stage, count in enumerate(backbone.blocks, start=1):
    for block in range(count):
      name = f'layer{stage}.{block}'
      stride = 2 if stage > 1 and block == 0 else 1
      strides = (1, stride, 1) if backbone.bottleneck else (stride, 1)
      y = x
      for i, s in enumerate(strides, start=1):
        y = layer(y, f'{name}.conv{i}', f'{name}.bn{i}', s)
        y = f.relu(y) if i < len(strides) else y
      if f'{name}.downsample.0.weight' in weights:
        x = layer(x, f'{name}.downsample.0', f'{name}.downsample.1', stride)
      x = f.relu(x + y)
    features.append(x.permute(0, 2, 3, 1).numpy())
  return features[1:]


@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
@pytest.mark.parametrize('norm', ['frozen_bn', 'batch'])
def test_torchvision_features_come_out_as_in_torch(name, norm):
  torch = pytest.importorskip('torch')
  variables = random_variables(small_model(name, norm))
  backbone = backbone_of(variables['params']['backbone'])
  state_dict = torchvision_state_dict(backbone)
  imported, report = import_backbone(state_dict, variables)
  assert {reason for _, reason in report.unused} == {
    'the ImageNet classifier',
    'a counter of live batch norm',
  }
  images = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
  size = np.array([[64, 96]], np.int32)
  settings = report.settings
  model = ResNet(name, WIDTH, settings['stride_in_1x1'], norm)
  x = normalise_images(images, size, settings['pixel_mean'], settings['pixel_std'])
  weights = {kind: tree['backbone'] for kind, tree in imported.items()}
  found = jax.jit(lambda *args: model.apply(*args, train=False))(weights, x, size)
  for ours, theirs in zip(
    found, torch_features(torch, state_dict, images, backbone), strict=True
  ):
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_backbone_of_another_depth_is_refused():
  variables = random_variables(small_model('resnet18'))
  deeper = torchvision_state_dict(Backbone((3, 4, 6, 3), False, WIDTH))
  with pytest.raises(UserError, match=r'\(3, 4, 6, 3\) blocks'):
    import_backbone(deeper, variables)


@pytest.mark.parametrize('name', ['layer0.0.conv1.weight', 'layer5.0.conv1.weight'])
def test_a_backbone_of_other_stages_is_refused(name):
  with pytest.raises(UserError, match=name):
    count_blocks([name], r'layer(\d)\.(\d+)\.')


def test_backbone_without_batch_norm_is_refused():
  variables = random_variables(small_model('resnet18', 'group'))
  state_dict = torchvision_state_dict(Backbone((2, 2, 2, 2), False, WIDTH))
  with pytest.raises(UserError, match='frozen_bn'):
    import_backbone(state_dict, variables)


def test_unknown_names_are_refused_with_a_sample():
  variables = random_variables(small_model('resnet18'))
  with pytest.raises(UserError, match=r'first of them stem\.w'):
    import_backbone({'stem.w': np.zeros(1)}, variables)


@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize('is_whole', [True, False])
def test_torch_containers(tmp_path, is_zip, is_whole):
  torch = pytest.importorskip('torch')
  state_dict = random_state_dict(small_sizes())
  tensors = {f'module.{k}': torch.from_numpy(v) for k, v in state_dict.items()}
  whole = {'model': tensors, 'optimizer': {'state': {}}, 'iteration': 90000}
  path = tmp_path / 'model_final.pth'
  torch.save(
    whole if is_whole else tensors, path, _use_new_zipfile_serialization=is_zip
  )
  variables, _ = import_authors(read_weights(path))
  returned = export_authors(variables)
  for key, array in state_dict.items():
    np.testing.assert_array_equal(returned[key], array)


def read(path, model, variables, **options):
  """`import_weights` with the settings that the authors' files need."""
  settings = {
    'preset': '2021',
    'backbone': model.backbone,
    'embedding_dim': model.embedding_dim,
    **MSRA_SETTINGS,
  }
  return import_weights(
    path, variables, {**settings, **options.pop('settings', {})}, **options
  )


def test_another_model_or_number_of_classes_is_refused(tmp_path):
  model = small_model('resnet18')
  variables = random_variables(model, 5)
  path = tmp_path / 'ours.pkl'
  path.write_bytes(pickle.dumps(export_authors(variables)))
  imported, report = read(path, model, random_variables(model))
  jax.tree.map(np.testing.assert_array_equal, imported, variables)
  assert not report.unused
  other = small_model('resnet34')
  with pytest.raises(UserError, match=r'ours\.pkl: .*resnet34'):
    read(path, other, random_variables(other))
  other = small_model('resnet18').clone(num_classes=4)
  with pytest.raises(UserError, match=r'class_logits/bias is \(3,\) in the file'):
    read(path, other, random_variables(other))


def test_class_logits_stay_where_the_classes_are_others(tmp_path):
  model = small_model('resnet18')
  theirs = random_variables(model, 5)
  path = tmp_path / 'ours.pkl'
  path.write_bytes(pickle.dumps(export_authors(theirs)))
  model = model.clone(num_classes=4)
  own = random_variables(model, 6)
  imported, report = read(path, model, own, may_replace_classes=True)
  logits = ('params', 'head', 'class_logits')
  np.testing.assert_array_equal(
    get_leaf(imported, logits)['bias'], get_leaf(own, logits)['bias']
  )
  tower = ('params', 'head', 'class_tower', 'conv0', 'kernel')
  np.testing.assert_array_equal(get_leaf(imported, tower), get_leaf(theirs, tower))
  assert report.untouched == ('head/class_logits/bias', 'head/class_logits/kernel')
  assert {name for name, _ in report.unused} == {
    'rpn.head.cls_logits.weight',
    'rpn.head.cls_logits.bias',
  }


def test_settings_that_would_spoil_the_weights_are_refused(tmp_path):
  model = small_model('resnet18')
  variables = random_variables(model)
  state_dict = torchvision_state_dict(Backbone((2, 2, 2, 2), False, WIDTH))
  path = tmp_path / 'resnet18.pkl'
  path.write_bytes(pickle.dumps(state_dict))
  with pytest.raises(UserError, match=r'--config\.model\.stride_in_1x1=False'):
    read(path, model, variables)
  imported, report = read(path, model, variables, settings=TORCHVISION_SETTINGS)
  assert report.untouched
  kernel = imported['params']['backbone']['stage4_block1']['conv2']['kernel']
  np.testing.assert_array_equal(to_theirs(kernel), state_dict['layer4.1.conv2.weight'])


def test_a_setting_is_named_as_a_shell_takes_it():
  needed, configured = (
    {'pixel_mean': (103.53, 116.28, 123.675)},
    base.get_config().model,
  )
  with pytest.raises(UserError, match=r'pixel_mean=103\.53,116\.28,123\.675$'):
    check_settings(needed, configured)


def test_presets_of_one_network_take_each_others_weights():
  for needed, configured in (('2019', '2019_released'), ('2019_released', '2019')):
    check_settings({'preset': needed}, {'preset': configured})
  with pytest.raises(UserError, match=r'pass --config\.model\.preset=2019$'):
    check_settings({'preset': '2019'}, {'preset': '2020'})
