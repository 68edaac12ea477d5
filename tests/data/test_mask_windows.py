"""Windows hold the same mask as the whole array does."""

import numpy as np
import pytest
from pycocotools import mask as rle

from embedmask_jax.data.mask_windows import (
  encode_window,
  union,
  unpack_window,
  window_of,
)


def random_mask(seed, size):
  rng = np.random.default_rng(seed)
  mask = np.zeros(size, bool)
  y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
  part = mask[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)]
  part[...] = rng.random(part.shape) < 0.7
  return mask


@pytest.mark.parametrize('seed', range(30))
def test_packed_cut_and_encoded(seed):
  size = (20 + seed, 13 + seed)
  mask = random_mask(seed, size)
  if seed == 7:
    mask[:] = True
  if seed == 8:
    mask[:] = False
  packed = np.zeros((64, 64), bool)
  packed[: size[0], : size[1]] = mask
  window = unpack_window(np.packbits(packed, axis=-1), size)
  np.testing.assert_array_equal(window.dense(size), mask)
  assert window.pixels.size == 0 or (window.pixels.any(0)[[0, -1]].all())
  assert window.area == mask.sum()
  encoded = encode_window(window, size)
  expected = rle.encode(np.asfortranarray(mask, np.uint8))
  assert encoded == {'size': list(size), 'counts': expected['counts'].decode()}
  moved = window.moved(3, 2)
  np.testing.assert_array_equal(moved.cut(3, 2, size[0] + 3, size[1] + 2), mask)
  np.testing.assert_array_equal(window.cut(5, 4, 15, 9), mask[5:15, 4:9])


def test_union():
  size = (30, 30)
  masks = [random_mask(seed, size) for seed in range(4)]
  masks.append(np.zeros(size, bool))
  joined = union([window_of(mask) for mask in masks])
  np.testing.assert_array_equal(joined.dense(size), np.any(masks, axis=0))
  assert union([window_of(masks[-1])]).area == 0
