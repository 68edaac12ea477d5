"""Reading a golden folder, with account of what has been read."""

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import golden_adelaidet
import golden_rule
import jax.numpy as jnp
import numpy as np
from golden_table import NOISE, Report
from ml_collections import ConfigDict

from embedmask_jax.errors import UserError
from embedmask_jax.ops.locations import STRIDES, level_shapes
from embedmask_jax.presets import PRESETS, Preset
from embedmask_jax.structures import HeadOutputs

# Their names of the head outputs -> ours.
FIELDS = {
  'logits': 'class_logits',
  'bbox_reg': 'box_regression',
  'centerness': 'centerness',
  'proposal_embed': 'proposal_embedding',
  'proposal_margin': 'margin',
  'pixel_embed': 'pixel_embedding',
  'sem_logits': 'semantic_logits',
}
# The commit that a README names -> the preset that is to give the same numbers.
_REVISIONS = {
  'be2885b': '2019_released',
  '28427b6': '2020',
  'e9465cb': '2021',
  '94a9b7c': 'adelaidet',
}
_CONFIGS = {'R50': 'r50_1x', 'R101': 'r101_ms_3x'}
# Arrays that a note names.
_SHOWN = 6
LEVELS = tuple(f'P{level}' for level in range(3, 8))
# 'R50 seed 13 (loss_l1, l2): 1311...' or 'R50_seed41 f769...'.
_DIGEST = r'(R\d+)[ _]seed ?(\d+)(?: \([^)]*\))?:? ([0-9a-f]{64})'
# Names of arrays that are not compared (beginnings, regular expressions), and why.
UNUSED = {
  'pp_': 'POSTPROCESS_MASKS=True, off in all configs',
  '(linear_)?iou_(sum|grad|each)': 'an IoU loss that no preset uses',
  'tf_polys_flipped': 'coordinates inside the rasteriser; they show in its masks',
  'n_after_topk': 'a number inside the selection, which shows in what is selected',
  'orig_sizes_hw': 'repeated in the post-processing record',
  r'im\d+_iou_gap': 'no result: how close a choice was',
  'mask_loss_per_positive': 'their mean is the mask loss',
  '(mask_prob_s4|sem_logits)_sub': 'shows in the losses',
  'pos_|target_inds': 'what the other arrays of the record say, by positive',
  r'padded_hw|im\d+_prob_s8|n_detections': 'a number on the way to others',
  'mask_pred_iter_after|.*num_batches_tracked': 'a counter',
  'bn_names': 'names of arrays',
  'dice': 'a loss that no config uses',
  'nms2|cs_first_mask_empty': 'an accident that is not to be matched',
  'loc(ations|map)_s': 'coordinates, which forward records list, too',
  r'step\d+': 'a step at which chaos has set in',
}


class Arrays:
  """The arrays of one `.npz`; remembers which were asked for."""

  def __init__(self, name: str, arrays: dict[str, np.ndarray]):
    self._arrays = arrays
    self.read: set[str] = set()
    self.name = name

  def __contains__(self, name: str) -> bool:
    return name in self._arrays

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._arrays:
      raise UserError(f'{self.name}.npz has no array {name}')
    self.read.add(name)
    return self._arrays[name]

  def get(self, name: str) -> np.ndarray | None:
    """An array that a record may lack."""
    if name not in self:
      return None
    return self[name]

  def names(self, pattern: str = '') -> list[str]:
    """The names that match a regular expression as a whole, in order."""
    return [name for name in self._arrays if re.fullmatch(pattern or '.*', name)]

  def levels(self, name: str) -> list[np.ndarray]:
    """The arrays of P3..P7."""
    return [self[f'{name}_{level}'] for level in LEVELS]


