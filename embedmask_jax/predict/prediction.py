"""What was found in one image, as arrays and in the forms that others read."""

import dataclasses
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from embedmask_jax.data.mask_windows import MaskWindow, encode_window
from embedmask_jax.errors import UserError
from embedmask_jax.predict.polygons import Polygon, mask_polygons
from embedmask_jax.visualize import LazyMasks, draw_detections

if TYPE_CHECKING:
  import supervision


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
  """The n instances found in one image, best score first.

  In a notebook it shows itself as the picture that `plot` draws.

  Attributes:
    boxes: float32 [n, 4], xyxy, pixels of the image; x2 and y2 are the last pixel, or
      the edge where `box_extent` is 0.
    scores: float32 [n].
    labels: int32 [n], class index 0..C-1.
    class_names: n names.
    category_ids: n ids in the annotations that the model was trained with.
    windows: n masks, cut to their windows; `masks` has them as one array.
    image: uint8 [h, w, 3], RGB, in which they were found.
    box_extent: what a side adds to the difference of its coordinates, 1 or 0.
    num_cut_off: upper bound on the detections above the threshold that the cap of
      `max_detections` cut off; 0 where it did not bite.
  """

  boxes: np.ndarray
  scores: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  category_ids: tuple[int, ...]
  windows: tuple[MaskWindow, ...]
  image: np.ndarray
  box_extent: int = 1
  num_cut_off: int = 0

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) of the image."""
    return self.image.shape[0], self.image.shape[1]

  @property
  def masks(self) -> np.ndarray:
    """All masks as bool [n, h, w], made anew; much memory where n and h x w are large.

    `windows` has the same without what surrounds the objects.
    """
    masks = np.zeros((len(self), *self.size), bool)
    for mask, window in zip(masks, self.windows, strict=True):
      mask[window.top : window.bottom, window.left : window.right] = window.pixels
    return masks

  def __len__(self) -> int:
    return len(self.scores)

  def __repr__(self) -> str:
    height, width = self.size
    best = ', '.join(
      f'{name} {score:.2f}'
      for name, score in zip(self.class_names[:3], self.scores, strict=False)
    )
    more = ', ...' if len(self) > 3 else ''
    what = f': {best}{more}' if len(self) else ''
    return f'Prediction({len(self)} instances in {width}x{height} pixels{what})'

  def _repr_png_(self) -> bytes:
    """What a notebook shows."""
    buffer = io.BytesIO()
    self.plot().save(buffer, 'PNG')
    return buffer.getvalue()

  def above(self, score: float) -> 'Prediction':
    """The instances with at least this score."""
    return self.select(self.scores >= score)

  def select(self, which: np.ndarray) -> 'Prediction':
    """The instances of a bool [n] or of indices, in the order given."""
    indices = np.arange(len(self))[which]
    return dataclasses.replace(
      self,
      boxes=self.boxes[indices],
      scores=self.scores[indices],
      labels=self.labels[indices],
      class_names=tuple(self.class_names[i] for i in indices),
      category_ids=tuple(self.category_ids[i] for i in indices),
      windows=tuple(self.windows[i] for i in indices),
    )

  def plot(self) -> Image.Image:
    """The image with masks, boxes, names and scores drawn over it.

    Images of less than 513 pixels are enlarged by a whole factor.
    """
    drawn = draw_detections(
      self.image,
      self.boxes,
      LazyMasks(self.windows, lambda window: window.dense(self.size)),
      np.arange(len(self)),
      self.scores,
      self.class_names,
    )
    return Image.fromarray(drawn)

  def to_coco(self, *, image_id: int = 1, file_name: str = '') -> list[dict]:
    """COCO results.

    Args:
      image_id: id of the image.
      file_name: added to every entry unless empty.

    Returns:
      n dicts: image_id, file_name, category_id, category_name, bbox [x, y, width,
      height], score, and segmentation as compressed RLE.
    """
    extent = self.box_extent
    results = []
    for i, (x1, y1, x2, y2) in enumerate(self.boxes.tolist()):
      sides = (x1, y1, x2 - x1 + extent, y2 - y1 + extent)
      results.append(
        {
          'image_id': image_id,
          **({'file_name': file_name} if file_name else {}),
          'category_id': self.category_ids[i],
          'category_name': self.class_names[i],
          'bbox': [round(side, 3) for side in sides],
          'score': float(self.scores[i]),
          'segmentation': encode_window(self.windows[i], self.size),
        }
      )
    return results

  def polygons(self, *, tolerance: float = 0.0) -> list[list[Polygon]]:
    """The outlines of every mask.

    Args:
      tolerance: pixels by which a simplified outline may miss the mask; 0 for none.

    Returns:
      For each instance its polygons, largest first, none where the mask is empty; a
      polygon is a list of rings float64 [m, 2] (x, y), the outer one and its holes. A
      pixel at (x, y) is the square from there to (x + 1, y + 1).
    """
    outlines = []
    for window in self.windows:
      corner = np.asarray([window.left, window.top])
      found = mask_polygons(window.pixels, tolerance=tolerance)
      outlines.append([[ring + corner for ring in polygon] for polygon in found])
    return outlines

  def label_map(self) -> np.ndarray:
    """int32 [h, w], number of the instance that a pixel belongs to, from 1; 0 none.

    Where masks overlap, the better score has the pixel.
    """
    numbers = np.zeros(self.size, np.int32)
    for i in reversed(range(len(self))):
      window = self.windows[i]
      part = numbers[window.top : window.bottom, window.left : window.right]
      part[window.pixels] = i + 1
    return numbers

  def cutout(self, index: int) -> np.ndarray:
    """The image in the window of a mask, clear where the mask is off.

    Returns:
      uint8 [rows, columns, 4], RGB and alpha; 1 x 1 and clear for an empty mask.
    """
    window = self.windows[index]
    if not window.pixels.size:
      return np.zeros((1, 1, 4), np.uint8)
    colours = self.image[window.top : window.bottom, window.left : window.right]
    alpha = np.where(window.pixels, 255, 0).astype(np.uint8)
    return np.concatenate([colours, alpha[..., None]], axis=-1)

  def to_supervision(self) -> 'supervision.Detections':
    """The same for the package supervision, which must be installed.

    Its boxes end at the edge of the last pixel; `data['class_name']` has the names.

    Raises:
      UserError: supervision is not installed.
    """
    try:
      import supervision
    except ImportError as error:
      raise UserError(
        'to_supervision needs the package supervision: pip install supervision'
      ) from error
    edges = self.boxes + np.asarray([0, 0, self.box_extent, self.box_extent])
    data: dict[str, Any] = {'class_name': np.asarray(self.class_names, dtype=str)}
    return supervision.Detections(
      xyxy=edges.astype(np.float32),
      mask=self.masks,
      confidence=self.scores.copy(),
      class_id=self.labels.astype(int),
      data=data,
    )
