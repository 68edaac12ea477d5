"""How the generated scenes are painted: backgrounds, objects, light and shadow.

Pictures are float32 [h, w, 3], RGB in 0..1. Everything random is drawn from the
generator that is passed in.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from embedmask_jax.data.scene_shapes import Shape

# Edges are drawn at this multiple of the image's resolution and averaged down.
_SUPERSAMPLING = 4
# One colour channel per tone, so that one drawing holds them all.
_TONE_CHANNEL = {
  'base': (0, 0, 0),
  'accent': (255, 0, 0),
  'dark': (0, 255, 0),
  'light': (0, 0, 255),
}


@dataclass(frozen=True)
class Sprite:
  """An object drawn by itself, in the middle of a square that holds it.

  Attributes:
    coverage: uint8 [s, s], the share of each pixel that the object covers, of 255.
    mask: bool [s, s], pixels of which the object covers half or more.
    tones: float32 [s, s, 3], the share of each pixel painted in the accent, dark and
      light tones, 0..1; the rest has the base colour.
    size: longer side of the object before turning, pixels.
  """

  coverage: np.ndarray
  mask: np.ndarray
  tones: np.ndarray
  size: float


def make_sprite(shape: Shape, size: float, angle: float, is_mirrored: bool) -> Sprite:
  """Draws a shape, its longer side `size` pixels, turned by `angle` radians."""
  cos, sin = np.cos(angle), np.sin(angle)
  turn = np.array([[cos, sin], [-sin, cos]]) * size
  if is_mirrored:
    turn = np.array([[-1, 0], [0, 1]]) @ turn
  outline = np.concatenate([polygon for polygon, is_solid in shape.silhouette])
  side = 2 * int(np.ceil(np.abs(outline @ turn).max() + 1))

  def place(polygon: np.ndarray) -> list[float]:
    return ((polygon @ turn + side / 2) * _SUPERSAMPLING).ravel().tolist()

  drawn_side = (side * _SUPERSAMPLING,) * 2
  silhouette, tones = Image.new('L', drawn_side), Image.new('RGB', drawn_side)
  draw = ImageDraw.Draw(silhouette)
  for polygon, is_solid in shape.silhouette:
    draw.polygon(place(polygon), fill=255 if is_solid else 0)
  draw = ImageDraw.Draw(tones)
  for polygon, tone in shape.details:
    draw.polygon(place(polygon), fill=_TONE_CHANNEL[tone])
  coverage = np.asarray(silhouette.reduce(_SUPERSAMPLING))
  shares = np.asarray(tones.reduce(_SUPERSAMPLING), np.float32) / 255
  return Sprite(coverage, coverage >= 128, shares, size)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
  return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def _smooth_noise(
  rng: np.random.Generator, side: int, cells_x: float, cells_y: float
) -> np.ndarray:
  """Noise of about unit deviation, float32 [side, side], by interpolation."""
  shape = (max(2, round(cells_y)) + 1, max(2, round(cells_x)) + 1)
  coarse = Image.fromarray(rng.standard_normal(shape).astype(np.float32))
  return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def _turned_axis(rng: np.random.Generator, side: int) -> np.ndarray:
  """The pixel coordinate along a random direction, in sides, float32 [side, side]."""
  angle = rng.uniform(0, 2 * np.pi)
  axis = np.arange(side, dtype=np.float32) / side
  return axis * np.float32(np.cos(angle)) + axis[:, None] * np.float32(np.sin(angle))


def _weave(rng: np.random.Generator, side: int) -> np.ndarray:
  threads = rng.uniform(12, 22) * 2 * np.pi
  first, second = _turned_axis(rng, side), _turned_axis(rng, side)
  return 0.5 * np.sin(threads * first) + 0.5 * np.sin(threads * second)


def _wood(rng: np.random.Generator, side: int) -> np.ndarray:
  planks = rng.integers(3, 6)
  grain = 0.7 * _smooth_noise(rng, side, 3, 60) + 0.5 * _smooth_noise(rng, side, 2, 14)
  row = np.arange(side) * planks / side + rng.uniform()
  tint = rng.uniform(-0.9, 0.9, planks + 2)[row.astype(int)]
  seam = np.where(row % 1 < 2.2 * planks / side, -2.5, 0)
  wood = grain + (tint + seam)[:, None].astype(np.float32)
  return wood if rng.random() < 0.5 else wood.T


def _tiles(rng: np.random.Generator, side: int) -> np.ndarray:
  count = rng.uniform(3, 6)
  angle = rng.uniform(0, np.pi / 2)
  axis = np.arange(side) * count / side
  u = axis * np.cos(angle) + axis[:, None] * np.sin(angle)
  v = -axis * np.sin(angle) + axis[:, None] * np.cos(angle)
  checker = np.where((np.floor(u) + np.floor(v)) % 2 == 0, 0.8, -0.8)
  joint = np.minimum(np.minimum(u % 1, 1 - u % 1), np.minimum(v % 1, 1 - v % 1))
  return np.where(joint < 1.2 * count / side, -1.6, checker).astype(np.float32)


def _gravel(rng: np.random.Generator, side: int) -> np.ndarray:
  return 0.8 * _smooth_noise(rng, side, side / 4, side / 4) + 0.4 * _smooth_noise(
    rng, side, side / 2, side / 2
  )


def _clouds(rng: np.random.Generator, side: int) -> np.ndarray:
  return _smooth_noise(rng, side, 5, 5) + 0.5 * _smooth_noise(rng, side, 12, 12)


# Textures of the surfaces and the range of hues that suits each.
_SURFACES = (
  (_clouds, 0.0, 1.0),
  (_gravel, 0.05, 0.45),
  (_tiles, 0.0, 1.0),
  (_weave, 0.0, 1.0),
  (_wood, 0.02, 0.13),
)


def make_background(rng: np.random.Generator, side: int) -> np.ndarray:
  """A textured surface under uneven light, float32 [side, side, 3]."""
  make_texture, low, high = _SURFACES[rng.integers(len(_SURFACES))]
  texture = make_texture(rng, side)
  hue = rng.uniform(low, high)
  near = _colour(hue, rng.uniform(0.08, 0.42), rng.uniform(0.4, 0.85))
  far_hue = hue + rng.uniform(-0.1, 0.1) * (high - low)
  far = _colour(far_hue, rng.uniform(0.08, 0.42), rng.uniform(0.3, 0.85))
  ramp = _turned_axis(rng, side)
  ramp = np.clip((ramp - ramp.min()) / (ramp.max() - ramp.min()), 0, 1)
  ramp = np.clip(ramp + 0.12 * _smooth_noise(rng, side, 4, 4), 0, 1)[..., None]
  light = 1 + rng.uniform(0.05, 0.11) * texture + 0.05 * _smooth_noise(rng, side, 9, 9)
  return np.clip((near + (far - near) * ramp) * light[..., None], 0, 1)


def _paint(sprite: Sprite, rng: np.random.Generator, avoid: np.ndarray) -> np.ndarray:
  """The object's own colours, textured, float32 [s, s, 3].

  The base colour keeps a distance from `avoid`, the mean colour of the background.
  """
  while True:
    hue, saturation = rng.uniform(), rng.uniform(0.5, 0.95)
    if rng.random() < 0.12:
      saturation *= 0.15
    base = _colour(hue, saturation, rng.uniform(0.45, 1.0))
    if np.abs(base - avoid).max() > 0.25:
      break
  accent = _colour(
    hue + rng.choice([0, 0.08, -0.08, 0.33, 0.5]),
    saturation * rng.uniform(0.5, 1),
    rng.uniform(0.35, 1.0),
  )
  dark, light = 0.3 * base, 0.25 * base + 0.72
  side = sprite.mask.shape[0]
  picture = base + sprite.tones @ (np.stack([accent, dark, light]) - base)
  pattern = rng.integers(4)
  if pattern == 0:
    return picture
  tint = rng.uniform(-0.3, 0.3, 3).astype(np.float32) + rng.choice([-0.15, 0.15])
  waves = 2 * np.pi * rng.uniform(3, 8) * side / sprite.size
  first = np.sin(waves * _turned_axis(rng, side))
  if pattern == 1:
    texture = np.clip(3 * first, -1, 1)
  elif pattern == 2:
    texture = np.clip(6 * (first * np.sin(waves * _turned_axis(rng, side)) - 0.4), 0, 1)
  else:
    texture = 0.6 * _smooth_noise(rng, side, side / 4, side / 4)
  return picture * (1 + texture[..., None] * tint)


def _blurred(coverage: np.ndarray, radius: float) -> np.ndarray:
  """uint8 [h, w] -> float32 [h, w] in 0..1, blurred."""
  image = Image.fromarray(coverage).filter(ImageFilter.GaussianBlur(radius))
  return np.asarray(image, np.float32) / 255


def add_object(
  picture: np.ndarray,
  sprite: Sprite,
  left: int,
  top: int,
  light: tuple[float, float],
  rng: np.random.Generator,
  avoid: np.ndarray,
) -> None:
  """Paints an object and its shadow on a picture, in place.

  Args:
    picture: float32 [h, w, 3].
    sprite: the object.
    left: column of the sprite's first pixel in the picture, possibly negative.
    top: row of it.
    light: unit vector (x, y) towards the light in the picture's plane.
    rng: source of its colours and texture.
    avoid: RGB colour that its base colour is to differ from.
  """
  margin = int(np.ceil(0.2 * sprite.size)) + 2
  shadow = _blurred(np.pad(sprite.coverage, margin), 0.045 * sprite.size + 0.5)
  drop = max(1, round(0.05 * sprite.size))
  shadow_left = left - margin - round(drop * light[0])
  shadow_top = top - margin - round(drop * light[1])
  target, seen = _overlap(picture, shadow, shadow_left, shadow_top)
  target *= 1 - 0.5 * seen[..., None]

  # The blurred silhouette is taken for a height: its slope towards the light shades
  # the rim, which makes a flat shape look rounded.
  slope_y, slope_x = np.gradient(_blurred(sprite.coverage, 0.035 * sprite.size + 0.4))
  facing = -(slope_x * light[0] + slope_y * light[1]) * (sprite.size * 0.1)
  shade = 0.95 + np.clip(0.55 * facing, -0.4, 0.35)
  glint = 0.6 * np.clip(facing - 0.35, 0, 0.5)
  colours = _paint(sprite, rng, avoid) * shade[..., None] + glint[..., None]
  target, seen = _overlap(picture, np.clip(colours, 0, 1), left, top)
  _, share = _overlap(picture, sprite.coverage, left, top)
  target += (share[..., None] / np.float32(255)) * (seen - target)


def _overlap(
  picture: np.ndarray, patch: np.ndarray, left: int, top: int
) -> tuple[np.ndarray, np.ndarray]:
  """Views of a picture and of a patch laid on it, where both have pixels."""
  y1, x1 = max(0, -top), max(0, -left)
  y2 = min(patch.shape[0], picture.shape[0] - top)
  x2 = min(patch.shape[1], picture.shape[1] - left)
  return picture[top + y1 : top + y2, left + x1 : left + x2], patch[y1:y2, x1:x2]
