"""What an image is between the stages of prediction: prepared, then detected."""

import dataclasses
from typing import Any

import numpy as np

from embedmask_jax.predict.tiles import Tile


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedImage:
  """An image, or each of its tiles, resized and on its canvas.

  Attributes:
    key: what the caller knows the image by.
    image: uint8 [h, w, 3].
    tiles: one that is the whole image, or several.
    rows: for each tile the arrays of a `Batch` of one.
    kinds: for each tile what decides the compiled program: network canvas, and output
      canvas.
  """

  key: Any
  image: np.ndarray
  tiles: tuple[Tile, ...]
  rows: list[dict[str, np.ndarray]]
  kinds: list[tuple[tuple[int, int], tuple[int, int]]]

  @property
  def scale(self) -> float:
    """Network pixels for a pixel of the image, along its height."""
    return float(self.rows[0]['image_size'][0, 0] / self.tiles[0].size[0])


@dataclasses.dataclass(frozen=True, eq=False)
class RawTile:
  """What the device found in a tile, above the thresholds, masks still packed."""

  boxes: np.ndarray
  scores: np.ndarray
  labels: np.ndarray
  masks: np.ndarray
  num_cut_off: int


@dataclasses.dataclass(frozen=True, eq=False)
class RawImage:
  """What the device found in the tiles of an image."""

  prepared: PreparedImage
  found: list[RawTile]
