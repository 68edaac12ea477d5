"""Where the overlapping tiles of a large image lie."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
  """A part of an image, in its pixels; `bottom` and `right` are exclusive.

  Attributes:
    cut_sides: top, left, bottom, right: whether the image goes on beyond that side.
  """

  top: int
  left: int
  bottom: int
  right: int
  cut_sides: tuple[bool, bool, bool, bool]

  @property
  def size(self) -> tuple[int, int]:
    """(height, width)."""
    return self.bottom - self.top, self.right - self.left


def plan_tiles(size: tuple[int, ...], side: int, overlap: int) -> tuple[Tile, ...]:
  """Tiles that cover an image.

  All are `side` high and wide, or as much as the image is, so that they share one
  compiled program; neighbours share at least `overlap` pixels, evenly spread.

  Args:
    size: (height, width) of the image.
    side: of a tile, pixels; 0 for one tile that is the image.
    overlap: pixels, below `side`.
  """
  height, width = size[:2]
  return tuple(
    Tile(
      top,
      left,
      bottom,
      right,
      cut_sides=(top > 0, left > 0, bottom < height, right < width),
    )
    for top, bottom in _intervals(height, side or height, overlap)
    for left, right in _intervals(width, side or width, overlap)
  )


def _intervals(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
  if length <= side:
    return [(0, length)]
  count = -(-(length - side) // (side - overlap)) + 1
  starts = [round(i * (length - side) / (count - 1)) for i in range(count)]
  return [(start, start + side) for start in starts]
