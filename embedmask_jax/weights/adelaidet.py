"""The layout of the authors' AdelaiDet checkpoints, to and from our parameter tree.

Their frozen batch norm adds an epsilon to the variance, which ours has in it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.ops.locations import STRIDES
from embedmask_jax.presets import PRESETS
from embedmask_jax.weights.architecture import (
  Backbone,
  backbone_of,
  count_blocks,
  msra_settings,
  name_of,
)
from embedmask_jax.weights.authors import Sizes, channels_in, depth_in, tower_depth
from embedmask_jax.weights.places import (
  Place,
  conv_places,
  frozen_norm_places,
  norm_places,
  read_places,
  scalar_places,
  strip_module,
  write_places,
)
from embedmask_jax.weights.report import Ledger, WeightReport

PRESET = 'adelaidet'

_EPSILON = 1e-5
_PROBE = 'backbone.bottom_up.res2.0.conv1.weight'
_HEAD = 'proposal_generator.fcos_head'
_TOWERS = {'class_tower': 'cls', 'box_tower': 'bbox'}
# Their stages are numbered 2..5.
_BLOCK = r'backbone\.bottom_up\.res(\d)\.(\d+)\.'
_TOWER = r'proposal_generator\.fcos_head\.(?:cls|bbox)_tower\.(\d+)\.'
_NO_WEIGHT = {
  'num_batches_tracked': 'a counter of live batch norm',
  'mask_pred._iter': 'a counter of steps',
  'mask_pred.sizes_of_interest': 'a constant of the method',
}


def places(sizes: Sizes) -> tuple[Place, ...]:
  """Returns the place of every tensor that carries a weight."""
  return (
    *_backbone_places(sizes.backbone),
    *_fpn_places(sizes),
    *_head_places(sizes),
    *_mask_branch_places(sizes),
    *_proposal_places(sizes),
  )


def _backbone_places(backbone: Backbone) -> Iterator[Place]:
  for tensor in backbone.tensors():
    place = 'stem' if tensor.stage is None else f'res{tensor.stage + 1}.{tensor.block}'
    name = 'conv1' if tensor.stage is None else tensor.name
    prefix = f'backbone.bottom_up.{place}.{name}'
    path = ('params', *tensor.path, tensor.conv, 'kernel')
    yield Place(f'{prefix}.weight', tensor.shape, path)
    yield from frozen_norm_places(
      f'{prefix}.norm', tensor.shape[0], *tensor.path, tensor.norm, epsilon=_EPSILON
    )


def _fpn_places(sizes: Sizes) -> Iterator[Place]:
  width = sizes.channels
  for level, channels in enumerate(sizes.backbone.out_channels, start=3):
    shape = (width, channels, 1, 1)
    yield from conv_places(
      f'backbone.fpn_lateral{level}', shape, 'fpn', f'lateral{level}'
    )
    shape = (width, width, 3, 3)
    yield from conv_places(
      f'backbone.fpn_output{level}', shape, 'fpn', f'output{level}'
    )
  for name in ('p6', 'p7'):
    yield from conv_places(
      f'backbone.top_block.{name}', (width, width, 3, 3), 'fpn', name
    )


def _head_places(sizes: Sizes) -> Iterator[Place]:
  width = sizes.channels
  for ours, theirs in _TOWERS.items():
    for i in range(sizes.depth):
      tower = f'{_HEAD}.{theirs}_tower'
      shape = (width, width, 3, 3)
      yield from conv_places(f'{tower}.{3 * i}', shape, 'head', ours, f'conv{i}')
      yield from norm_places(f'{tower}.{3 * i + 1}', width, 'head', ours, f'norm{i}')
  for theirs, channels, ours in (
    ('cls_logits', sizes.num_classes, 'class_logits'),
    ('bbox_pred', 4, 'box_regression'),
    ('ctrness', 1, 'centerness'),
  ):
    yield from conv_places(f'{_HEAD}.{theirs}', (channels, width, 3, 3), 'head', ours)
  yield from scalar_places(f'{_HEAD}.scales', len(STRIDES), 'head', 'box_scale')


def _mask_branch_places(sizes: Sizes) -> Iterator[Place]:
  width, narrow = sizes.channels, sizes.channels // 2
  branch, head = ('head', 'mask_branch'), ('head', 'semantic_head')
  for i in range(3):
    yield from _block_places(f'refine.{i}', width, narrow, *branch, f'refine{i + 3}')
  for i in range(sizes.depth):
    yield from _block_places(f'tower.{i}', narrow, narrow, *branch, f'block{i}')
  yield from conv_places(
    f'mask_branch.tower.{sizes.depth}', (narrow, narrow, 3, 3), *branch, 'output'
  )
  for i, inputs in enumerate((width, narrow)):
    yield from _block_places(f'seg_head.{i}', inputs, narrow, *head, f'block{i}')
  yield from conv_places(
    'mask_branch.logits', (sizes.num_classes, narrow, 1, 1), *head, 'logits'
  )


def _block_places(
  theirs: str, inputs: int, outputs: int, *path: str
) -> Iterator[Place]:
  key = f'mask_branch.{theirs}'
  yield Place(
    f'{key}.0.weight', (outputs, inputs, 3, 3), ('params', *path, 'conv', 'kernel')
  )
  yield from norm_places(f'{key}.1', outputs, *path, 'norm', has_statistics=True)


def _proposal_places(sizes: Sizes) -> Iterator[Place]:
  width, narrow = sizes.channels, sizes.channels // 2
  spatial = PRESETS[PRESET].spatial_dims
  free = sizes.embedding_dim - spatial
  for theirs, ours in (('margin', 'margin'), ('embed', 'embedding')):
    key = f'proposal_head.{theirs}_conv'
    yield from conv_places(key, (narrow, width, 1, 1), 'head', f'proposal_{ours}_stem')
  # One convolution here, two there.
  for theirs, part in (
    ('spatial', slice(0, spatial)),
    ('free', slice(spatial, sizes.embedding_dim)),
  ):
    key = f'proposal_head.{theirs}_margin_head'
    count = part.stop - part.start
    path = ('params', 'head', 'proposal_margin')
    yield Place(f'{key}.weight', (count, narrow, 3, 3), (*path, 'kernel'), part)
    yield Place(f'{key}.bias', (count,), (*path, 'bias'), part)
  yield from scalar_places(
    'proposal_head.margin_scales', len(STRIDES), 'head', 'margin_scale'
  )
  for prefix, of in (
    ('proposal_head.embed_head', 'proposal'),
    ('pixel_head', 'pixel'),
  ):
    for kind, count in (('spatial', spatial), ('free', free)):
      key, shape = f'{prefix}.{kind}_embed_head', (count, narrow, 3, 3)
      yield from conv_places(key, shape, 'head', f'{of}_{kind}_embedding')


def is_adelaidet(state_dict: Mapping[str, Any]) -> bool:
  """Whether the names are those of detectron2's backbones."""
  return _PROBE in strip_module(state_dict)


