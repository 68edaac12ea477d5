"""Random numbers that depend on what they are for, not on when they are asked for."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
  """What a number is drawn for."""

  ORDER = 0
  SCALE = 1
  FLIP = 2
  CROP_TOP = 3
  CROP_LEFT = 4
  JITTER = 5
  # Whether another image is pasted on, and the seed of all that is drawn for it there.
  PASTE = 6
  PASTE_SEED = 7
  PASTE_SOURCE = 8
  PASTE_TOP = 9
  PASTE_LEFT = 10
  PASTE_INSTANCE = 11


def draw_bits(
  seed: int, stream: Stream, epochs: np.ndarray, image_ids: np.ndarray
) -> np.ndarray:
  """Returns uint64, one per (epoch, image id), whatever the others asked for.

  Each argument in turn goes through the finalizer of SplitMix64 (Steele, Lea and
  Flood, 2014), so the numbers are the same with every version of NumPy.

  Args:
    seed: any integer from 0 up to 2**64 - 1.
    stream: what the number is for.
    epochs: int64, broadcast with `image_ids`.
    image_ids: int64.
  """
  state = _mix(np.asarray([seed], np.uint64))
  state = _mix(state ^ np.uint64(stream))
  state = _mix(state ^ np.asarray(epochs, np.int64).view(np.uint64))
  return _mix(state ^ np.asarray(image_ids, np.int64).view(np.uint64))


def draw_uniform(
  seed: int, stream: Stream, epochs: np.ndarray, image_ids: np.ndarray
) -> np.ndarray:
  """Returns float64 in [0, 1); see `draw_bits`."""
  return (draw_bits(seed, stream, epochs, image_ids) >> np.uint64(11)) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
  state = state + np.uint64(0x9E3779B97F4A7C15)
  state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return state ^ (state >> np.uint64(31))
