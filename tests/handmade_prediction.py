"""A prediction made by hand, and polygons filled in again, for tests."""

import numpy as np

from embedmask_jax.data.mask_windows import MaskWindow, window_of
from embedmask_jax.predict.prediction import Prediction

SIZE = (40, 60)


def masks() -> np.ndarray:
  """A ring, two squares that belong together and overlap the ring, and nothing."""
  found = np.zeros((3, *SIZE), bool)
  found[0, 4:30, 5:35] = True
  found[0, 10:20, 15:25] = False
  found[1, 25:38, 30:40] = True
  found[1, 25:30, 50:58] = True
  return found


def prediction() -> Prediction:
  rng = np.random.default_rng(0)
  return Prediction(
    boxes=np.asarray([[5, 4, 34, 29], [30, 25, 57, 37], [1, 2, 3, 4]], np.float32),
    scores=np.asarray([0.9, 0.6, 0.4], np.float32),
    labels=np.asarray([1, 0, 1], np.int32),
    class_names=('a/b', 'box', 'a/b'),
    category_ids=(8, 3, 8),
    windows=tuple(map(window_of, masks())),
    image=rng.integers(0, 256, (*SIZE, 3), np.uint8),
  )


def fill(rings, size):
  """Pixels whose middle is inside an odd number of rings."""
  rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
  inside = np.zeros(size, bool)
  for ring in rings:
    for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
      if y1 == y2:
        continue
      crosses = (y1 > rows) != (y2 > rows)
      inside ^= crosses & (columns < x1 + (rows - y1) / (y2 - y1) * (x2 - x1))
  return inside


def crowded_prediction() -> Prediction:
  """300 squares, whose masks as whole arrays are 108 MB."""
  places = np.arange(300)
  return Prediction(
    boxes=np.tile(np.asarray([[0, 0, 9, 9]], np.float32), (300, 1)),
    scores=np.linspace(0.9, 0.5, 300, dtype=np.float32),
    labels=np.zeros(300, np.int32),
    class_names=('box',) * 300,
    category_ids=(3,) * 300,
    windows=tuple(MaskWindow(int(k), int(k), np.ones((9, 9), bool)) for k in places),
    image=np.zeros((600, 600, 3), np.uint8),
  )
