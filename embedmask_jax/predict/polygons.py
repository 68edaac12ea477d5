"""Outlines of masks as polygons along the edges of pixels."""

from collections.abc import Sequence

import numpy as np

Ring = np.ndarray  # float64 [m, 2], x and y, without the first point repeated.
Polygon = list[Ring]  # The outer ring and the rings of its holes.

# Of corners that are compared at once, which bounds the memory.
_PAIRS = 2**18


def mask_polygons(mask: np.ndarray, *, tolerance: float = 0.0) -> list[Polygon]:
  """The outlines of a mask.

  A pixel at column x and row y is the square from (x, y) to (x + 1, y + 1). Pixels
  that meet at a corner only belong to different polygons.

  Args:
    mask: bool [h, w].
    tolerance: pixels by which a simplified ring may miss the outline (Douglas and
      Peucker 1973); 0 keeps every corner, and the polygons are exactly the mask.

  Returns:
    The polygons, the one with the largest outer ring first.
  """
  rings = [ring for ring in _trace(mask) if len(ring)]
  outer: list[Ring] = []
  holes: list[Ring] = []
  for ring in rings:
    (outer if _encloses_pixels(ring, mask) else holes).append(ring)
  outer.sort(key=ring_area, reverse=True)
  polygons: list[Polygon] = [[ring] for ring in outer]
  for hole in holes:
    _innermost(polygons, hole).append(hole)
  if tolerance > 0:
    polygons = [
      kept for polygon in polygons if (kept := _simplified_polygon(polygon, tolerance))
    ]
  return polygons


def ring_area(ring: Ring) -> float:
  """The area that a ring encloses, whichever way it turns."""
  x, y = ring.T
  return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def open_holes(polygon: Polygon) -> Ring:
  """One ring for a polygon with holes, for formats that have no holes.

  Every hole is joined to what surrounds it by a cut of no width, there and back.
  """
  ring = polygon[0]
  for hole in sorted(polygon[1:], key=lambda hole: hole[:, 0].min()):
    near, start = _nearest(ring, hole)
    # The way around a hole is against that around the outside.
    loop = np.roll(hole, -start, axis=0)
    ring = np.concatenate([ring[: near + 1], loop, loop[:1], ring[near:]])
  return ring


def _nearest(ring: Ring, hole: Ring) -> tuple[int, int]:
  """The corners of two rings, one of each, that are closest along x and y."""
  best, found = np.inf, (0, 0)
  rows = max(1, _PAIRS // len(hole))
  for first in range(0, len(ring), rows):
    part = ring[first : first + rows]
    distances = np.abs(part[:, None] - hole[None]).sum(axis=2)
    near, start = np.unravel_index(distances.argmin(), distances.shape)
    if distances[near, start] < best:
      best, found = distances[near, start], (first + int(near), int(start))
  return found


def _trace(mask: np.ndarray) -> list[Ring]:
  """All rings; those around pixels turn clockwise as seen, those of holes not."""
  on = np.pad(mask, 1)
  top_left, top_right = on[:-1, :-1], on[:-1, 1:]
  low_left, low_right = on[1:, :-1], on[1:, 1:]
  falling = top_left & low_right & ~top_right & ~low_left
  rising = top_right & low_left & ~top_left & ~low_right
  odd = top_left ^ top_right ^ low_left ^ low_right
  count = 1 * odd + 2 * (falling | rising)
  y, x = np.nonzero(count)
  if not len(y):
    return []
  times = count[y, x]
  is_rising = np.repeat(rising[y, x], times)
  y, x = np.repeat(y, times), np.repeat(x, times)
  # Of two corners at one point the first has the edge to the left, the second that to
  # the right; the edge upwards is the first's where pixels meet on a falling diagonal.
  second = np.zeros(len(y), bool)
  second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
  along_row = np.lexsort((second, x, y))
  along_column = np.lexsort((second ^ is_rising, y, x))
  beside, across = _partners(along_row), _partners(along_column)
  points = np.stack([x, y], axis=1).astype(np.float64)
  rings = []
  is_left = np.ones(len(points), bool)
  # From the topmost, leftmost corner of a ring to its right: pixels lie on the right
  # hand of the way, those around a hole lie outside of it.
  for start in range(len(points)):
    if not is_left[start]:
      continue
    way = []
    corner = start
    while is_left[corner]:
      for corner_of_way in (corner, beside[corner]):
        way.append(corner_of_way)
        is_left[corner_of_way] = False
      corner = across[beside[corner]]
    rings.append(points[way])
  return [ring if _encloses_pixels(ring, mask) else ring[::-1] for ring in rings]


def _partners(order: np.ndarray) -> list[int]:
  """Corners in order along lines are the ends of edges, two by two."""
  partner = np.empty(len(order), np.int64)
  partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
  return partner.tolist()


def _encloses_pixels(ring: Ring, mask: np.ndarray) -> bool:
  """Whether the pixel below and right of the ring's first corner is on."""
  x, y = ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]].astype(int)
  return bool(y < mask.shape[0] and x < mask.shape[1] and mask[y, x])


def _innermost(polygons: Sequence[Polygon], hole: Ring) -> Polygon:
  """The polygon with the smallest outer ring around a hole."""
  x, y = hole[np.lexsort((hole[:, 0], hole[:, 1]))[0]]
  # The middle of the pixel above the hole's highest corner is part of the polygon.
  x, y = x + 0.5, y - 0.5
  for polygon in reversed(polygons):
    ring = polygon[0]
    following = np.roll(ring, -1, axis=0)
    is_crossed = (ring[:, 1] > y) != (following[:, 1] > y)
    if np.count_nonzero(is_crossed & (ring[:, 0] > x)) % 2:
      return polygon
  raise AssertionError('a hole outside of all polygons')


def _simplified_polygon(polygon: Polygon, tolerance: float) -> Polygon:
  """The polygon with fewer points; empty if the outer ring comes to nothing."""
  rings = [_simplified(ring, tolerance) for ring in polygon]
  if len(rings[0]) < 3:
    # Too thin for the tolerance: kept as it is, since an instance must not be lost.
    rings[0] = polygon[0]
  return [rings[0], *(ring for ring in rings[1:] if len(ring) >= 3)]


def _simplified(ring: Ring, tolerance: float) -> Ring:
  far = int(np.argmax(((ring - ring[0]) ** 2).sum(axis=1)))
  keep = np.zeros(len(ring) + 1, bool)
  closed = np.concatenate([ring, ring[:1]])
  keep[[0, far]] = True
  parts = [(0, far), (far, len(ring))]
  while parts:
    first, last = parts.pop()
    if last - first < 2:
      continue
    start, way = closed[first], closed[last] - closed[first]
    steps = closed[first + 1 : last] - start
    # To the nearest point of the segment, not of the line, which goes on beyond it.
    along = np.clip(steps @ way / (way @ way or 1), 0, 1)
    distance = np.hypot(*(steps - along[:, None] * way).T)
    furthest = int(distance.argmax())
    if distance[furthest] > tolerance:
      middle = first + 1 + furthest
      keep[middle] = True
      parts += [(first, middle), (middle, last)]
  return ring[keep[:-1]]
