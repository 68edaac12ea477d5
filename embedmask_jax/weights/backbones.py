"""ImageNet weights for the backbone: caffe2's (MSRA) and torchvision's.

Both were trained with batch norm, and both know R-50 as (3, 4, 6, 3) blocks; they
differ in everything around:

* MSRA `R-50.pkl`, `R-101.pkl`: BGR input 0..255 minus the mean (102.9801, 115.9465,
  122.7717), for which AdelaiDet takes (103.53, 116.28, 123.675); stride on the 1x1
  convolution. Batch norms are reduced to a scale and a bias, which we store with mean
  0 and variance 1.
* torchvision `resnet18/34/50/101`: RGB input 0..1, minus a mean, divided by a
  standard deviation per channel; stride on the 3x3 convolution; batch norms with
  epsilon 1e-5. Ours reads BGR 0..255 minus `pixel_mean`, and its frozen batch norm
  has no epsilon. So the stem's kernel is turned round in its input channels and
  divided by 255 times the deviations, which keeps `pixel_std` at 1, and the epsilon
  is added to the stored variances. The mean cannot be moved into the weights (the
  padding around the image is zero *after* it is taken off), so `pixel_mean` must be
  255 times torchvision's, (103.53, 116.28, 123.675). All this is exact.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.weights.architecture import (
  Backbone,
  BlockTensor,
  backbone_of,
  count_blocks,
  msra_settings,
  name_of,
)
from embedmask_jax.weights.places import strip_module, to_ours
from embedmask_jax.weights.report import Ledger, WeightReport
from embedmask_jax.weights.tree import copy_tree, has_leaf, leaf_paths, set_leaf

TORCHVISION_SETTINGS: dict[str, Any] = {
  'stride_in_1x1': False,
  'norm': 'frozen_bn',
  'pixel_mean': (103.53, 116.28, 123.675),
  'pixel_std': (1.0, 1.0, 1.0),
}
# https://docs.pytorch.org/vision/stable/models.html: of RGB in 0..1.
_TORCHVISION_STD = np.array([0.229, 0.224, 0.225])
_TORCHVISION_EPSILON = 1e-5

# Their stages are numbered 2..5.
_MSRA_BLOCK = r'res(\d)_(\d+)_branch2'
_TORCHVISION_BLOCK = r'layer(\d)\.(\d+)\.'
_UNUSED = {
  'fc.weight': 'the ImageNet classifier',
  'fc.bias': 'the ImageNet classifier',
  'fc1000_w': 'the ImageNet classifier',
  'fc1000_b': 'the ImageNet classifier',
  'pred_w': 'the ImageNet classifier',
  'pred_b': 'the ImageNet classifier',
  'num_batches_tracked': 'a counter of live batch norm',
  'conv1_b': 'the stem has no bias',
  '_momentum': 'state of an optimiser',
  'weight_order': 'a list of names',
  '_bn_rm': 'a statistic that the scale and bias already hold',
  '_bn_riv': 'a statistic that the scale and bias already hold',
}


def import_backbone(
  state_dict: Mapping[str, np.ndarray],
  variables: Mapping[str, Any],
  *,
  preset: str = '2021',
) -> tuple[dict[str, Any], WeightReport]:
  """Puts ImageNet weights into the backbone of a model.

  Args:
    state_dict: tensors of an MSRA or torchvision file by name, OIHW.
    variables: {'params', 'batch_stats'} of the model, which is left as it is.
    preset: of the model, which decides the mean that goes with MSRA's weights.

  Returns:
    New variables, the rest of the network as it was, and the account, whose
    `settings` the config must have for the weights to mean what they meant.

  Raises:
    UserError: neither kind of file, another architecture than the model's, tensors
      missing or of the wrong shape, or a model without batch norm.
  """
  tensors = strip_module(state_dict)
  backbone = backbone_of(variables['params']['backbone'])
  if 'conv1_w' in tensors:
    _check_blocks(count_blocks(tensors, _MSRA_BLOCK, first_stage=2), backbone)
    return _import(tensors, variables, backbone, _Msra(preset))
  if 'conv1.weight' in tensors and 'layer1.0.conv1.weight' in tensors:
    _check_blocks(count_blocks(tensors, _TORCHVISION_BLOCK), backbone)
    return _import(tensors, variables, backbone, _Torchvision())
  raise UserError(
    'not an ImageNet backbone: neither caffe2 names (conv1_w) nor torchvision names '
    f'(conv1.weight, layer1.0.conv1.weight) among its {len(tensors)}, the first of '
    f'them {", ".join(list(tensors)[:3]) or "none"}'
  )


class _Msra:
  """Names and meaning of a caffe2 file's tensors."""

  what = 'an MSRA backbone like the one of the config'
  epsilon = 0.0

  def __init__(self, preset: str):
    self.settings = msra_settings(preset)

  def conv(self, tensor: BlockTensor) -> str:
    return f'{self._prefix(tensor)}_w'.replace('res_conv1', 'conv1')

  def norm(self, tensor: BlockTensor) -> dict[str, str]:
    return {
      'scale': f'{self._prefix(tensor)}_bn_s',
      'bias': f'{self._prefix(tensor)}_bn_b',
    }

  def _prefix(self, tensor: BlockTensor) -> str:
    if tensor.stage is None:
      return 'res_conv1'
    branch = {'shortcut': '1', 'conv1': '2a', 'conv2': '2b', 'conv3': '2c'}
    return f'res{tensor.stage + 1}_{tensor.block}_branch{branch[tensor.name]}'

  def stem(self, kernel: np.ndarray) -> np.ndarray:
    return kernel