def import_adelaidet(
  state_dict: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], WeightReport]:
  """Reads a state dict of the authors' AdelaiDet code, R-50 or R-101.

  Args:
    state_dict: their tensors by name, OIHW, with or without `module.` before all
      the names.

  Returns:
    `variables`, {'params', 'batch_stats'} of float32 arrays, and the account.

  Raises:
    UserError: tensors are missing or have another shape than the rest implies.
  """
  tensors = strip_module(state_dict)
  if _PROBE not in tensors:
    raise UserError(
      f"not a checkpoint in AdelaiDet's layout: it has no {_PROBE} among its "
      f'{len(tensors)} names'
    )
  ledger = Ledger(tensors, what="a whole checkpoint in AdelaiDet's layout")
  sizes = _sizes_of_state_dict(tensors)
  variables = read_places(ledger, places(sizes))
  report = ledger.close(
    reasons=_NO_WEIGHT,
    otherwise="no such tensor in the authors' AdelaiDet network",
    settings={
      'preset': PRESET,
      'backbone': name_of(sizes.backbone),
      'embedding_dim': sizes.embedding_dim,
      **msra_settings(PRESET),
    },
  )
  return variables, report


def export_adelaidet(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Writes our variables in the layout of the authors' AdelaiDet state dict.

  Args:
    variables: {'params', 'batch_stats'} of a model with preset `adelaidet` and
      `norm='frozen_bn'`.

  Raises:
    UserError: the model has other leaves than theirs, or lacks some.
  """
  params = variables['params']
  head = params['head']
  sizes = Sizes(
    backbone=backbone_of(params['backbone']),
    num_classes=np.shape(head['class_logits']['bias'])[0],
    channels=np.shape(params['fpn']['output3']['bias'])[0],
    depth=tower_depth(head),
    embedding_dim=np.shape(head['proposal_margin']['bias'])[0],
    preset=PRESET,
  )
  return write_places(variables, places(sizes))


def _sizes_of_state_dict(tensors: Mapping[str, Any]) -> Sizes:
  return Sizes(
    backbone=Backbone(
      blocks=count_blocks(tensors, _BLOCK, first_stage=2),
      bottleneck=any(re.match(_BLOCK + 'conv3', name) for name in tensors),
      width=channels_in(tensors, 'backbone.bottom_up.stem.conv1.weight', 64),
    ),
    num_classes=channels_in(tensors, f'{_HEAD}.cls_logits.bias', 80),
    channels=channels_in(tensors, 'backbone.fpn_output3.bias', 256),
    depth=depth_in(tensors, _TOWER),
    embedding_dim=sum(
      channels_in(tensors, f'pixel_head.{kind}_embed_head.bias', 0)
      for kind in ('spatial', 'free')
    ),
    preset=PRESET,
  )
