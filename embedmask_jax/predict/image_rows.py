"""From an image to a row of a batch, at the size and on the canvas of evaluation."""

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from embedmask_jax.data.canvases import choose_canvases, derive_canvases
from embedmask_jax.data.transforms import empty_batch, fill_image
from embedmask_jax.data.views import resize_sizes, round_up, whole_view
from embedmask_jax.datasets import view_settings
from embedmask_jax.inference import output_canvas

Canvas = tuple[int, int]


class ImageRows:
  """Calling it resizes an image and puts it on the canvas that it gets."""

  def __init__(self, config: ConfigDict):
    """Takes the parts `data`, `eval` and `model` of the config."""
    self._views = view_settings(config)
    self._canvases = self._views['canvases'] or derive_canvases(
      [self._views['short_side']], self._views['long_side']
    )

  def __call__(
    self, image: np.ndarray
  ) -> tuple[dict[str, np.ndarray], tuple[Canvas, Canvas]]:
    """Returns the arrays of a `Batch` of one, and the network and output canvas.

    Args:
      image: uint8 [h, w, 3], RGB.
    """
    size = np.asarray([image.shape[:2]], np.int32)
    [resized] = self.resized(size).tolist()
    [index] = choose_canvases(np.asarray([resized]), self._canvases)
    # An image that fits no canvas has one of its own: nothing is made smaller to fit.
    canvas = (
      self._canvases[index]
      if index >= 0
      else (round_up(resized[0]), round_up(resized[1]))
    )
    row = empty_batch(1, canvas, 1)
    view = whole_view(tuple(resized), canvas, preset=self._views['preset'])
    fill_image(row, 0, Image.fromarray(image), view, 0)
    return row, (canvas, output_canvas(size, self._views['output_ladder']))

  def resized(self, sizes: np.ndarray) -> np.ndarray:
    """The sizes that images are resized to, int32 [n, 2], from int [n, 2]."""
    return resize_sizes(
      sizes,
      self._views['short_side'],
      self._views['long_side'],
      rounds=self._views['preset'].rounds_sizes,
    )