class GoldenSet:
  """A folder of records."""

  def __init__(self, folder: str | Path):
    self.folder = Path(folder)
    if not self.folder.is_dir():
      raise UserError(f'{folder}: no such folder')
    self._arrays: dict[str, Arrays] = {}
    self._json: dict[str, Any] = {}

  @cached_property
  def preset_name(self) -> str:
    """Whose numbers these are; '2021' where the folder does not say."""
    readme = self.folder / 'README.md'
    text = readme.read_text() if readme.exists() else ''
    return next((name for key, name in _REVISIONS.items() if key in text), '2021')

  @property
  def is_adelaidet(self) -> bool:
    """Whether the records are in the form of the second code base."""
    return self.preset_name == 'adelaidet'

  @property
  def preset(self) -> Preset:
    return PRESETS[self.preset_name]

  @cache  # noqa: B019  # sets are few and live as long as the program
  def config(self, arch: str = 'R50') -> ConfigDict:
    """The config of the preset for an architecture, 'R50' or 'R101'."""
    name = self.preset_name.removesuffix('_released')
    config = importlib.import_module(f'configs.coco_{name}_{_CONFIGS[arch]}')
    config = config.get_config()
    config.model.preset = self.preset_name
    return config

  def has(self, name: str) -> bool:
    return (self.folder / name).exists()

  def arrays(self, name: str) -> Arrays:
    """The record `name.npz`."""
    if name not in self._arrays:
      path = self.folder / f'{name}.npz'
      if not path.exists():
        raise UserError(f'{path}: no such file')
      with np.load(path) as content:
        arrays = dict(content)
      if self.is_adelaidet:
        arrays = golden_adelaidet.translate(name, arrays)
      self._arrays[name] = Arrays(name, arrays)
    return self._arrays[name]

  def json(self, name: str) -> Any:
    """The content of `name.json`, an empty dict where there is none."""
    if name not in self._json:
      path = self.folder / f'{name}.json'
      if not path.exists():
        return {}
      content = json.loads(path.read_text())
      if self.is_adelaidet:
        content = golden_adelaidet.translate_index(content)
      self._json[name] = content
    return self._json[name]

  def records(self, pattern: str) -> Iterator[str]:
    """The names of `.npz` files that match a regular expression as a whole."""
    for path in sorted(self.folder.glob('*.npz')):
      if re.fullmatch(pattern, path.stem):
        yield path.stem

  def noise(self) -> dict[str, float]:
    """The original's own float32 error by array, the largest of all records."""
    noise: dict[str, float] = {}
    content = self.json('forward_float64_diff')
    # One record for all, or one for each case.
    records = [content] if self.is_adelaidet else content.values()
    for record in records:
      for name, value in record.items():
        key = f'{name}_sub' if re.fullmatch(r'[CP]\d|mask_feats', name) else name
        noise[key] = max(noise.get(key, 0.0), value)
    return noise or NOISE

  def digests(self) -> dict[str, str]:
    """Digests of weights that indexes and README give, by name ('R50_seed11')."""
    found = {}
    readme = self.folder / 'README.md'
    if readme.exists():
      for arch, seed, value in re.findall(_DIGEST, readme.read_text()):
        found[f'{arch}_seed{seed}'] = value
    for index in ('forward_index', 'loss_index', 'traj_index'):
      content = self.json(index)
      found.update(content.get('digest', {}))
      for name, value in content.items():
        if name.startswith('digest_'):
          found[name.removeprefix('digest_')] = value
    return found

  def account(self, report: Report) -> None:
    """Fails what was not checked, and notes arrays that were not compared."""
    unread: dict[str, list[str]] = {}
    for path in sorted(self.folder.iterdir()):
      if path.suffix == '.json' and path.stem in self._json:
        continue
      if path.suffix == '.npz' and path.stem in self._arrays:
        arrays = self._arrays[path.stem]
        for name in set(arrays.names()) - arrays.read:
          unread.setdefault(name, []).append(path.stem)
        if arrays.read:
          continue
      if path.suffix != '.md':
        report.fail(f'{path.name}: not checked')
    reasons: dict[str, list[str]] = {}
    for name, records in sorted(unread.items()):
      reason = next((r for key, r in UNUSED.items() if re.match(key, name)), 'unknown')
      reasons.setdefault(reason, []).append(f'{name} of {", ".join(records)}')
    for reason, names in reasons.items():
      shown = '; '.join(names[:_SHOWN]) + ('; ...' if len(names) > _SHOWN else '')
      report.note(f'{len(names)} arrays not compared ({reason}): {shown}')


