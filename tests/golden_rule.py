"""The rules by which golden sets are made anew.

A golden folder stores neither weights nor, where its images come from a formula,
images: both are drawn from seeds as its README says. A digest over the weights
proves that the rule was followed to the bit.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from embedmask_jax.models.resnet import ARCHITECTURES
from embedmask_jax.weights import adelaidet, authors
from embedmask_jax.weights.architecture import Backbone
from embedmask_jax.weights.authors import Sizes
from embedmask_jax.weights.places import Place

NUM_CLASSES = 80
ARCHES = {'R50': 'resnet50', 'R101': 'resnet101'}

# Standard deviation of the kernel, mean and standard deviation of the bias.
_FINAL_LAYERS = {
  'cls_logits': (0.12, -10.5, 0.5),
  'bbox_pred': (0.1, 2.5, 0.3),
  'centerness': (0.08, 0.5, 0.2),
  'proposal_embed_pred': (0.006, 0.0, 0.05),
  'pixel_embed_pred': (0.006, 0.0, 0.05),
  'proposal_spatial_embed_pred': (0.01, 0.0, 0.05),
  'proposal_other_embed_pred': (0.01, 0.0, 0.05),
  'pixel_spatial_embed_pred': (0.01, 0.0, 0.05),
  'pixel_other_embed_pred': (0.01, 0.0, 0.05),
  'proposal_margin_pred': (0.8, -1.0, 0.3),
}
# Of the kernel of a margin that comes from the four sides of a box.
_BOX_MARGIN_DEVIATION = 6.0


def tensor_places(arch: str, config: ConfigDict) -> tuple[Place, ...]:
  """Every tensor of the authors' network of an architecture, 'R50' or 'R101'.

  Args:
    arch: 'R50' or 'R101'.
    config: the `model` part of a config.
  """
  layout = adelaidet if config.preset == adelaidet.PRESET else authors
  return layout.places(
    Sizes(
      backbone=Backbone(*ARCHITECTURES[ARCHES[arch]]),
      num_classes=NUM_CLASSES,
      embedding_dim=config.embedding_dim,
      preset=config.preset,
    )
  )


def draw_state_dict(seed: int, shapes: Mapping[str, Iterable[int]]) -> dict:
  """float32 tensors by the authors' names, OIHW."""
  return {key: draw_tensor(seed, key, tuple(shape)) for key, shape in shapes.items()}


def draw_tensor(seed: int, key: str, shape: tuple[int, ...]) -> np.ndarray:
  """The tensor that (seed, key, shape) stands for; drawn and computed in float64."""
  value = _rule(key, shape)(_generator(seed, key), shape)
  return value.astype(np.float32)


def draw_entries(seed: int, entries: Iterable[Mapping[str, Any]]) -> dict:
  """float32 tensors of a manifest that brings a rule for each, OIHW."""
  return {
    entry['key']: _draw_by(seed, entry['key'], tuple(entry['shape']), *entry['rule'])
    for entry in entries
    if entry['dtype'] == 'float32'
  }


def _draw_by(
  seed: int, key: str, shape: tuple[int, ...], kind: str, *numbers: float
) -> np.ndarray:
  recipe = {
    'fan': lambda a: _he(a),
    'centred_fan': lambda a: _he(a, is_centred=True),
    'centred': lambda a: lambda g, shape: a * _centred(g.standard_normal(shape)),
    'normal': lambda mean, deviation: _normal(mean, deviation),
    'uniform': lambda low, high: _uniform(low, high - low),
    'zero': lambda: lambda g, shape: np.zeros(shape),
  }[kind](*numbers)
  return recipe(_generator(seed, key), shape).astype(np.float32)


def _generator(seed: int, key: str) -> np.random.Generator:
  return np.random.Generator(np.random.PCG64(zlib.crc32(f'{seed}/{key}'.encode())))


def digest(state_dict: Mapping[str, np.ndarray]) -> str:
  """SHA-256 over the sorted names and their little-endian values."""
  total = hashlib.sha256()
  for key in sorted(state_dict):
    total.update(key.encode('ascii'))
    total.update(state_dict[key].astype('<f4').tobytes())
  return total.hexdigest()


