"""The layout of the authors' checkpoints, to and from our parameter tree.

Their code of 2019, 2020 and 2021 differs in the heads alone, which tell a file's
preset. Their state dict (PyTorch) and our variables hold the same numbers.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.ops.locations import STRIDES
from embedmask_jax.presets import PRESETS
from embedmask_jax.weights.architecture import (
  MSRA_SETTINGS,
  Backbone,
  backbone_of,
  count_blocks,
  name_of,
)
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

_TOWERS = {'class_tower': 'cls', 'box_tower': 'bbox', 'mask_tower': 'mask'}
_SCALES = {'box_scale': 'scales', 'margin_scale': 'margin_scales'}
_PROBE = 'backbone.body.layer1.0.conv1.weight'
_BLOCK = r'backbone\.body\.layer(\d)\.(\d+)\.'
_TOWER = r'rpn\.head\.(?:cls|bbox|mask)_tower\.(\d+)\.'
# Their tensors that carry no weight of the network.
_NO_WEIGHT = {'num_batches_tracked': 'a counter of live batch norm'}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What has to be known of a model to list its tensors.

  Attributes:
    backbone: the residual network.
    num_classes: C.
    channels: of the feature pyramid and of the towers.
    depth: convolutions in each tower.
    embedding_dim: D.
    preset: '2019', '2020' or '2021'.
  """

  backbone: Backbone
  num_classes: int
  channels: int = 256
  depth: int = 4
  embedding_dim: int = 16
  preset: str = '2021'


def places(sizes: Sizes) -> tuple[Place, ...]:
  """Returns the place of every tensor of a model with a frozen batch norm."""
  return (
    *_backbone_places(sizes.backbone),
    *_fpn_places(sizes),
    *_head_places(sizes),
  )


def _backbone_places(backbone: Backbone) -> Iterator[Place]:
  for tensor in backbone.tensors():
    place = 'stem' if tensor.stage is None else f'layer{tensor.stage}.{tensor.block}'
    prefix = f'backbone.body.{place}'
    number = tensor.name.removeprefix('conv') or '1'
    shortcut = tensor.name == 'shortcut'
    conv = 'downsample.0' if shortcut else f'conv{number}'
    norm = 'downsample.1' if shortcut else f'bn{number}'
    yield Place(
      f'{prefix}.{conv}.weight',
      tensor.shape,
      ('params', *tensor.path, tensor.conv, 'kernel'),
    )
    yield from frozen_norm_places(
      f'{prefix}.{norm}', tensor.shape[0], *tensor.path, tensor.norm
    )


def _fpn_places(sizes: Sizes) -> Iterator[Place]:
  width = sizes.channels
  for level, channels in enumerate(sizes.backbone.out_channels, start=3):
    prefix = 'backbone.fpn.fpn_'
    yield from conv_places(
      f'{prefix}inner{level - 1}', (width, channels, 1, 1), 'fpn', f'lateral{level}'
    )
    yield from conv_places(
      f'{prefix}layer{level - 1}', (width, width, 3, 3), 'fpn', f'output{level}'
    )
  for name in ('p6', 'p7'):
    yield from conv_places(
      f'backbone.fpn.top_blocks.{name}', (width, width, 3, 3), 'fpn', name
    )


def _head_places(sizes: Sizes) -> Iterator[Place]:
  width, head = sizes.channels, 'rpn.head'
  for ours, theirs in _TOWERS.items():
    for i in range(sizes.depth):
      tower = f'{head}.{theirs}_tower'
      yield from conv_places(
        f'{tower}.{3 * i}', (width, width, 3, 3), 'head', ours, f'conv{i}'
      )
      norm = f'{tower}.{3 * i + 1}'
      yield from norm_places(norm, width, 'head', ours, f'norm{i}')
  preset = PRESETS[sizes.preset]
  spatial, free = preset.spatial_dims, sizes.embedding_dim - preset.spatial_dims
  kernel = (width, 3, 3)
  layers = [
    ('cls_logits', (sizes.num_classes, *kernel), 'class_logits'),
    ('bbox_pred', (4, *kernel), 'box_regression'),
    ('centerness', (1, *kernel), 'centerness'),
  ]
  for name in ('proposal', 'pixel'):
    if spatial:
      layers += [
        (f'{name}_spatial_embed_pred', (spatial, *kernel), f'{name}_spatial_embedding'),
        (f'{name}_other_embed_pred', (free, *kernel), f'{name}_free_embedding'),
      ]
    else:
      layers.append((f'{name}_embed_pred', (free, *kernel), f'{name}_free_embedding'))
  margin = {
    'per_dimension': (sizes.embedding_dim, *kernel),
    'scalar': (1, *kernel),
    'from_box': (1, 4, 1, 1),
  }[preset.margin]
  layers.append(('proposal_margin_pred', margin, 'proposal_margin'))
  for theirs, shape, ours in layers:
    yield from conv_places(f'{head}.{theirs}', shape, 'head', ours)
  for ours, theirs in _SCALES.items():
    if ours == 'box_scale' or preset.margin == 'per_dimension':
      yield from scalar_places(f'{head}.{theirs}', len(STRIDES), 'head', ours)
  if preset.has_position_scale:
    path = ('params', 'head', 'position_scale')
    yield Place(f'{head}.position_scale.scale', (1,), path)


