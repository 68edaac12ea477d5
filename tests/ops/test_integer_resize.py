"""The resize in the graph against Pillow, bit for bit."""

from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from embedmask_jax.ops.integer_resize import is_exact, num_taps, resize_image

CANVAS, TARGET_CANVAS = (96, 128), (96, 128)


@pytest.fixture(scope='module')
def resize():
  return jax.jit(partial(resize_image, canvas=TARGET_CANVAS, taps=8))


@pytest.mark.parametrize(
  ('size', 'target'),
  [
    ((48, 64), (96, 128)),  # halves: every result is a tie or a quarter
    ((30, 40), (80, 106)),
    ((96, 128), (24, 32)),
    ((96, 127), (61, 80)),
    ((33, 47), (33, 47)),
    ((1, 1), (5, 7)),
    ((3, 128), (2, 90)),
    ((90, 128), (90, 127)),
  ],
)
def test_every_pixel_is_that_of_pillow(resize, size, target):
  rng = np.random.default_rng(0)
  canvas = rng.integers(0, 256, (*CANVAS, 3), dtype=np.uint8)
  image = Image.fromarray(canvas[: size[0], : size[1]].copy())
  expected = np.zeros((*TARGET_CANVAS, 3), np.uint8)
  expected[: target[0], : target[1]] = np.asarray(
    image.resize(target[::-1], Image.Resampling.BILINEAR)
  )
  found = resize(canvas, np.asarray(size, np.int32), np.asarray(target, np.int32))
  np.testing.assert_array_equal(found, expected)


def test_taps_and_bounds():
  assert num_taps(480, 800) == 2
  assert num_taps(3000, 800) == 8
  assert is_exact(4096, 12)
  assert not is_exact(1 << 15, 60)
