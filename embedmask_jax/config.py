"""What a config may hold: its fields, their allowed values, and its JSON form."""

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from embedmask_jax.errors import UserError
from embedmask_jax.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class Rule:
  """Which values a field takes: in words, and as a test."""

  allowed: str
  holds: Callable[[Any], bool]


def _is_int(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
  return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _one_of(*names: str) -> Rule:
  return Rule(' or '.join(repr(name) for name in names), lambda v: v in names)


def _integer(low: int, high: int | None = None) -> Rule:
  words = f'an integer from {low} up' if high is None else f'an integer {low} to {high}'
  return Rule(words, lambda v: _is_int(v) and v >= low and (high is None or v <= high))


def _is_tuple_of(value: Any, test: Callable[[Any], bool]) -> bool:
  return isinstance(value, tuple) and all(test(item) for item in value)


def _is_ascending(value: tuple) -> bool:
  return all(a < b for a, b in itertools.pairwise(value))


def _is_pair(value: Any, test: Callable[[int], bool]) -> bool:
  return _is_tuple_of(value, lambda v: _is_int(v) and test(v)) and len(value) == 2


_TEXT = Rule('a string', lambda v: isinstance(v, str))
_FLAG = Rule('True or False', lambda v: isinstance(v, bool))
_NOT_NEGATIVE = Rule('a number, 0 or more', lambda v: _is_number(v) and v >= 0)
_POSITIVE = Rule('a number above 0', lambda v: _is_number(v) and v > 0)
_FRACTION = Rule('a number 0 to 1', lambda v: _is_number(v) and 0 <= v <= 1)
_PER_CHANNEL = 'three numbers, for blue, green and red'
_METRIC = re.compile(r'(segm|bbox)/(AP(50|75|[sml])?|AR(\d+|[sml])|AP/.+)')
_SIZES = Rule(
  'ascending integers above 0, at least one',
  lambda v: _is_tuple_of(v, lambda i: _is_int(i) and i > 0) and v and _is_ascending(v),
)

FIELDS: Mapping[str, Rule] = {
  'seed': _integer(0),
  'model.preset': _one_of(*PRESETS),
  'model.backbone': _one_of('resnet18', 'resnet34', 'resnet50', 'resnet101'),
  'model.backbone_width': _integer(1),
  'model.stride_in_1x1': _FLAG,
  'model.norm': _one_of('frozen_bn', 'group', 'batch'),
  'model.frozen_stages': _integer(0, 5),
  'model.mask_branch_norm': _one_of('batch', 'frozen_bn'),
  'model.fpn_channels': _integer(1),
  'model.head_channels': _integer(1),
  'model.head_depth': _integer(1),
  'model.embedding_dim': _integer(3),
  'model.dtype': _one_of('float32', 'bfloat16'),
  'model.pixel_mean': Rule(
    _PER_CHANNEL, lambda v: _is_tuple_of(v, _is_number) and len(v) == 3
  ),
  'model.pixel_std': Rule(
    f'{_PER_CHANNEL}, above 0',
    lambda v: _is_tuple_of(v, lambda x: _is_number(x) and x > 0) and len(v) == 3,
  ),
  'model.prior_probability': Rule(
    'a number between 0 and 1, both excluded', lambda v: _is_number(v) and 0 < v < 1
  ),
  'data.train.annotations': _TEXT,
  'data.train.images': _TEXT,
  'data.eval.annotations': _TEXT,
  'data.eval.images': _TEXT,
  'data.generated.enabled': _FLAG,
  'data.generated.train_images': _integer(1),
  'data.generated.eval_images': _integer(1),
  'data.generated.image_size': _integer(64),
  'data.generated.seed': _integer(0),
  'data.short_sides': _SIZES,
  'data.long_side': _integer(1),
  'data.eval_short_side': _integer(1),
  'data.flip_probability': _FRACTION,
  'data.crop_size': Rule(
    '() or (height, width)', lambda v: v == () or _is_pair(v, lambda i: i > 0)
  ),
  'data.scale_jitter': Rule(
    '() or two numbers (low, high) above 0, ascending or equal',
    lambda v: (
      v == () or (_is_tuple_of(v, _is_number) and len(v) == 2 and 0 < v[0] <= v[1])
    ),
  ),
  'data.copy_paste_probability': _FRACTION,
  'data.canvases': Rule(
    '() or pairs (height, width) of multiples of 32',
    lambda v: _is_tuple_of(
      v, lambda pair: _is_pair(pair, lambda i: i > 0 and i % 32 == 0)
    ),
  ),
  'data.instance_ladder': _SIZES,
  'data.min_box_side': _NOT_NEGATIVE,
  'data.workers': _integer(0),
  'data.prefetch': _integer(0),
  'data.max_worker_deaths': _integer(0),
  'train.batch_size': _integer(1),
  'train.steps': _integer(1),
  'train.accumulation_steps': _integer(1),
  'train.remat': _one_of('none', 'blocks', 'stages'),
  'train.ema_decay': Rule(
    'a number from 0 to below 1', lambda v: _is_number(v) and 0 <= v < 1
  ),
  'train.log_every': _integer(1),
  'train.eval_every': _integer(0),
  'train.checkpoint_every': _integer(1),
  'optim.name': _one_of('sgd', 'adamw'),
  'optim.learning_rate': _POSITIVE,
  'optim.reference_batch_size': _integer(0),
  'optim.weight_decay': _NOT_NEGATIVE,
  'optim.norm_decay_multiplier': _NOT_NEGATIVE,
  'optim.momentum': _FRACTION,
  'optim.momentum_dtype': _one_of('float32', 'bfloat16'),
  'optim.bias_rate_multiplier': _NOT_NEGATIVE,
  'optim.bias_weight_decay': _NOT_NEGATIVE,
  'optim.warmup_steps': _integer(0),
  'optim.warmup': _one_of('constant', 'linear'),
  'optim.warmup_factor': _FRACTION,
  'optim.schedule': _one_of('step', 'cosine'),
  'optim.milestones': Rule(
    'ascending integers above 0, or ()', lambda v: v == () or bool(_SIZES.holds(v))
  ),
  'optim.decay_factor': _FRACTION,
  'optim.clip_norm': _NOT_NEGATIVE,
  'eval.batch_size': _integer(1),
  'eval.score_threshold': _FRACTION,
  'eval.pre_nms_top_k': _integer(1),
  'eval.nms_threshold': _FRACTION,
  'eval.max_detections': _integer(1),
  'eval.max_dets': Rule(
    'three ascending integers above 0', lambda v: _SIZES.holds(v) and len(v) == 3
  ),
  'eval.mask_threshold': Rule(
    'a number between 0 and 1, both excluded', lambda v: _is_number(v) and 0 < v < 1
  ),
  'eval.mask_chunk': _integer(1),
  'eval.output_ladder': Rule(
    'pairs (height, width) above 0, widths multiples of 8, each holding the one '
    'before, at least one',
    lambda v: (
      _is_tuple_of(v, lambda pair: _is_pair(pair, lambda i: i > 0))
      and v
      and all(width % 8 == 0 for _, width in v)
      and all(
        small != large and small[0] <= large[0] and small[1] <= large[1]
        for small, large in itertools.pairwise(v)
      )
    ),
  ),
  'eval.num_overlays': _integer(0),
  'checkpoint.keep_last': _integer(1),
  'checkpoint.keep_best': _integer(0),
  'checkpoint.best_metric': Rule(
    "a key of metrics.json such as 'segm/AP' or 'bbox/AP50'",
    lambda v: isinstance(v, str) and bool(_METRIC.fullmatch(v)),
  ),
  'init.checkpoint': _TEXT,
}

# What the results of a checkpoint on given data depend on. Of `eval`, the others are a
# matter of memory, speed and pictures.
RESULT_FIELDS = (
  *('model.dtype', 'data.eval_short_side', 'data.long_side'),
  *(
    field
    for field in FIELDS
    if field.startswith('eval.')
    and field.split('.')[1]
    not in ('batch_size', 'mask_chunk', 'num_overlays', 'output_ladder')
  ),
)

# Fields that the first checkpoints lack -> what they stood at then.
_ADDED: Mapping[str, Any] = {
  'model.mask_branch_norm': 'batch',
  'data.max_worker_deaths': 0,
  'data.scale_jitter': (),
  'data.copy_paste_probability': 0.0,
  'train.ema_decay': 0.0,
  'train.remat': 'none',
  'optim.momentum_dtype': 'float32',
}


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """The fields as 'part.field' -> value, in the config's order."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, ConfigDict | Mapping):
      flat.update(flatten(value, f'{prefix}{name}.'))
    else:
      flat[prefix + name] = value
  return flat


def check_names(names: Iterable[str]) -> None:
  """Checks that 'part.field' names, or names of whole parts, exist.

  Raises:
    UserError: names the field and those that are spelt alike.
  """
  for name in names:
    if name in FIELDS or any(field.startswith(f'{name}.') for field in FIELDS):
      continue
    alike = difflib.get_close_matches(name, FIELDS, n=3, cutoff=0.7)
    hint = f'did you mean {" or ".join(alike)}? ' if alike else ''
    raise UserError(f'there is no config field {name}; {hint}see configs/base.py')


def validate_config(config: ConfigDict) -> None:
  """Checks every field, and what must hold between fields.

  Raises:
    UserError: an unknown or missing field, a value of the wrong type or out of
      range; names the field, the value and what is allowed.
  """
  flat = flatten(config)
  check_names(flat)
  if missing := sorted(set(FIELDS) - set(flat)):
    raise UserError(
      f'missing config field(s): {", ".join(missing)}; see configs/base.py'
    )
  for name, rule in FIELDS.items():
    if not rule.holds(flat[name]):
      raise UserError(f'config.{name} is {flat[name]!r}; must be {rule.allowed}')

  pixels = PRESETS[config.model.preset].pixels
  if config.model.mask_branch_norm != 'batch' and pixels != 'mask_branch':
    raise UserError(
      f'config.model.mask_branch_norm is {config.model.mask_branch_norm!r}, but '
      f'preset {config.model.preset} has no mask branch; leave it at batch'
    )
  longest = max((*config.data.short_sides, config.data.eval_short_side))
  if config.data.long_side < longest:
    raise UserError(
      f'config.data.long_side is {config.data.long_side}; must be at least the '
      f'largest short side, {longest}'
    )
  if config.data.scale_jitter and not config.data.crop_size:
    raise UserError(
      f'config.data.scale_jitter is {config.data.scale_jitter!r}, but images of any '
      'size fit no canvas: set config.data.crop_size, such as (512, 512), as well'
    )
  batch_size, parts = config.train.batch_size, config.train.accumulation_steps
  if batch_size % parts:
    raise UserError(
      f'config.train.batch_size is {batch_size}; must be a multiple of '
      f'config.train.accumulation_steps, {parts}'
    )


def to_json(config: ConfigDict) -> dict[str, Any]:
  """The config as nested dicts of JSON types (tuples become lists)."""

  def convert(value: Any) -> Any:
    if isinstance(value, ConfigDict | Mapping):
      return {name: convert(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
      return [convert(item) for item in value]
    return value

  return convert(config)


def from_json(stored: Mapping[str, Any]) -> ConfigDict:
  """The inverse of `to_json` (lists become tuples), with the fields added since."""

  def convert(value: Any) -> Any:
    if isinstance(value, Mapping):
      return ConfigDict({name: convert(item) for name, item in value.items()})
    if isinstance(value, list):
      return tuple(convert(item) for item in value)
    return value

  config = convert(stored)
  for name, value in _ADDED.items():
    part, field = name.split('.')
    if part in config and field not in config[part]:
      config[part][field] = value
  return config


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, str]:
  """The fields that differ, as 'part.field' -> 'old value -> new value'."""
  before, after = flatten(old), flatten(new)
  return {
    name: f'{before.get(name, "(absent)")!r} -> {after.get(name, "(absent)")!r}'
    for name in {**before, **after}
    if before.get(name) != after.get(name) or (name in before) != (name in after)
  }
