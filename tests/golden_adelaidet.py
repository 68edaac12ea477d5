"""AdelaiDet's records under the names that those of the first code base have.

Classes count from 1 here as there, losses come in our order, head outputs and
gradients under one name each. What has no counterpart keeps its name.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from embedmask_jax.ops.locations import level_shapes, locations

CLASSES = 80
# class, box, centerness, mask, semantic of [sem, cls, loc, ctr, mask].
_LOSS_ORDER = [1, 2, 3, 4, 0]
_REORDERED = ('losses', 'losses_noise', 'losses_spread', 'grad_norm_per_loss')
# The sum of centerness targets is floored at this.
_FLOOR = 1e-6
# The sizes of the embedding in `top_feats`; the margin follows.
_DIMS = 16


def translate(record: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A record's arrays by the common names."""
  found = dict(arrays)
  for name in _REORDERED:
    if name in found:
      found[name] = found[name][..., _LOSS_ORDER]
  if record.startswith('post_'):
    _translate_detections(found)
  elif record.endswith('_head'):
    _translate_heads(found)
  elif record.startswith('loss_'):
    _translate_losses(found)
  elif record.startswith('t_'):
    found['lr_weight_bias'] = np.stack([found.pop('lr')] * 2, axis=-1)
  return found


def translate_index(index: Any) -> Any:
  """Instances and images of an index as the first code base has them."""
  if isinstance(index, list):
    return [translate_index(item) for item in index]
  if not isinstance(index, dict):
    return index
  found = {name: translate_index(item) for name, item in index.items()}
  if 'polygons' in found and 'class' in found:
    found['label'] = found['class'] + 1
  if 'base_lr' in found:
    found['images'] = list(zip(found['files'], found['resized_hw'], strict=True))
  return found


def _translate_heads(found: dict[str, np.ndarray]) -> None:
  for name in list(found):
    if match := re.fullmatch(r'(d_)?top_feats_(P\d)', name):
      array, prefix = found.pop(name), 'grad_' if match[1] else ''
      found[f'{prefix}proposal_embed_{match[2]}'] = array[:, :_DIMS]
      found[f'{prefix}proposal_margin_{match[2]}'] = array[:, _DIMS:]
    elif name.startswith('d_'):
      found[name.replace('d_', 'grad_', 1)] = found.pop(name)


def _translate_losses(found: dict[str, np.ndarray]) -> None:
  canvas = tuple(int(side) for side in found['input_shape'][2:])
  first = 0
  matched = np.full(found['labels'].shape, -1, np.int64)
  for i, size in enumerate(found['image_sizes_hw']):
    boxes = found.pop(f'im{i}_gt_boxes')
    found[f'im{i}_boxes'] = boxes
    found[f'im{i}_labels'] = found.pop(f'im{i}_gt_classes') + 1
    bits = np.unpackbits(
      found.pop(f'im{i}_masks_full'), axis=-1, count=canvas[0] * canvas[1]
    )
    masks = bits.reshape(len(boxes), *canvas)[:, : size[0], : size[1]]
    flat = masks.reshape(len(boxes), size[0] * size[1])
    found[f'im{i}_masks'] = np.packbits(flat, axis=-1)
    is_positive = found['labels'][i] < CLASSES
    matched[i] = np.where(is_positive, found['target_inds'][i] - first, -1)
    first += len(boxes)
  found['matched'] = matched
  found['labels'] = np.where(found['labels'] < CLASSES, found['labels'] + 1, 0)
  found['centerness_targets'] = found.pop('pos_ctrness_targets')
  total = found.pop('loss_denorm')
  found['sum_centerness'] = np.where(total > _FLOOR, total, 0)


def _translate_detections(found: dict[str, np.ndarray]) -> None:
  canvas = tuple(int(side) for side in found['padded_hw'])
  found['mask_grid_hw'] = found['padded_hw'] // 4
  starts = np.cumsum([0] + [rows * columns for rows, columns in level_shapes(canvas)])
  points = locations(canvas)
  for i, (height, width) in enumerate(found['image_sizes_hw']):
    if f'im{i}_kept' not in found:
      continue
    kept = found.pop(f'im{i}_kept')
    boxes = found.pop(f'im{i}_boxes_input')[kept]
    found[f'im{i}_boxes_in_original'] = found[f'im{i}_boxes']
    limit = np.array([width, height] * 2, np.float32)
    found[f'im{i}_boxes'] = np.clip(boxes, 0, limit)
    found[f'im{i}_scores'] = found[f'im{i}_scores'][kept]
    found[f'im{i}_labels'] = found.pop(f'im{i}_classes')[kept] + 1
    place, level = found.pop(f'im{i}_locations'), found.pop(f'im{i}_fpn_levels')
    index = [
      start + np.flatnonzero((points[start:stop] == point).all(axis=1))[0]
      for point, start, stop in zip(
        place, starts[level], starts[level + 1], strict=True
      )
    ]
    found[f'im{i}_loc_index'] = np.array(index, np.int64)[kept]
    for name in ('embed', 'margin'):
      key = f'im{i}_proposal_{name}'
      found[key] = found[key][kept]
    if not len(kept):
      found[f'im{i}_coco_mask_area'] = np.zeros(0, np.int64)
      continue
    found[f'im{i}_coco_mask_area'] = found.pop(f'im{i}_mask_area')
    found[f'im{i}_mask_cells'] = found.pop(f'im{i}_mask_cells_s4')[kept]
    if f'im{i}_masks' in found:
      masks = found.pop(f'im{i}_masks')
      found[f'im{i}_top'] = np.arange(len(masks))
      found[f'im{i}_top_coco_masks'] = masks
    if f'im{i}_prob_s4' in found:
      shown = np.flatnonzero(kept < len(found[f'im{i}_prob_s4']))
      found[f'im{i}_half_rows'] = shown
      found[f'im{i}_half_prob'] = found.pop(f'im{i}_prob_s4')[kept[shown]]
