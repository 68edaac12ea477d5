import numpy as np
import pytest
from coco_files import encode_mask

from embedmask_jax.data.rle import column_runs, decode_counts, expand, mask_areas


def random_masks(rng, size, count):
  densities = rng.choice([0.0, 0.03, 0.5, 1.0], count)
  return [rng.random(size) < density for density in densities]


@pytest.mark.parametrize('size', [(7, 5), (1, 9), (9, 1), (40, 30), (300, 3)])
def test_runs_rebuild_the_masks(size):
  rng = np.random.default_rng(sum(size))
  for _ in range(20):
    masks = random_masks(rng, size, rng.integers(1, 6))
    runs = column_runs([encode_mask(mask) for mask in masks], size[0])
    rebuilt = np.zeros((len(masks), *size), int)
    for owner, column, first, last in zip(*runs, strict=True):
      assert 0 <= first <= last < size[0]
      rebuilt[owner, first : last + 1, column] += 1
    np.testing.assert_array_equal(rebuilt, masks)


def test_counts_add_up_to_the_pixels():
  rng = np.random.default_rng(1)
  masks = random_masks(rng, (90, 70), 12)
  counts, first = decode_counts([encode_mask(mask) for mask in masks])
  assert first[0] == 0
  assert first[-1] == len(counts)
  assert (np.add.reduceat(counts, first[:-1]) == 90 * 70).all()


def test_nothing_to_read():
  counts, first = decode_counts([])
  assert counts.shape == (0,)
  assert first.tolist() == [0]
  assert all(len(side) == 0 for side in column_runs([], 4))


def test_areas():
  rng = np.random.default_rng(2)
  masks = random_masks(rng, (20, 31), 40)
  areas = mask_areas([encode_mask(mask) for mask in masks], np.tile([20, 31], (40, 1)))
  assert areas.tolist() == [mask.sum() for mask in masks]


def test_malformed_strings_are_told_and_disturb_no_other():
  good = encode_mask(np.eye(6) > 0)
  bad = [b'', b'~~', b'04', b'P', b'\x80', good[:-1], good + b'1', b'\xff' * 30]
  strings = [good]
  for string in bad:
    strings += [string, good]
  areas = mask_areas(strings, np.tile([6, 6], (len(strings), 1)))
  assert areas[::2].tolist() == [6] * (len(bad) + 1)
  assert areas[1::2].tolist() == [-1] * len(bad)
  # Only a negative run, only a foreign character, only a missing last digit.
  for string in (b'X1L', b'pT1', b'T1P'):
    assert decode_counts([string])[0].sum() == 36
    assert mask_areas([string], np.asarray([[6, 6]])).tolist() == [-1]
  # Well-formed, but of another size.
  assert mask_areas([good], np.asarray([[6, 7]])).tolist() == [-1]


def test_expand():
  interval, values = expand(np.asarray([3, 5, 0]), np.asarray([4, 4, 2]))
  assert interval.tolist() == [0, 0, 2, 2, 2]
  assert values.tolist() == [3, 4, 0, 1, 2]
