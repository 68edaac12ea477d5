"""The layout of the authors' checkpoints, to and from our parameter tree.

Their code of 2019, 2020 and 2021 differs in the heads alone, which tell a file's
preset. Their state dict (PyTorch) and our variables hold the same numbers. Convolutions
are OIHW there and HWIO here; the buffers of their frozen batch norms are our
`batch_stats`; their one-element tensors per level are one vector per kind here.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.presets import PRESETS
from embedmask_jax.weights.architecture import (
  MSRA_SETTINGS,
  Backbone,
  backbone_of,
  count_blocks,
  name_of,
)
from embedmask_jax.weights.report import Ledger, WeightReport
from embedmask_jax.weights.tree import get_leaf, has_leaf, leaf_paths, set_leaf

_LEVELS = 5
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


@dataclasses.dataclass(frozen=True)
class Place:
  """Where one of their tensors lives in our variables.

  Attributes:
    key: name in their state dict.
    shape: shape there.
    path: of our leaf, collection first.
    level: element of our leaf, where theirs is one of several scalars.
  """

  key: str
  shape: tuple[int, ...]
  path: tuple[str, ...]
  level: int | None = None

  @property
  def target(self) -> str:
    """Our name, for reports."""
    suffix = '' if self.level is None else f'[{self.level}]'
    return '/'.join(self.path[1:]) + suffix


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
    for theirs, ours in (
      ('weight', 'scale'),
      ('bias', 'bias'),
      ('running_mean', 'mean'),
      ('running_var', 'var'),
    ):
      yield Place(
        f'{prefix}.{norm}.{theirs}',
        tensor.shape[:1],
        ('batch_stats', *tensor.path, tensor.norm, ours),
      )


def _conv(key: str, shape: tuple[int, ...], *path: str) -> Iterator[Place]:
  yield Place(f'{key}.weight', shape, ('params', *path, 'kernel'))
  yield Place(f'{key}.bias', shape[:1], ('params', *path, 'bias'))


def _fpn_places(sizes: Sizes) -> Iterator[Place]:
  width = sizes.channels
  for level, channels in enumerate(sizes.backbone.out_channels, start=3):
    prefix = 'backbone.fpn.fpn_'
    yield from _conv(
      f'{prefix}inner{level - 1}', (width, channels, 1, 1), 'fpn', f'lateral{level}'
    )
    yield from _conv(
      f'{prefix}layer{level - 1}', (width, width, 3, 3), 'fpn', f'output{level}'
    )
  for name in ('p6', 'p7'):
    yield from _conv(
      f'backbone.fpn.top_blocks.{name}', (width, width, 3, 3), 'fpn', name
    )


def _head_places(sizes: Sizes) -> Iterator[Place]:
  width, head = sizes.channels, 'rpn.head'
  for ours, theirs in _TOWERS.items():
    for i in range(sizes.depth):
      tower = f'{head}.{theirs}_tower'
      yield from _conv(
        f'{tower}.{3 * i}', (width, width, 3, 3), 'head', ours, f'conv{i}'
      )
      for name, leaf in (('weight', 'scale'), ('bias', 'bias')):
        norm = ('params', 'head', ours, f'norm{i}', leaf)
        yield Place(f'{tower}.{3 * i + 1}.{name}', (width,), norm)
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
    yield from _conv(f'{head}.{theirs}', shape, 'head', ours)
  for ours, theirs in _SCALES.items():
    if ours == 'box_scale' or preset.margin == 'per_dimension':
      for level in range(_LEVELS):
        path = ('params', 'head', ours)
        yield Place(f'{head}.{theirs}.{level}.scale', (1,), path, level)
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
  variables: dict[str, Any] = {}
  vectors: dict[tuple[str, ...], list[np.ndarray]] = {}
  for place in places(sizes):
    array = ledger.take(place.key, place.shape, place.target)
    if place.level is not None:
      vectors.setdefault(place.path, []).append(array)
    elif place.path[-1] == 'position_scale':
      set_leaf(variables, place.path, array.reshape(()))
    else:
      set_leaf(variables, place.path, to_ours(array))
  for path, parts in vectors.items():
    set_leaf(variables, path, np.concatenate(parts))
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
  result = {}
  used = set()
  for place in places(_sizes_of_variables(variables)):
    used.add(place.path)
    if not has_leaf(variables, place.path):
      raise UserError(
        f"{'/'.join(place.path)} is missing: only models with norm='frozen_bn' can be "
        f"written in the authors' layout"
      )
    leaf = np.asarray(get_leaf(variables, place.path), np.float32)
    if place.level is not None:
      leaf = leaf[place.level]
    array = to_theirs(leaf).reshape(place.shape)
    result[place.key] = np.ascontiguousarray(array)
  extra = [path for path in leaf_paths(variables) if path not in used]
  if extra:
    raise UserError(
      f'{len(extra)} parameters, the first of them {"/".join(extra[0])}, have no '
      f"place in the authors' layout"
    )
  return result


def strip_module(state_dict: Mapping[str, Any]) -> dict[str, Any]:
  """Drops the `module.` of distributed training, if all the names have it."""
  if state_dict and all(name.startswith('module.') for name in state_dict):
    return {name.removeprefix('module.'): v for name, v in state_dict.items()}
  return dict(state_dict)


def to_ours(array: np.ndarray) -> np.ndarray:
  """Returns a kernel [O, I, H, W] as [H, W, I, O]; other arrays as they are."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def to_theirs(array: np.ndarray) -> np.ndarray:
  """Returns a kernel [H, W, I, O] as [O, I, H, W]; other arrays as they are."""
  return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def _in_tower(name: str) -> re.Match[str] | None:
  return re.match(_TOWER, name)


def _sizes_of_state_dict(tensors: Mapping[str, Any]) -> Sizes:
  def channels(key: str, default: int) -> int:
    shape = np.shape(tensors.get(key, 0))
    return shape[0] if shape else default

  return Sizes(
    backbone=Backbone(
      blocks=count_blocks(tensors, _BLOCK),
      bottleneck=any(re.match(_BLOCK + 'conv3', name) for name in tensors),
      width=channels('backbone.body.stem.conv1.weight', 64),
    ),
    num_classes=channels('rpn.head.cls_logits.bias', 80),
    channels=channels('backbone.fpn.fpn_layer2.bias', 256),
    # Convolution, norm, ReLU: three numbers each.
    depth=max((int(m[1]) // 3 + 1 for m in map(_in_tower, tensors) if m), default=4),
    embedding_dim=sum(
      channels(f'rpn.head.pixel_{part}embed_pred.bias', 0)
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
    depth=sum(name.startswith('conv') for name in head['class_tower']),
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


def _preset_of(*, has_coordinates: bool, has_margin_scales: bool) -> str:
  if not has_coordinates:
    return '2019'
  return '2021' if has_margin_scales else '2020'