class _Torchvision:
  """Names and meaning of a torchvision state dict's tensors."""

  what = 'a torchvision backbone like the one of the config'
  settings = TORCHVISION_SETTINGS
  epsilon = _TORCHVISION_EPSILON

  def conv(self, tensor: BlockTensor) -> str:
    if tensor.name == 'shortcut':
      return f'{self._prefix(tensor)}downsample.0.weight'
    return f'{self._prefix(tensor)}conv{self._number(tensor)}.weight'

  def norm(self, tensor: BlockTensor) -> dict[str, str]:
    name = 'downsample.1' if tensor.name == 'shortcut' else f'bn{self._number(tensor)}'
    prefix = f'{self._prefix(tensor)}{name}'
    return {
      'scale': f'{prefix}.weight',
      'bias': f'{prefix}.bias',
      'mean': f'{prefix}.running_mean',
      'var': f'{prefix}.running_var',
    }

  def _prefix(self, tensor: BlockTensor) -> str:
    return '' if tensor.stage is None else f'layer{tensor.stage}.{tensor.block}.'

  def _number(self, tensor: BlockTensor) -> str:
    return tensor.name.removeprefix('conv') or '1'

  def stem(self, kernel: np.ndarray) -> np.ndarray:
    scaled = kernel / (255 * _TORCHVISION_STD)[:, None, None]
    return scaled[:, ::-1].astype(np.float32)


def _import(
  tensors: Mapping[str, np.ndarray],
  variables: Mapping[str, Any],
  backbone: Backbone,
  layout: _Msra | _Torchvision,
) -> tuple[dict[str, Any], WeightReport]:
  result = copy_tree(variables)
  ledger = Ledger(tensors, what=layout.what)
  filled = []
  for tensor in backbone.tensors():
    kernel_path = ('params', *tensor.path, tensor.conv, 'kernel')
    kernel = ledger.take(layout.conv(tensor), tensor.shape, '/'.join(kernel_path[1:]))
    if tensor.stage is None:
      kernel = layout.stem(kernel)
    set_leaf(result, kernel_path, to_ours(kernel))
    names = layout.norm(tensor)
    for leaf, value in (('scale', 1), ('bias', 0), ('mean', 0), ('var', 1)):
      path, epsilon_inside = _norm_leaf(variables, tensor, leaf)
      target = '/'.join(path[1:])
      if leaf in names:
        array = ledger.take(names[leaf], tensor.shape[:1], target)
        if leaf == 'var' and not epsilon_inside:
          array = array + np.float32(layout.epsilon)
      else:
        array = np.full(tensor.shape[:1], value, np.float32)
        filled.append((target, str(value)))
      set_leaf(result, path, array)
  untouched = tuple(
    '/'.join(path[1:]) for path in leaf_paths(variables) if path[1] != 'backbone'
  )
  report = ledger.close(
    reasons=_UNUSED,
    otherwise='no such tensor in this backbone',
    filled=tuple(filled),
    untouched=untouched,
    settings={'backbone': name_of(backbone), **_without_norm(layout, variables)},
  )
  return result, report


def _norm_leaf(
  variables: Mapping[str, Any], tensor: BlockTensor, leaf: str
) -> tuple[tuple[str, ...], bool]:
  """Returns the path of a normalisation's leaf, and whether it adds an epsilon."""
  frozen = ('batch_stats', *tensor.path, tensor.norm)
  live = ('params', *tensor.path, tensor.norm)
  if not has_leaf(variables, (*frozen, 'var')):
    raise UserError(
      'ImageNet weights come with batch norm, and this backbone has none: set '
      "model.norm='frozen_bn', or train from scratch"
    )
  is_live = has_leaf(variables, (*live, 'scale'))
  in_params = is_live and leaf in ('scale', 'bias')
  return (*(live if in_params else frozen), leaf), is_live


def _without_norm(
  layout: _Msra | _Torchvision, variables: Mapping[str, Any]
) -> dict[str, Any]:
  """The settings, less the kind of norm where the model has a live batch norm."""
  settings = dict(layout.settings)
  if has_leaf(variables, ('params', 'backbone', 'stem', 'norm', 'scale')):
    del settings['norm']
  return settings


def _check_blocks(found: tuple[int, int, int, int], backbone: Backbone) -> None:
  if found != backbone.blocks:
    raise UserError(
      f'the file has {found} blocks in its four stages, the model '
      f'{backbone.blocks} ({name_of(backbone)}): set model.backbone to match'
    )