def import_authors(
  state_dict: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], WeightReport]:
  """Reads a state dict of the authors' 2019, 2020 or 2021 code, R-50 or R-101.

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
      f"not a checkpoint in the authors' layout: it has no {_PROBE}; first of its "
      f'{len(tensors)} names: {", ".join(list(tensors)[:3]) or "none"}'
    )
  ledger = Ledger(tensors, what="a whole checkpoint in the authors' layout")
  sizes = _sizes_of_state_dict(tensors)
  variables = read_places(ledger, places(sizes))
  report = ledger.close(
    reasons=_NO_WEIGHT,
    otherwise=f"no such tensor in the authors' {sizes.preset} network",
    settings={
      'preset': sizes.preset,
      'backbone': name_of(sizes.backbone),
      'embedding_dim': sizes.embedding_dim,
      **MSRA_SETTINGS,
    },
  )
  return variables, report


def export_authors(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Writes our variables in the layout of the authors' state dict.

  Args:
    variables: {'params', 'batch_stats'} of a model with `norm='frozen_bn'`.

  Returns:
    float32 arrays by their names, in the order of a file of theirs as far as that
    matters (it does not to their loader).

  Raises:
    UserError: the model has other leaves than theirs, or lacks some.
  """
  return write_places(variables, places(_sizes_of_variables(variables)))


def channels_in(tensors: Mapping[str, Any], key: str, default: int) -> int:
  """Returns the output channels of a tensor of theirs, or `default` without it."""
  shape = np.shape(tensors.get(key, 0))
  return shape[0] if shape else default


def depth_in(tensors: Mapping[str, Any], pattern: str) -> int:
  """Returns the number of convolutions in each of their towers.

  Args:
    tensors: theirs by name.
    pattern: regular expression whose group is the number of a layer of a tower.
  """
  layers = (int(match[1]) for name in tensors if (match := re.match(pattern, name)))
  # Convolution, norm, ReLU: three numbers each.
  return max((layer // 3 + 1 for layer in layers), default=4)


def _sizes_of_state_dict(tensors: Mapping[str, Any]) -> Sizes:
  return Sizes(
    backbone=Backbone(
      blocks=count_blocks(tensors, _BLOCK),
      bottleneck=any(re.match(_BLOCK + 'conv3', name) for name in tensors),
      width=channels_in(tensors, 'backbone.body.stem.conv1.weight', 64),
    ),
    num_classes=channels_in(tensors, 'rpn.head.cls_logits.bias', 80),
    channels=channels_in(tensors, 'backbone.fpn.fpn_layer2.bias', 256),
    depth=depth_in(tensors, _TOWER),
    embedding_dim=sum(
      channels_in(tensors, f'rpn.head.pixel_{part}embed_pred.bias', 0)
      for part in ('', 'spatial_', 'other_')
    ),
    preset=_preset_of(
      has_coordinates='rpn.head.pixel_embed_pred.bias' not in tensors,
      has_margin_scales=any('margin_scales' in name for name in tensors),
    ),
  )


def _sizes_of_variables(variables: Mapping[str, Any]) -> Sizes:
  params = variables['params']
  head = params['head']
  return Sizes(
    backbone=backbone_of(params['backbone']),
    num_classes=np.shape(head['class_logits']['kernel'])[-1],
    channels=np.shape(params['fpn']['output3']['kernel'])[-1],
    depth=tower_depth(head),
    embedding_dim=sum(
      np.shape(head[name]['bias'])[0]
      for name in ('pixel_spatial_embedding', 'pixel_free_embedding')
      if name in head
    ),
    preset=_preset_of(
      has_coordinates='position_scale' in head,
      has_margin_scales='margin_scale' in head,
    ),
  )


def tower_depth(head: Mapping[str, Any]) -> int:
  """Returns the number of convolutions in each tower of the head's parameters."""
  return sum(name.startswith('conv') for name in head['class_tower'])


def _preset_of(*, has_coordinates: bool, has_margin_scales: bool) -> str:
  if not has_coordinates:
    return '2019'
  return '2021' if has_margin_scales else '2020'
