"""The state-dict manifest against our parameter tree, optimiser and configs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import golden_rule
import jax
import jax.numpy as jnp
import numpy as np
from golden_network import model_of, state_dict_of
from golden_set import GoldenSet
from golden_table import Report
from ml_collections import ConfigDict

from embedmask_jax.config import flatten
from embedmask_jax.import_weights import export_weights
from embedmask_jax.models.factory import init_variables
from embedmask_jax.optim import (
  OptimSettings,
  Schedule,
  is_trained,
  make_optimizer,
)
from embedmask_jax.weights.adelaidet import import_adelaidet
from embedmask_jax.weights.authors import import_authors
from embedmask_jax.weights.backbones import import_backbone
from embedmask_jax.weights.places import Place
from embedmask_jax.weights.tree import get_leaf, has_leaf, leaf_paths

# Below this many drawn values their deviation is a matter of chance.
_FEW = 100
# Tensors that carry no weight.
_COUNTERS = ('num_batches_tracked', 'mask_pred._iter', 'mask_pred.sizes_of_interest')
# Their name -> ours, with what ours is in their unit.
_SOLVER = {
  'momentum': 'momentum',
  'base_lr': 'learning_rate',
  'bias_lr_factor': 'bias_rate_multiplier',
  'weight_decay': 'weight_decay',
  'weight_decay_bias': 'bias_weight_decay',
  'gamma': 'decay_factor',
  'warmup_factor': 'warmup_factor',
  'warmup_iters': 'warmup_steps',
  'warmup_method': 'warmup',
  'ims_per_batch': 'reference_batch_size',
}
_ADELAIDET = {
  'solver': {
    'MAX_ITER': 'train.steps',
    'BASE_LR': 'optim.learning_rate',
    'MOMENTUM': 'optim.momentum',
    'WEIGHT_DECAY': 'optim.weight_decay',
    'WEIGHT_DECAY_NORM': 'optim.norm_decay_multiplier',
    'WEIGHT_DECAY_BIAS': 'optim.bias_weight_decay',
    'BIAS_LR_FACTOR': 'optim.bias_rate_multiplier',
    'GAMMA': 'optim.decay_factor',
    'STEPS': 'optim.milestones',
    'WARMUP_FACTOR': 'optim.warmup_factor',
    'WARMUP_ITERS': 'optim.warmup_steps',
    'WARMUP_METHOD': 'optim.warmup',
    'IMS_PER_BATCH': 'optim.reference_batch_size',
  },
  'embedmask': {'EMBED_DIM': 'model.embedding_dim', 'MASK_TH': 'eval.mask_threshold'},
  'fcos': {
    'PRIOR_PROB': 'model.prior_probability',
    'INFERENCE_TH_TEST': 'eval.score_threshold',
    'NMS_TH': 'eval.nms_threshold',
    'PRE_NMS_TOPK_TEST': 'eval.pre_nms_top_k',
    'POST_NMS_TOPK_TEST': 'eval.max_detections',
    'NUM_CLS_CONVS': 'model.head_depth',
    'NUM_BOX_CONVS': 'model.head_depth',
  },
  'input': {
    'MIN_SIZE_TRAIN': 'data.short_sides',
    'MAX_SIZE_TRAIN': 'data.long_side',
    'MIN_SIZE_TEST': 'data.eval_short_side',
  },
  '': {
    'pixel_mean': 'model.pixel_mean',
    'pixel_std': 'model.pixel_std',
    'freeze_at': 'model.frozen_stages',
  },
}
_OPTIONS = {
  'PRIOR_PROB': 'model.prior_probability',
  'INFERENCE_TH': 'eval.score_threshold',
  'NMS_TH': 'eval.nms_threshold',
  'PRE_NMS_TOP_N': 'eval.pre_nms_top_k',
  'MASK_TH': 'eval.mask_threshold',
  'EMBED_DIM': 'model.embedding_dim',
  'HEAD_NUM_CONVS': 'model.head_depth',
  'MASK_NUM_CONVS': 'model.head_depth',
}


def check_manifest(golden: GoldenSet, report: Report) -> None:
  """Every `manifest_<arch>.json`."""
  for path in sorted(golden.folder.glob('manifest*.json')):
    manifest = golden.json(path.stem)
    arch = path.stem.removeprefix('manifest').removeprefix('_') or 'R50'
    entries = {
      entry['key']: entry
      for entry in manifest['entries']
      if not entry['key'].endswith(_COUNTERS)
    }
    config = golden.config(arch)
    places = {p.key: p for p in golden_rule.tensor_places(arch, config.model)}
    report.observe(
      'manifest: keys without a partner', path.stem, len(entries.keys() ^ places.keys())
    )
    common = sorted(entries.keys() & places.keys())
    for key in common:
      report.compare(
        'manifest: shapes', path.stem, places[key].shape, entries[key]['shape']
      )
    _compare_tree(golden, report, path.stem, arch)
    _compare_optimizer(
      report, path.stem, config, [(places[key], entries[key]) for key in common]
    )
    if golden.is_adelaidet:
      _compare_adelaidet(report, path.stem, config, manifest)
      continue
    _compare_config(report, path.stem, config, manifest)
    if 'head_init' in manifest:
      _compare_initial_values(golden, report, path.stem, arch, manifest['head_init'])
    if 'c2_pickle' in manifest:
      table = manifest['c2_pickle']['table']
      _compare_backbone_names(golden, report, path.stem, arch, table)


def check_rule(golden: GoldenSet, report: Report) -> None:
  """Digests of weights and of formula images, where the folder gives them."""
  for name, expected in golden.digests().items():
    arch, seed = name.split('_seed')
    found = golden_rule.digest(state_dict_of(golden, arch, int(seed)))
    report.observe('rule: digest of the weights', name, float(found != expected))
  for name, expected in golden.json('formula_images').items():
    _, seed, size = name.split(':')
    height, width = map(int, size.split('x'))
    found = golden_rule.image_digest(
      golden_rule.formula_image(int(seed), height, width)
    )
    report.observe('rule: digest of the images', name, float(found != expected))


def check_schedules(golden: GoldenSet, report: Report) -> None:
  """Learning rates at chosen steps, constant and linear warm-up."""
  if not golden.has('unit.npz'):
    return
  unit = golden.arrays('unit')
  for arch in golden_rule.ARCHES:
    for warmup in ('constant', 'linear'):
      name = f'sched_{arch}_{warmup}'
      if name in unit:
        config = golden.config(arch)
        settings = dataclasses.replace(OptimSettings(**config.optim), warmup=warmup)
        schedule = Schedule(settings, config.train.steps)
        found = [float(schedule(int(i))) for i in unit[f'sched_{arch}_iters']]
        report.compare('unit: schedule', name, found, unit[name])


def _compare_tree(golden: GoldenSet, report: Report, record: str, arch: str) -> None:
  """The tree of the model has the leaves and shapes of an imported state dict."""
  model = model_of(golden, arch)
  tree = jax.eval_shape(lambda: init_variables(model, 0))
  read = import_adelaidet if golden.is_adelaidet else import_authors
  imported, _ = read(state_dict_of(golden, arch, 0))
  paths = set(leaf_paths(tree)) ^ set(leaf_paths(imported))
  report.observe('manifest: keys without a partner', record, len(paths))
  for path in leaf_paths(imported):
    if has_leaf(tree, path):
      report.compare(
        'manifest: shapes in our tree',
        record,
        get_leaf(imported, path).shape,
        get_leaf(tree, path).shape,
      )


def _compare_optimizer(
  report: Report,
  record: str,
  config: ConfigDict,
  pairs: list[tuple[Place, Mapping[str, Any]]],
) -> None:
  """What the optimiser does to each leaf, seen on one number in its place."""
  settings = dataclasses.replace(
    OptimSettings(**config.optim), learning_rate=1.0, warmup_steps=0
  )
  params: dict[str, Any] = {}
  for place, _ in pairs:
    if place.path[0] == 'params':
      node = params
      for name in place.path[1:-1]:
        node = node.setdefault(name, {})
      node[place.path[-1]] = jnp.zeros(())
  trained = is_trained(params, config.model.frozen_stages)
  optimizer = make_optimizer(settings, Schedule(settings, 1), trained=trained)

  def change(parameter: float, gradient: float) -> dict:
    tree = jax.tree.map(lambda leaf: leaf + parameter, params)
    gradients = jax.tree.map(lambda leaf: leaf + gradient, params)
    updates, _ = optimizer.update(gradients, optimizer.init(tree), tree)
    return updates

  rates, decays = change(0.0, 1.0), change(1.0, 0.0)
  for place, entry in pairs:
    is_buffer = place.path[0] != 'params'
    moves = not is_buffer and bool(get_leaf(trained, place.path[1:]))
    report.compare('manifest: trained', record, moves, entry['trainable'])
    if is_buffer:
      continue
    rate = -float(get_leaf(rates, place.path[1:]))
    decay = -float(get_leaf(decays, place.path[1:]))
    expected = entry.get('lr_multiplier', 0.0)
    report.compare('manifest: rate multipliers', record, rate, expected)
    expected *= entry.get('weight_decay', 0.0) / settings.weight_decay
    found = decay / settings.weight_decay
    report.compare('manifest: decay multipliers', record, found, expected)


def _compare_config(
  report: Report, record: str, config: ConfigDict, manifest: Mapping[str, Any]
) -> None:
  solver = manifest['solver']
  found = {name: config.optim[ours] for name, ours in _SOLVER.items()}
  found |= {'steps': list(config.optim.milestones), 'max_iter': config.train.steps}
  expected = {name: solver[name] for name in found}
  report.compare('manifest: settings', record, _values(found), _values(expected))
  if options := manifest.get('embed_mask_options'):
    found, expected = {}, {}
    for name, ours in _OPTIONS.items():
      part, field = ours.split('.')
      found[name], expected[name] = config[part][field], options[name]
    report.compare('manifest: settings', record, _values(found), _values(expected))


def _compare_adelaidet(
  report: Report, record: str, config: ConfigDict, manifest: Mapping[str, Any]
) -> None:
  """The config dump of detectron2, part by part."""
  found, expected = {}, {}
  for part, fields in _ADELAIDET.items():
    for name, ours in fields.items():
      found[name] = flatten(config)[ours]
      expected[name] = (manifest[part] if part else manifest)[name]
  report.compare('manifest: settings', record, _values(found), _values(expected))


def _values(values: Mapping[str, Any]) -> list[str]:
  numbers = (int, float)
  plain = {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in values.items()
  }
  return [
    f'{name}={float(value) if isinstance(value, numbers) else value}'
    for name, value in plain.items()
  ]


def _compare_initial_values(
  golden: GoldenSet,
  report: Report,
  record: str,
  arch: str,
  expected: Mapping[str, list[float]],
) -> None:
  """Mean and deviation of freshly drawn parameters of the head."""
  found = export_weights(init_variables(model_of(golden, arch), 0))
  for key, (mean, deviation) in expected.items():
    array = found[key].astype(np.float64)
    if deviation and array.size < _FEW:
      report.note(f'{record}: {key} has too few values to tell their deviation')
      continue
    error = max(abs(array.mean() - mean), abs(array.std() - deviation))
    report.observe('manifest: initial values', record, error / max(deviation, 0.01))


def _compare_backbone_names(
  golden: GoldenSet,
  report: Report,
  record: str,
  arch: str,
  table: list[Mapping[str, Any]],
) -> None:
  """The ImageNet key table: every tensor must arrive at its place."""
  drawn = state_dict_of(golden, arch, 0)
  tensors = {
    row['c2_key']: drawn[row['model_keys'][0]] if row['model_keys'] else np.zeros(1)
    for row in table
  }
  expected, _ = import_authors(drawn)
  found, weights = import_backbone(tensors, jax.tree.map(np.zeros_like, expected))
  wrong = sum(len(row['model_keys']) > 0 for row in table) - len(weights.mapped)
  for place in golden_rule.tensor_places(arch, golden.config(arch).model):
    is_stored = place.path[-1] in ('kernel', 'scale', 'bias')
    if place.path[1] == 'backbone' and is_stored:
      pair = get_leaf(found, place.path), get_leaf(expected, place.path)
      wrong += not np.array_equal(*pair)
  report.observe('manifest: backbone names', record, abs(wrong))
