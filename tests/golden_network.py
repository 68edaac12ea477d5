"""The network with the rule's weights: features, head outputs, detections."""

from functools import cache, lru_cache

import golden_rule
import jax
import jax.numpy as jnp
import numpy as np
from golden_detections import (
  Sizes,
  compare_detections,
  decisions_in_doubt,
  detections_of,
  number_of,
)
from golden_post import case_of
from golden_rule import subsample
from golden_set import (
  FIELDS,
  LEVELS,
  Arrays,
  GoldenSet,
  by_level,
  canvas_of,
  images_of,
  pad_images,
)
from golden_table import FEATURES, OUTPUTS, Report, over

from embedmask_jax.models.embedmask import EmbedMask, normalise_images
from embedmask_jax.models.factory import build_model
from embedmask_jax.models.resnet import ARCHITECTURES
from embedmask_jax.ops.locations import STRIDES
from embedmask_jax.structures import HeadOutputs
from embedmask_jax.weights.adelaidet import import_adelaidet
from embedmask_jax.weights.authors import import_authors
from embedmask_jax.weights.tree import copy_tree

_FEATURE_SAMPLE = 512
# Ten times what the head outputs' noise does to class scores, IoUs, final scores.
_NOISE = (2e-5, 5e-4, 2e-5)


def model_of(golden: GoldenSet, arch: str) -> EmbedMask:
  """The paper's network, 'R50' or 'R101'."""
  return build_model(golden.config(arch).model, golden_rule.NUM_CLASSES)


# Weights of 140 MB a seed: only the last are kept.
@lru_cache(maxsize=2)
def variables_of(golden: GoldenSet, arch: str, seed: int) -> dict:
  """Our variables with the rule's weights."""
  read = import_adelaidet if golden.is_adelaidet else import_authors
  return read(state_dict_of(golden, arch, seed))[0]


# One in two moves a unit that lies at zero; one in ten moved a certain one.
MOST_DISTURBED_RUNS = 16


def disturbed(variables: dict, seed: int) -> dict:
  """The same but for a first convolution that is off by parts in a million.

  So were the runs from which the original's own noise was measured, on the input.
  """
  variables = copy_tree(variables)
  stem = variables['params']['backbone']['stem']['conv']
  noise = np.random.default_rng(seed).standard_normal(stem['kernel'].shape)
  stem['kernel'] = np.asarray(stem['kernel'] * (1 + 1e-6 * noise), np.float32)
  return variables


def state_dict_of(golden: GoldenSet, arch: str, seed: int) -> dict[str, np.ndarray]:
  """The rule's weights under the authors' names."""
  if golden.is_adelaidet:
    return golden_rule.draw_entries(seed, golden.json('manifest')['entries'])
  places = golden_rule.tensor_places(arch, golden.config(arch).model)
  return golden_rule.draw_state_dict(seed, {p.key: p.shape for p in places})


def check_forward(golden: GoldenSet, report: Report, only: str = '.*') -> None:
  """`forward_*` records whose names match `only`, and detections from there."""
  noise = golden.noise()
  index = golden.json('forward_index')
  post_of = {
    case_of(golden, record).forward: record
    for record in golden.records('post_.*')
    if case_of(golden, record).is_plain
  }
  for record in golden.records(f'forward_{only}'):
    entry = index['forward'][record.removeprefix('forward_')]
    arrays = golden.arrays(record)
    canvas = canvas_of(arrays)
    sizes = arrays['image_sizes_hw'].astype(np.int32)
    images = pad_images(images_of(arrays, entry['files'], sizes), canvas)
    _compare_input(golden, report, record, arrays, images, sizes)
    model = model_of(golden, entry['arch'])
    outputs, features = forward(model)(
      variables_of(golden, entry['arch'], entry['seed']),
      images,
      sizes,
      np.full_like(sizes, canvas),
    )
    _compare_features(report, record, arrays, features, noise)
    _compare_outputs(golden, report, record, arrays, outputs, noise)
    if record in post_of:
      _compare_detections(golden, report, post_of[record], outputs, canvas)