def canvas_of(arrays: Arrays) -> tuple[int, int]:
  """(H, W) of the padded network input."""
  _, _, height, width = arrays['input_shape']
  return int(height), int(width)


def tight_canvas(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
  """(H, W) of the smallest canvas that holds images of these sizes (h, w)."""
  height, width = (-(-max(sides) // 32) * 32 for sides in zip(*sizes, strict=True))
  return height, width


def head_outputs(arrays: Arrays, *, is_in_pixels: bool = False) -> HeadOutputs:
  """Stored head outputs (NCHW by level) as ours.

  Args:
    arrays: a forward or loss-head record.
    is_in_pixels: the regression was multiplied by the stride (eval mode).
  """
  regression = [
    level / stride if is_in_pixels else level
    for level, stride in zip(arrays.levels('bbox_reg'), STRIDES, strict=True)
  ]
  return HeadOutputs(
    class_logits=flat(arrays.levels('logits')),
    box_regression=flat(regression),
    centerness=flat(arrays.levels('centerness'))[..., 0],
    proposal_embedding=flat(arrays.levels('proposal_embed')),
    margin=flat(arrays.levels('proposal_margin')),
    pixel_embedding=jnp.asarray(arrays['pixel_embed'].transpose(0, 2, 3, 1)),
    semantic_logits=(
      jnp.asarray(arrays['sem_logits'].transpose(0, 2, 3, 1))
      if 'sem_logits' in arrays
      else None
    ),
  )


def flat(levels: list[np.ndarray]) -> Any:
  """[B, P, channels] from arrays [B, channels, rows, columns] of P3..P7."""
  parts = [level.transpose(0, 2, 3, 1) for level in levels]
  parts = [part.reshape(len(part), -1, part.shape[-1]) for part in parts]
  return jnp.asarray(np.concatenate(parts, axis=1))


def by_level(array: Any, canvas: tuple[int, int]) -> list[np.ndarray]:
  """The inverse of `flat`: [B, channels, rows, columns] of P3..P7 (or [B, P])."""
  array = np.asarray(array)
  if array.ndim == 2:
    array = array[..., None]
  levels, start = [], 0
  for rows, columns in level_shapes(canvas):
    part = array[:, start : start + rows * columns]
    part = part.reshape(len(array), rows, columns, -1)
    levels.append(part.transpose(0, 3, 1, 2))
    start += rows * columns
  return levels


def pad_images(images: list[np.ndarray], canvas: tuple[int, int]) -> np.ndarray:
  """uint8 [B, H, W, 3] from images of different sizes, zeros around them."""
  padded = np.zeros((len(images), *canvas, 3), np.uint8)
  for row, image in zip(padded, images, strict=True):
    row[: image.shape[0], : image.shape[1]] = image
  return padded


def images_of(
  arrays: Arrays, names: list[str], sizes: list[tuple[int, int]]
) -> list[np.ndarray]:
  """The images of a record: stored, or drawn where they are 'formula:<seed>'.

  Raises:
    UserError: neither.
  """
  images = []
  for i, (name, (height, width)) in enumerate(zip(names, sizes, strict=True)):
    if f'im{i}_rgb' in arrays:
      images.append(arrays[f'im{i}_rgb'])
    elif name.startswith('formula:'):
      seed = int(name.split(':')[1])
      images.append(golden_rule.formula_image(seed, int(height), int(width)))
    else:
      raise UserError(
        f'{arrays.name}.npz: image {name} is neither stored nor a formula'
      )
  return images
