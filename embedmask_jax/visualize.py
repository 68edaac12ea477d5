"""Instances drawn over their image: masks, outlines, boxes, names and scores."""

import colorsys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Small images are enlarged by a whole factor to about this longer side.
_READABLE_SIDE = 768
_MASK_OPACITY = 0.45
# Above this number of instances captions would hide the picture.
_CROWD = 60


def instance_colour(index: int) -> tuple[int, int, int]:
  """RGB colour of the index-th instance, the same in every picture.

  Hues advance by the golden ratio, so that neighbours in the order and all of a few
  instances differ; lightness alternates for those that come close again.
  """
  hue = (0.02 + index * 0.618034) % 1
  value, saturation = ((1.0, 0.85), (0.85, 0.6), (1.0, 0.55))[index // 5 % 3]
  red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
  return round(255 * red), round(255 * green), round(255 * blue)


class LazyMasks:
  """Masks that are each made when asked for, since all at once could take gigabytes."""

  def __init__(
    self, items: Sequence[Any] | np.ndarray, make: Callable[[Any], np.ndarray]
  ):
    """Takes what they are made of, and how one becomes a bool [h, w]."""
    self._items = items
    self._make = make

  def __getitem__(self, index: int) -> np.ndarray:
    return self._make(self._items[index])


def draw_detections(
  image: np.ndarray,
  boxes: np.ndarray,
  masks: Sequence[np.ndarray] | np.ndarray | LazyMasks,
  labels: np.ndarray,
  scores: np.ndarray | None,
  class_names: Sequence[str],
  colours: Sequence[int] | None = None,
) -> np.ndarray:
  """Draws detections, or ground truth where `scores` is None.

  A small image is enlarged by a whole factor, pixels of masks staying square; line
  widths and letters follow the size. A caption is left out where it finds no place
  clear of the captions of better detections and of the middle of other instances;
  more than 60 instances have no captions and thin lines. Masks and boxes are all
  drawn.

  Args:
    image: uint8 [h, w, 3], RGB.
    boxes: float [n, 4], xyxy inclusive, pixels of the image.
    masks: bool [n, h, w], or n bool [h, w], of which one is asked for at a time.
    labels: int [n], class index.
    scores: float [n], or None.
    class_names: name of every class.
    colours: index for `instance_colour` of each; its position by default.

  Returns:
    uint8 [f * h, f * w, 3] with the factor f 1 where the longer side is 513 or more.
  """
  height, width = image.shape[:2]
  factor = max(1, round(_READABLE_SIDE / max(height, width)))
  canvas = Image.fromarray(image).resize(
    (factor * width, factor * height), Image.Resampling.BICUBIC
  )
  is_crowded = len(boxes) > _CROWD
  line = 1 if is_crowded else max(1, round(max(canvas.size) / 400))
  # Best last, so that it lies on top.
  order = np.arange(len(boxes)) if scores is None else np.argsort(scores, kind='stable')
  shades = [instance_colour(int(k)) for k in colours or range(len(boxes))]
  pixels = np.array(canvas)
  for i in order:
    _blend_mask(pixels, masks[i], factor, line, shades[i])
  canvas = Image.fromarray(pixels)
  draw = ImageDraw.Draw(canvas)
  corners = _drawn_corners(np.asarray(boxes), factor, canvas.size)
  for i in order:
    draw.rectangle(corners[i], outline=shades[i], width=line)
  if not is_crowded:
    captions = _captions(labels, scores, class_names)
    _draw_captions(draw, canvas.size, corners, captions, order[::-1], shades)
  return np.array(canvas)


def _blend_mask(
  pixels: np.ndarray,
  mask: np.ndarray,
  factor: int,
  line: int,
  colour: tuple[int, int, int],
) -> None:
  """Tints a mask and traces its inner rim, in place."""
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  if not len(rows):
    return
  y1, y2, x1, x2 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
  inside = np.pad(mask[y1:y2, x1:x2], 1).repeat(factor, 0).repeat(factor, 1)
  core = inside
  for _ in range(line):
    shrunk = core.copy()
    shrunk[1:] &= core[:-1]
    shrunk[:-1] &= core[1:]
    shrunk[:, 1:] &= core[:, :-1]
    shrunk[:, :-1] &= core[:, 1:]
    core = shrunk
  trim = np.s_[factor:-factor, factor:-factor]
  inside, core = inside[trim], core[trim]
  window = pixels[factor * y1 : factor * y2, factor * x1 : factor * x2]
  tint = np.array(colour)
  window[core] = (1 - _MASK_OPACITY) * window[core] + _MASK_OPACITY * tint
  window[inside & ~core] = tint


def _drawn_corners(
  boxes: np.ndarray, factor: int, size: tuple[int, int]
) -> list[tuple[int, int, int, int]]:
  """Inclusive corners of the boxes on the enlarged canvas, clipped to it."""
  corners = []
  for x1, y1, x2, y2 in np.rint(boxes.reshape(-1, 4)).astype(int) * factor:
    left, top = np.clip((x1, y1), 0, (size[0] - 1, size[1] - 1))
    right = np.clip(x2 + factor - 1, left, size[0] - 1)
    bottom = np.clip(y2 + factor - 1, top, size[1] - 1)
    corners.append((int(left), int(top), int(right), int(bottom)))
  return corners


def _captions(
  labels: np.ndarray, scores: np.ndarray | None, class_names: Sequence[str]
) -> list[str]:
  names = [class_names[int(label)] for label in labels]
  if scores is None:
    return names
  return [f'{name} {score:.2f}' for name, score in zip(names, scores, strict=True)]


def _draw_captions(
  draw: ImageDraw.ImageDraw,
  size: tuple[int, int],
  corners: list[tuple[int, int, int, int]],
  captions: list[str],
  order: np.ndarray,
  shades: Sequence[tuple[int, int, int]],
) -> None:
  """Writes captions, first in `order` first, at places that are still free."""
  font = ImageFont.load_default(int(np.clip(max(size) / 48, 11, 40)))
  # As tall as letters get, so that all captions share one height and baseline.
  letters = int(np.ceil(draw.textbbox((0, 0), 'Åg', font=font)[3]))
  pad = max(1, letters // 6)
  taken: list[tuple[int, int, int, int]] = []
  middles = [((x1 + x2) // 2, (y1 + y2) // 2) for x1, y1, x2, y2 in corners]
  for i in order:
    wide = int(np.ceil(draw.textlength(captions[i], font=font))) + 2 * pad
    tall = letters + pad
    x1, y1, x2, y2 = corners[i]
    left = max(0, min(x1, size[0] - wide))
    right = max(0, min(x2 - wide + 1, size[0] - wide))
    for x, y in (
      (left, y1 - tall),
      (left, y2 + 1),
      (right, y1 - tall),
      (right, y2 + 1),
      (left, y1),
      (right, y2 - tall),
    ):
      spot = (x, y, x + wide - 1, y + tall - 1)
      others = (middle for k, middle in enumerate(middles) if k != i)
      if (
        0 <= y <= size[1] - tall
        and not any(_meet(spot, other) for other in taken)
        and not any(_meet(spot, (*middle, *middle)) for middle in others)
      ):
        break
    else:
      continue
    taken.append(spot)
    colour = shades[i]
    brightness = np.dot(colour, (0.299, 0.587, 0.114))
    draw.rectangle(spot, fill=colour)
    ink = 'black' if brightness > 110 else 'white'
    draw.text((x + pad, y + pad // 2), captions[i], fill=ink, font=font)


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
  return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def grid(images: Sequence[np.ndarray], columns: int | None = None) -> np.ndarray:
  """Several pictures side by side on white, row after row.

  Args:
    images: uint8 [h, w, 3] each, at least one, of any sizes; every cell is as large
      as the largest, smaller ones lie in its middle.
    columns: pictures in a row; by default about as many as there are rows.

  Returns:
    uint8 [rows * cell height, columns * cell width, 3], with narrow gaps.
  """
  columns = columns or int(np.ceil(np.sqrt(len(images))))
  rows = -(-len(images) // columns)
  tall = max(image.shape[0] for image in images)
  wide = max(image.shape[1] for image in images)
  gap = max(2, max(tall, wide) // 100)
  sheet = np.full(
    (rows * (tall + gap) + gap, columns * (wide + gap) + gap, 3), 255, np.uint8
  )
  for k, image in enumerate(images):
    top = gap + k // columns * (tall + gap) + (tall - image.shape[0]) // 2
    left = gap + k % columns * (wide + gap) + (wide - image.shape[1]) // 2
    sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
  return sheet
