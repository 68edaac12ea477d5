"""Ground truth and predictions of an image side by side, inside of a page."""

import base64
import io
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from embedmask_jax.visualize import LazyMasks, draw_detections

# Longer side of one of the two, pixels.
_SIDE = 480
_GAP = 6


def side_by_side(
  image: np.ndarray,
  truth: Sequence[dict],
  detections: Sequence[dict],
  class_names: dict[int, str],
  found: Sequence[int],
) -> str:
  """Draws ground truth on the left and detections on the right.

  Args:
    image: uint8 [h, w, 3], RGB.
    truth: annotations, `segmentation` as RLE or absent.
    detections: the same with `score`.
    class_names: category id -> name.
    found: for each detection the annotation whose colour it gets, or negative.

  Returns:
    A JPEG as data URI.
  """
  others = itertools.count(len(truth))
  colours = [k if k >= 0 else next(others) for k in found]
  own = list(range(len(truth)))
  halves = [
    _shrunk(_drawn(image, truth, class_names, own, has_scores=False)),
    _shrunk(_drawn(image, detections, class_names, colours, has_scores=True)),
  ]
  height, width = halves[0].height, halves[0].width
  sheet = Image.new('RGB', (2 * width + _GAP, height), 'white')
  sheet.paste(halves[0], (0, 0))
  sheet.paste(halves[1], (width + _GAP, 0))
  buffer = io.BytesIO()
  sheet.save(buffer, 'JPEG', quality=85)
  return f'data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'


def _drawn(
  image: np.ndarray,
  entries: Sequence[dict],
  class_names: dict[int, str],
  colours: Sequence[int],
  *,
  has_scores: bool,
) -> np.ndarray:
  boxes = np.asarray([entry['bbox'] for entry in entries], float).reshape(-1, 4)
  boxes[:, 2:] += boxes[:, :2] - 1

  def mask_of(entry: dict) -> np.ndarray:
    if 'segmentation' not in entry:
      return np.zeros(image.shape[:2], bool)
    return rle.decode(entry['segmentation']).astype(bool)

  scores = np.asarray([entry['score'] for entry in entries]) if has_scores else None
  return draw_detections(
    image,
    boxes,
    LazyMasks(entries, mask_of),
    np.arange(len(entries)),
    scores,
    [class_names[entry['category_id']] for entry in entries],
    colours,
  )


def _shrunk(drawn: np.ndarray) -> Image.Image:
  picture = Image.fromarray(drawn)
  picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
  return picture