def formula_image(seed: int, height: int, width: int) -> np.ndarray:
  """The picture 'formula:<seed>' at a size, uint8 RGB [height, width, 3]."""
  g = np.random.Generator(np.random.PCG64(seed))
  y, x = np.mgrid[:height, :width]
  channels = []
  for _ in range(3):
    a = np.full((height, width), 90 + 70 * g.random())
    for k in range(6):
      fx, fy = (g.random(2) - 0.5) * 0.4 / (1 + k % 3)
      phase = 2 * np.pi * g.random()
      amplitude = 12 + 28 * g.random()
      a = a + amplitude * np.sin(fx * x + fy * y + phase)
    coarse = 18 * g.standard_normal((-(-height // 4), -(-width // 4)))
    a = a + coarse.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    a = a + 6 * g.standard_normal((height, width))
    channels.append(a)
  return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)


def image_digest(image: np.ndarray) -> str:
  """SHA-256 over the pixels."""
  return hashlib.sha256(image.tobytes()).hexdigest()


def subsample(array: np.ndarray, limit: int) -> np.ndarray:
  """Up to `limit` values spread evenly over the array in C order."""
  flat = np.asarray(array).reshape(-1)
  count = min(limit, flat.size)
  return flat[np.arange(count) * flat.size // max(count, 1)]


def unpack_masks(packed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """bool [n, *shape] from rows of bits over the whole flattened mask."""
  bits = np.unpackbits(packed, axis=-1, count=shape[0] * shape[1])
  return bits.reshape(-1, *shape).astype(bool)


def _rule(key: str, shape: tuple[int, ...]):
  """The recipe for a tensor: (generator, shape) -> float64 array."""
  kind = key.rsplit('.', 1)[1]
  if kind == 'scale':
    return lambda g, shape: 0.8 + 0.4 * g.random(shape)
  if key.startswith('backbone.body.'):
    return _body_rule(key, kind)
  if key.startswith('backbone.fpn.'):
    return _he(0.7) if kind == 'weight' else _normal(0, 0.05)
  layer = key.split('.')[2]
  if layer.endswith('_tower'):
    is_norm = int(key.split('.')[3]) % 3 == 1
    if is_norm:
      return _uniform(0.5, 0.5) if kind == 'weight' else _normal(-0.2, 0.1)
    return _he(1, is_centred=True) if kind == 'weight' else _normal(0, 0.05)
  deviation, bias_mean, bias_deviation = _FINAL_LAYERS[layer]
  if shape == (1, 4, 1, 1):
    deviation = _BOX_MARGIN_DEVIATION
  if kind == 'bias':
    return _normal(bias_mean, bias_deviation)
  return lambda g, shape: deviation * _centred(g.standard_normal(shape))


def _body_rule(key: str, kind: str):
  layer = key.rsplit('.', 2)[1]
  if 'bn' in layer or 'downsample.1' in key:
    return {
      'weight': _uniform(0.5, 0.5),
      'bias': _normal(0, 0.1),
      'running_mean': _normal(0, 0.1),
      'running_var': _uniform(0.5, 1.0),
    }[kind]
  if 'stem' in key:
    return _he(0.02)
  return _he(0.5) if layer == 'conv3' else _he(1)


def _uniform(low: float, width: float):
  return lambda g, shape: low + width * g.random(shape)


def _normal(mean: float, deviation: float):
  return lambda g, shape: mean + deviation * g.standard_normal(shape)


def _he(factor: float, *, is_centred: bool = False):
  def draw(g: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    z = g.standard_normal(shape)
    fan_in = shape[1] * shape[2] * shape[3]
    return factor * np.sqrt(2 / fan_in) * (_centred(z) if is_centred else z)

  return draw


def _centred(z: np.ndarray) -> np.ndarray:
  return z - z.mean(axis=(1, 2, 3), keepdims=True)
