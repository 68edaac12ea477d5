"""Small batches with rectangles as instances, for tests of the device code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.models.factory import init_variables
from embedmask_jax.ops.locations import locations
from embedmask_jax.presets import PRESETS
from embedmask_jax.structures import Batch

COLOURS = np.asarray([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


def network_cases(*norms: str, slow: tuple[str, ...] = ()) -> list:
  """Cases (norm, preset) of tests that compile a network: 2021 with every norm.

  The other presets come with group norm; they are slow, as are the norms in `slow`.
  2019_released differs from 2019 in a choice of proposals alone, which tests of its own
  pin.
  """
  others = [name for name in PRESETS if name not in ('2021', '2019_released')]
  slow_cases = [
    *((norm, '2021') for norm in slow),
    *(('group', name) for name in others),
  ]
  return [
    *((norm, '2021') for norm in norms),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in slow_cases),
  ]


def tiny_model(**fields) -> EmbedMask:
  defaults = {
    'num_classes': 3,
    'backbone': 'resnet18',
    'backbone_width': 8,
    'norm': 'group',
    'frozen_stages': 0,
    'fpn_channels': 16,
    'head_channels': 16,
    'head_depth': 1,
    'axis_name': 'data',
  }
  return EmbedMask(**(defaults | fields))


@functools.cache
def _initial_values(norm: str, preset: str) -> dict:
  model = tiny_model(norm=norm, preset=PRESETS[preset])
  return jax.tree.map(np.asarray, init_variables(model, 0))


def tiny_variables(norm: str = 'group', preset: str = '2021') -> dict:
  """Returns initial variables of `tiny_model`, safe to change."""
  return jax.tree.map(jnp.array, _initial_values(norm, preset))


def rectangles(rng, size, count) -> list[tuple[np.ndarray, int]]:
  """Returns `count` inclusive boxes inside `size` (height, width), with labels."""
  height, width = size
  found = []
  for i in range(count):
    h, w = rng.integers(20, 50, 2)
    x, y = rng.integers(0, width - w), rng.integers(0, height - h)
    found.append((np.asarray([x, y, x + w - 1, y + h - 1], np.float32), i % 3))
  return found


def make_batch(instances, sizes, canvas, padded_instances=4) -> Batch:
  """Draws rectangles into images of `sizes` and puts them on one canvas.

  Args:
    instances: per image a list of (box, label), later ones in front.
    sizes: per image (height, width).
    canvas: (H, W), multiples of 32.
    padded_instances: N.
  """
  images = np.zeros((len(sizes), *canvas, 3), np.uint8)
  shape = (len(sizes), padded_instances)
  boxes = np.zeros((*shape, 4), np.float32)
  labels = np.zeros(shape, np.int32)
  valid = np.zeros(shape, bool)
  masks = np.zeros((*shape, *canvas), bool)
  for b, (height, width) in enumerate(sizes):
    texture = np.add.outer(np.arange(height) * 3, np.arange(width) * 7) % 64
    images[b, :height, :width] = texture[..., None].astype(np.uint8)
    for n, (box, label) in enumerate(instances[b]):
      x1, y1, x2, y2 = box.astype(int)
      images[b, y1 : y2 + 1, x1 : x2 + 1] = COLOURS[label]
      masks[b, :n, y1 : y2 + 1, x1 : x2 + 1] = False
      masks[b, n, y1 : y2 + 1, x1 : x2 + 1] = True
      boxes[b, n], labels[b, n], valid[b, n] = box, label, True
  cells = masks.reshape(*shape, canvas[0] // 4, 4, canvas[1] // 4, 4)
  stride4 = cells[:, :, :, 1:3, :, 1:3].any(axis=(3, 5))
  x, y = locations(canvas).T
  # Locations of P6 and P7 may lie beyond the canvas.
  inside = (y < canvas[0]) & (x < canvas[1])
  at_locations = np.zeros((*shape, len(x)), bool)
  at_locations[..., inside] = masks[:, :, y[inside], x[inside]]
  image_size = np.asarray(sizes, np.int32)
  return Batch(
    images=images,
    image_size=image_size,
    valid_size=(image_size + 31) // 32 * 32,
    original_size=image_size,
    image_index=np.arange(len(sizes), dtype=np.int32),
    example_valid=np.ones(len(sizes), bool),
    boxes=boxes,
    labels=labels,
    instance_valid=valid,
    masks=np.packbits(stride4, axis=-1),
    location_masks=np.packbits(at_locations, axis=-1),
    mask_area=masks.sum(axis=(2, 3), dtype=np.int32),
    mask_centroid=centroids(masks),
  )


def centroids(masks: np.ndarray) -> np.ndarray:
  """Returns float32 [..., 2], the mean (x, y) of masks [..., rows, columns]."""
  area = np.maximum(masks.sum(axis=(-2, -1)), 1)
  x = masks.sum(axis=-2) @ np.arange(masks.shape[-1])
  y = masks.sum(axis=-1) @ np.arange(masks.shape[-2])
  return np.stack([x / area, y / area], axis=-1).astype(np.float32)


def random_batch(seed, sizes, canvas, counts, padded_instances=4) -> Batch:
  """Returns `make_batch` of random rectangles, `counts[i]` in image i."""
  rng = np.random.default_rng(seed)
  instances = [rectangles(rng, s, n) for s, n in zip(sizes, counts, strict=True)]
  return make_batch(instances, sizes, canvas, padded_instances)
