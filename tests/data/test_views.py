import numpy as np
import pytest
from shared_data import SHARED

from embedmask_jax.data.views import View, resize_sizes, round_up, whole_view

UNIT = SHARED / 'golden' / '2021' / 'public' / 'unit.npz'


@pytest.mark.skipif(not UNIT.is_file(), reason='no ../shared')
def test_golden_sizes():
  for width, height, short, long, *want in np.load(UNIT)['resize_table'].tolist():
    size = resize_sizes(np.asarray([[height, width]]), short, long)
    assert size.tolist() == [want]


def plain_rule(height, width, short, long):
  """The rule for one image, in Python's own arithmetic."""
  low, high = min(height, width), max(height, width)
  if high / low * short > long:
    short = max(round(long * low / high), 1)
  if height > width:
    return [int(short * height / width), short]
  return [short, int(short * width / height)]


def test_many_sizes_at_once():
  sizes = np.random.default_rng(0).integers(1, 3000, (5000, 2))
  for short, long in [(800, 1333), (192, 320), (64, 64), (333, 1000)]:
    resized = resize_sizes(sizes, short, long)
    assert resized.tolist() == [
      plain_rule(h, w, short, long) for h, w in sizes.tolist()
    ]
    assert resized.min() >= 1


def test_sizes_rounded_as_detectron2_does():
  for height, width, short, long, want in [
    (480, 640, 800, 1333, [800, 1067]),  # 1066.67, which the other rule truncates
    (640, 480, 800, 1333, [1067, 800]),
    (427, 640, 800, 1333, [800, 1199]),  # 1199.06
    (300, 1000, 800, 1333, [400, 1333]),  # 399.9 by the long side
    (500, 500, 640, 1333, [640, 640]),
  ]:
    size = resize_sizes(np.asarray([[height, width]]), short, long, rounds=True)
    assert size.tolist() == [want]


def test_sizes_of_extreme_shape_stay_positive():
  assert resize_sizes(np.asarray([[1, 100000], [90000, 3]]), 64, 128).min() == 1


def test_whole_view():
  view = whole_view((33, 64), (64, 96), is_flipped=True)
  assert view.image_size == (33, 64)
  assert view.valid_size == (64, 64)
  assert not view.is_crop
  assert View((90, 90), False, (5, 6, 32, 31), (32, 32), True).valid_size == (32, 32)
  assert [round_up(side) for side in (1, 32, 33)] == [32, 32, 64]
