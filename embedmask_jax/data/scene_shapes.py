"""The six kinds of objects of the generated scenes, as polygons.

Frame: the unit frame of an object, x to the right, y down, its bounding box centred
on the origin and its longer side equal to 1. Proportions vary from one object to the
next; colours, textures, rotation and size are not decided here and so carry no hint
of the class.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# A polygon, float64 [n, 2] of (x, y).
Polygon = np.ndarray


@dataclass(frozen=True)
class Shape:
  """An object in its unit frame.

  Attributes:
    silhouette: (polygon, solid) pairs applied in order: a solid one adds its area,
      the others cut a hole into what was added before.
    details: (polygon, tone) pairs painted in order inside the silhouette; tone is
      'base', 'accent', 'dark' or 'light'.
  """

  silhouette: tuple[tuple[Polygon, bool], ...]
  details: tuple[tuple[Polygon, str], ...]


def _ellipse(x, y, rx, ry, start=0.0, stop=2 * np.pi, points=64) -> Polygon:
  """Arc of an ellipse by angle from the x axis, clockwise on the screen."""
  angles = np.linspace(start, stop, points)
  return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


def _band(path: Polygon, width: float) -> Polygon:
  """The outline of a line of the given width along an open path."""
  direction = np.gradient(path, axis=0)
  direction /= np.linalg.norm(direction, axis=1, keepdims=True)
  normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * width / 2
  return np.concatenate([path + normal, (path - normal)[::-1]])


def _segment(x1, y1, x2, y2, width) -> Polygon:
  return _band(np.array([[x1, y1], [x2, y2]], float), width)


def _normalised(silhouette: list, details: list) -> Shape:
  """Centres the silhouette's bounding box and scales its longer side to 1."""
  solid = np.concatenate([polygon for polygon, is_solid in silhouette if is_solid])
  low, high = solid.min(axis=0), solid.max(axis=0)
  centre, scale = (low + high) / 2, (high - low).max()
  return Shape(
    tuple(((polygon - centre) / scale, is_solid) for polygon, is_solid in silhouette),
    tuple(((polygon - centre) / scale, tone) for polygon, tone in details),
  )


def _button(rng: np.random.Generator) -> Shape:
  distance, hole = rng.uniform(0.17, 0.21), rng.uniform(0.065, 0.085)
  turn = rng.uniform(0, np.pi / 2)
  holes = [
    (distance * np.cos(angle), distance * np.sin(angle))
    for angle in turn + np.arange(4) * np.pi / 2
  ]
  rim, face = rng.uniform(0.42, 0.45), rng.uniform(0.32, 0.36)
  details = [
    (_ellipse(0, 0, rim, rim, points=96), 'dark'),
    (_ellipse(0, 0, rim - 0.02, rim - 0.02, points=96), 'accent'),
    (_ellipse(0, 0, face, face, points=96), 'base'),
  ]
  details += [(_ellipse(x, y, hole + 0.025, hole + 0.025), 'dark') for x, y in holes]
  outline = _ellipse(0, 0, 0.5, 0.5, points=96)
  cuts = [(_ellipse(x, y, hole, hole), False) for x, y in holes]
  return _normalised([(outline, True), *cuts], details)


def _star(rng: np.random.Generator) -> Shape:
  inner = 0.5 * rng.uniform(0.48, 0.56)
  angles = np.arange(10) * np.pi / 5 - np.pi / 2
  radius = np.where(np.arange(10) % 2 == 0, 0.5, inner)
  corners = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
  # One half of every arm is darker, like a folded star.
  facets = [
    (np.array([[0, 0], corners[i], corners[(i + 1) % 10]]), 'accent')
    for i in range(0, 10, 2)
  ]
  return _normalised([(corners, True)], facets if rng.random() < 0.7 else [])


def _fish(rng: np.random.Generator) -> Shape:
  height = rng.uniform(0.23, 0.3)
  along = np.linspace(0, 1, 40)
  x = -0.5 + 0.78 * along
  half = height * np.sin(np.pi * along**0.8) ** 0.8
  body = np.concatenate(
    [np.stack([x, -half], axis=1), np.stack([x[::-1], half[::-1]], axis=1)]
  )
  spread = rng.uniform(0.18, 0.26)
  tail = np.array(
    [[0.17, 0], [0.36, -spread * 0.8], [0.52, -spread], [0.43, 0], [0.52, spread],
     [0.36, spread * 0.8]]
  )  # fmt: skip
  fin = np.array(
    [[-0.22, -height * 0.8], [-0.05, -height - rng.uniform(0.08, 0.14)],
     [0.14, -height - 0.03], [0.1, -height * 0.5]]
  )  # fmt: skip
  belly = np.array([[-0.08, height * 0.8], [0.06, height + 0.09], [0.1, height * 0.7]])
  details = [(tail, 'accent'), (fin, 'accent'), (belly, 'accent')]
  for k in range(rng.integers(0, 4)):
    bend = _ellipse(-0.16 + 0.12 * k, 0, 0.07, height, -1.2, 1.2, 16)
    details.append((_band(bend, 0.035), 'accent'))
  details += [
    (_ellipse(-0.345, -0.045, 0.05, 0.05), 'light'),
    (_ellipse(-0.355, -0.045, 0.026, 0.026), 'dark'),
    (_band(_ellipse(-0.3, 0, 0.07, 0.12, -1.1, 1.1, 16), 0.02), 'dark'),
  ]
  silhouette = [(tail, True), (fin, True), (belly, True), (body, True)]
  return _normalised(silhouette, details)


