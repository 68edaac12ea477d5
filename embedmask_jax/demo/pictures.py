"""The pictures of the page: instances, one instance, its distance map, embeddings."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from embedmask_jax.demo.exploration import Exploration
from embedmask_jax.ops.masks import OUTSIDE_LOG_PROBABILITY
from embedmask_jax.visualize import LazyMasks, draw_detections

# Pictures are sent to the browser with at most this longer side.
LONGEST_SIDE = 1600
# And maps, which are smooth, are computed with at least about this one.
_SMALLEST_MAP = 512
_DIMMED = 0.35
# From far to near: dark blue, teal, green, yellow, nearly white.
_SHADES = np.asarray(
  [[12, 14, 44], [22, 74, 116], [40, 140, 126], [150, 196, 74], [255, 250, 214]],
  np.float32,
)
_OUTLINE = (255, 64, 160)


def draw_instances(exploration: Exploration) -> Image.Image:
  """The image with what is shown; only the chosen instance where there is one.

  Its surroundings are then dimmed. Instances keep their colours.
  """
  shown = exploration.shown
  image = shown.image
  which = np.arange(len(shown))
  if exploration.chosen is not None:
    which = which[exploration.chosen : exploration.chosen + 1]
    mask = shown.windows[exploration.chosen].dense(shown.size)
    image = np.where(mask[..., None], image, image * _DIMMED).astype(np.uint8)
  drawn = draw_detections(
    image,
    shown.boxes[which],
    LazyMasks([shown.windows[i] for i in which], lambda w: w.dense(shown.size)),
    np.arange(len(which)),
    shown.scores[which],
    [shown.class_names[i] for i in which],
    colours=which.tolist(),
  )
  picture = Image.fromarray(drawn)
  picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
  return picture


def pixel_of_click(
  click: tuple[float, float], picture: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int]:
  """The pixel (x, y) of an image under a click on a picture of it.

  Args:
    click: (x, y) in the picture.
    picture: (width, height).
    size: (height, width) of the image.
  """
  x = int(click[0] * size[1] / picture[0])
  y = int(click[1] * size[0] / picture[1])
  return min(max(x, 0), size[1] - 1), min(max(y, 0), size[0] - 1)


def draw_distances(exploration: Exploration) -> Image.Image:
  """The distance map of the chosen instance, with its box, outline and a legend.

  The outline is where the probability falls below the threshold of masks.
  """
  index = exploration.chosen
  if index is None:
    raise ValueError('no instance is chosen')
  height, width = map_size(exploration.prediction.size)
  log_p = exploration.view.log_probability(index, (height, width))
  canvas = shade(log_p / OUTSIDE_LOG_PROBABILITY)
  is_near = log_p > np.log(exploration.view.mask_threshold)
  canvas[_rim(is_near)] = _OUTLINE
  picture = Image.fromarray(canvas)
  scale = width / exploration.prediction.size[1]
  extent = exploration.prediction.box_extent
  x1, y1, x2, y2 = exploration.prediction.boxes[index].tolist()
  corners = [
    x1 * scale,
    y1 * scale,
    (x2 + extent) * scale - 1,
    (y2 + extent) * scale - 1,
  ]
  corners[2:] = [max(corners[2], corners[0]), max(corners[3], corners[1])]
  ImageDraw.Draw(picture).rectangle(corners, outline='white')
  return _with_legend(picture)


def draw_embedding(exploration: Exploration) -> Image.Image:
  """The pixel embedding as colours."""
  size = map_size(exploration.prediction.size)
  return Image.fromarray(exploration.view.colours(size))


def map_size(size: tuple[int, int]) -> tuple[int, int]:
  """(height, width) of a map: that of the image, brought within bounds."""
  longest = max(size)
  scale = np.clip(1, _SMALLEST_MAP / longest, LONGEST_SIDE / longest)
  return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shade(distance: np.ndarray) -> np.ndarray:
  """Colours of distances, from 0, bright, to 1, dark.

  Args:
    distance: float [h, w].

  Returns:
    uint8 [h, w, 3].
  """
  place = (1 - np.clip(distance, 0, 1)) * (len(_SHADES) - 1)
  steps = np.arange(len(_SHADES))
  channels = [np.interp(place, steps, _SHADES[:, channel]) for channel in range(3)]
  return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _rim(mask: np.ndarray) -> np.ndarray:
  """The pixels of a mask that have a neighbour outside it."""
  padded = np.pad(mask, 1, mode='edge')
  core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
  return mask & ~core


def _with_legend(picture: Image.Image) -> Image.Image:
  """Adds a strip below that says what the shades mean."""
  letters = int(np.clip(picture.width / 40, 11, 28))
  font = ImageFont.load_default(letters)
  strip = 2 * letters
  sheet = Image.new('RGB', (picture.width, picture.height + strip), 'black')
  sheet.paste(picture)
  draw = ImageDraw.Draw(sheet)
  far, near = f'{OUTSIDE_LOG_PROBABILITY:.0f} or less', 'log p = 0'
  middle = picture.height + strip / 2
  draw.text((letters / 2, middle), far, fill='white', font=font, anchor='lm')
  right = picture.width - letters / 2
  draw.text((right, middle), near, fill='white', font=font, anchor='rm')
  left_end = int(letters + draw.textlength(far, font=font))
  right_end = int(right - letters / 2 - draw.textlength(near, font=font))
  if right_end - left_end > letters:
    ramp = shade(np.linspace(1, 0, right_end - left_end)[None].repeat(letters, 0))
    sheet.paste(Image.fromarray(ramp), (left_end, int(middle - letters / 2)))
  return sheet
