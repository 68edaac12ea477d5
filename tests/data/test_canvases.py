import numpy as np
import pytest

from embedmask_jax.data.canvases import (
  choose_canvases,
  complete_canvases,
  derive_canvases,
)
from embedmask_jax.data.views import resize_sizes


def test_derived_for_coco():
  assert set(derive_canvases([800], 1333)) == {
    (800, 800),
    (800, 1088),
    (1088, 800),
    (800, 1344),
    (1344, 800),
  }


def test_several_short_sides_share_canvases():
  two = derive_canvases([640, 800], 1333)
  assert set(derive_canvases([800], 1333)) < set(two)
  assert {(640, 640), (640, 864), (640, 1344)} < set(two)
  six = derive_canvases([640, 672, 704, 736, 768, 800], 1333)
  assert len(six) <= 10


@pytest.mark.parametrize(
  ('short', 'long'), [(256, 256), (192, 320), (64, 70), (800, 1333)]
)
def test_derived_are_no_larger_than_needed(short, long):
  edge = -(-long // 32) * 32
  for canvas in derive_canvases([short], long):
    assert max(canvas) <= edge
    assert min(canvas) >= min(short, long)
    assert canvas[0] % 32 == canvas[1] % 32 == 0


def test_smallest_that_holds():
  canvases = [(64, 128), (64, 64), (128, 64), (128, 128), (64, 128)]
  sizes = np.asarray([(10, 64), (64, 65), (65, 64), (65, 65), (129, 1), (64, 128)])
  assert choose_canvases(sizes, canvases).tolist() == [1, 0, 2, 3, -1, 0]
  assert choose_canvases(sizes, []).tolist() == [-1] * 6
  assert choose_canvases(sizes[:0], canvases).shape == (0,)


def test_completed_until_all_fit():
  canvases = [(64, 64)]
  sizes = np.asarray([(64, 64), (64, 90), (32, 200), (100, 50), (70, 70)])
  complete = complete_canvases(canvases, sizes)
  assert complete == ((64, 64), (96, 224), (128, 64))
  assert (choose_canvases(sizes, complete) >= 0).all()
  assert complete_canvases(complete, sizes) == complete


def test_every_image_fits_whatever_its_shape():
  rng = np.random.default_rng(0)
  sizes = np.concatenate([rng.integers(1, 2000, (500, 2)), [(1, 5000), (5000, 7)]])
  for short, long in [(800, 1333), (256, 256), (320, 1024)]:
    resized = resize_sizes(sizes, short, long)
    complete = complete_canvases(derive_canvases([short], long), resized)
    chosen = choose_canvases(resized, complete)
    assert (chosen >= 0).all()
    assert (resized <= np.asarray(complete)[chosen]).all()