def _compare_input(
  golden: GoldenSet,
  report: Report,
  record: str,
  arrays: Arrays,
  images: np.ndarray,
  sizes: np.ndarray,
) -> None:
  config = golden.config().model
  found = normalise_images(
    jnp.asarray(images), jnp.asarray(sizes), config.pixel_mean, config.pixel_std
  )
  found = subsample(np.asarray(found).transpose(0, 3, 1, 2), _FEATURE_SAMPLE)
  report.compare('forward: input', record, found, arrays['input_sub'])


@cache
def forward(model: EmbedMask):
  """(variables, images, sizes, valid sizes) -> head outputs, {C2.., P7: NHWC}."""
  depths = ARCHITECTURES[model.backbone][0]
  last = {f'stage{stage}_block{n - 1}': stage + 1 for stage, n in enumerate(depths, 1)}

  def is_wanted(module, method: str) -> bool:
    return method == '__call__' and module.name in {*last, 'fpn', 'mask_branch'}

  @jax.jit
  def run(variables, images, sizes, valid_sizes):
    outputs, state = model.apply(
      variables,
      images,
      sizes,
      valid_sizes,
      train=False,
      capture_intermediates=is_wanted,
      mutable=['intermediates'],
    )
    captured = state['intermediates']
    features = {
      f'C{level}': captured['backbone'][block]['__call__'][0][0]
      for block, level in last.items()
    }
    features |= zip(LEVELS, captured['fpn']['__call__'][0], strict=True)
    if 'head' in captured:
      features['mask_feats'] = captured['head']['mask_branch']['__call__'][0]
    return outputs, features

  return run


def _compare_features(
  report: Report,
  record: str,
  arrays: Arrays,
  features: dict[str, jax.Array],
  noise: dict[str, float],
) -> None:
  for name in (name for name in FEATURES if f'{name}_sub' in arrays):
    found = np.asarray(features[name]).transpose(0, 3, 1, 2)
    report.compare('forward: shapes', record, found.shape, arrays[f'{name}_shape'])
    allowed = noise[f'{name}_sub']
    expected = arrays[f'{name}_sub']
    error = np.abs(subsample(found, len(expected)) - expected).max()
    report.observe(f'forward: {name}', record, over(error, allowed))
    found = found.astype(np.float64)
    error = np.abs([found.mean(), found.std()] - arrays[f'{name}_meanstd']).max()
    report.observe('forward: mean and deviation', record, over(error, allowed))


def _compare_outputs(
  golden: GoldenSet,
  report: Report,
  record: str,
  arrays: Arrays,
  outputs: HeadOutputs,
  noise: dict[str, float],
) -> None:
  for name in (name for name in OUTPUTS if name != 'sem_logits'):
    found = np.asarray(getattr(outputs, FIELDS[name]))
    if name == 'pixel_embed':
      error = np.abs(found.transpose(0, 3, 1, 2) - arrays[name]).max()
    else:
      levels = by_level(found, canvas_of(arrays))
      if name == 'bbox_reg' and not golden.is_adelaidet:
        levels = [level * s for level, s in zip(levels, STRIDES, strict=True)]
      error = max(
        np.abs(level - expected).max()
        for level, expected in zip(levels, arrays.levels(name), strict=True)
      )
    report.observe(f'forward: {name}', record, over(error, noise[name]))


def _compare_detections(
  golden: GoldenSet,
  report: Report,
  record: str,
  outputs: HeadOutputs,
  canvas: tuple[int, int],
) -> None:
  post = golden.arrays(record)
  sizes = Sizes.of(post, canvas)
  found = detections_of(golden, outputs, sizes, number_of(post))
  compare_detections(
    golden,
    report,
    'from pixels',
    record,
    outputs,
    found,
    post,
    sizes,
    allowed=decisions_in_doubt(report, record, post, _NOISE),
  )
