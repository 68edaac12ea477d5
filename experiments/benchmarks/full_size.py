"""What the benchmarks run: a ResNet at 800x1333 with the golden sets' weights.

The weights are random, but scaled so that an image has tens of detections.
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import golden_rule  # noqa: E402
from golden_network import model_of, variables_of  # noqa: E402
from golden_set import GoldenSet  # noqa: E402
from synthetic import make_batch  # noqa: E402

from embedmask_jax.models.embedmask import EmbedMask  # noqa: E402
from embedmask_jax.structures import Batch  # noqa: E402

CANVAS = (800, 1344)
IMAGE_SIZE = (800, 1333)
ORIGINAL_SIZE = (480, 640)
OUTPUT_CANVAS = (640, 640)
SEED = 13


def full_size_model(
  dtype: str = 'float32', preset: str = '2021', arch: str = 'R50'
) -> tuple[EmbedMask, dict]:
  """ResNet-50 (R50) or ResNet-101 (R101), 80 classes, and its variables."""
  golden = GoldenSet(ROOT / 'tests' / 'golden' / preset)
  model = model_of(golden, arch).clone(dtype=jnp.dtype(dtype))
  return model, variables_of(golden, arch, SEED)


def full_size_batch(batch_size: int = 1, num_instances: int = 16) -> Batch:
  """Random textures of 800x1333 with rectangles of 20 to 250 pixels."""
  rng = np.random.default_rng(0)
  height, width = IMAGE_SIZE

  def rectangle() -> tuple[np.ndarray, int]:
    h, w = rng.integers(20, 250, 2)
    x, y = rng.integers(0, width - w), rng.integers(0, height - h)
    box = np.asarray([x, y, x + w - 1, y + h - 1], np.float32)
    return box, int(rng.integers(3))

  instances = [[rectangle() for _ in range(num_instances)] for _ in range(batch_size)]
  batch = make_batch(instances, [IMAGE_SIZE] * batch_size, CANVAS, num_instances)
  images = np.zeros_like(batch.images)
  for i in range(batch_size):
    images[i, :height, :width] = golden_rule.formula_image(i, height, width)
  original = np.tile(np.asarray(ORIGINAL_SIZE, np.int32), (batch_size, 1))
  return batch.replace(images=images, original_size=original)