def _key(rng: np.random.Generator) -> Shape:
  bow, width = rng.uniform(0.24, 0.28), rng.uniform(0.13, 0.16)
  hole = bow * rng.uniform(0.38, 0.48)
  x = -0.5 + bow
  silhouette = [
    (_ellipse(x, 0, bow, bow), True),
    (_segment(x + hole, 0, 0.5, 0, width), True),
    (_ellipse(x, 0, hole, hole), False),
  ]
  for tooth in range(rng.integers(2, 4)):
    left, length = 0.37 - 0.17 * tooth, rng.uniform(0.12, 0.18)
    corner = [[left, 0], [left + 0.12, 0], [left + 0.12, length + width / 2],
              [left, length + width / 2]]  # fmt: skip
    silhouette.append((np.array(corner), True))
  ring = _ellipse(x, 0, (bow + hole) / 2, (bow + hole) / 2)
  details = [
    (_segment(x + bow, -width * 0.15, 0.48, -width * 0.15, width * 0.22), 'light'),
    (_segment(x + bow * 0.95, 0, x + bow * 1.2, 0, width * 1.2), 'accent'),
    (_band(ring, (bow - hole) * 0.28), 'accent'),
  ]
  return _normalised(silhouette, details)


def _mug(rng: np.random.Generator) -> Shape:
  half, tall = rng.uniform(0.27, 0.32), rng.uniform(0.33, 0.4)
  taper = rng.uniform(0.82, 1.0)
  ry = 0.075
  top = _ellipse(0, -tall, half, ry, np.pi, 2 * np.pi, 24)
  bottom = _ellipse(0, tall, half * taper, ry, 0, np.pi, 24)
  body = np.concatenate([top, bottom])
  grip = rng.uniform(0.2, 0.25)
  hx, hy = half * (1 + taper) / 2, rng.uniform(-0.06, 0.02)
  silhouette = [
    (_ellipse(hx, hy, grip, grip * 1.15), True),
    (_ellipse(hx, hy, grip * 0.58, grip * 0.72), False),
    (body, True),
  ]
  band_low, band_high = sorted(rng.uniform(-0.2, tall - 0.05, 2))
  band = np.concatenate(
    [
      _ellipse(0, band_low, half, ry, 0, np.pi, 24),
      _ellipse(0, band_high, half, ry, np.pi, 0, 24),
    ]
  )
  details = [
    (band, 'accent'),
    (_ellipse(0, -tall, half, ry), 'light'),
    (_ellipse(0, -tall + 0.012, half * 0.86, ry * 0.72), 'dark'),
  ]
  return _normalised(silhouette, details)


def _umbrella(rng: np.random.Generator) -> Shape:
  panels, rise = rng.integers(4, 7), rng.uniform(0.44, 0.52)
  along = np.linspace(1, 0, 25 * panels)
  scallops = -0.07 * np.abs(np.sin(np.pi * panels * along))
  hem = np.stack([along - 0.5, scallops], axis=1)
  dome = _ellipse(0, 0, 0.5, rise, np.pi, 2 * np.pi, 48)
  canopy = np.concatenate([dome, hem])
  width, foot, hook = rng.uniform(0.08, 0.1), rng.uniform(0.26, 0.36), 0.1
  crook = _band(_ellipse(hook, foot, hook, hook, np.pi, 0, 24), width)
  handle = _segment(0, -0.1, 0, foot, width)
  silhouette = [
    (handle, True),
    (crook, True),
    (_segment(0, -rise - 0.06, 0, -rise + 0.05, 0.05), True),
    (canopy, True),
  ]
  details = [(handle, 'dark'), (crook, 'dark'), (canopy, 'base')]
  angles = np.linspace(0, np.pi / 2, 20)
  ribs = [
    np.stack([end * np.sin(angles), -rise * np.cos(angles)], axis=1)
    for end in np.linspace(-0.5, 0.5, panels + 1)
  ]
  for left, right in zip(ribs[::2], ribs[1::2], strict=False):
    details.append((np.concatenate([left, right[::-1]]), 'accent'))
  return _normalised(silhouette, details)


# Class name -> function of a generator, in the order of the category ids 1, 2, ...
SHAPES: dict[str, Callable[[np.random.Generator], Shape]] = {
  'button': _button,
  'fish': _fish,
  'key': _key,
  'mug': _mug,
  'star': _star,
  'umbrella': _umbrella,
}
