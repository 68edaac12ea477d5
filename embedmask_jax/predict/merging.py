"""What the tiles of an image found, put together: every object once, and whole.

A finding that ends at a side where its tile is cut is a fragment; any other was seen
whole. Two tiles can agree or disagree only about what both have seen, the region that
they share.

  1. Of findings seen whole by several tiles the best stays, as NMS would have it.
  2. A fragment of which another tile has seen the whole is dropped.
  3. Fragments that agree where their tiles overlap are one object: its mask is their
     union. So are the parts of an object larger than the overlap.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from embedmask_jax.data.mask_windows import MaskWindow, union
from embedmask_jax.predict.tiles import Tile

# IoU of masks, in the shared region, from which two findings are one object.
_SAME_OBJECT = 0.5
# Share of the smaller of two that the other must cover, where one is a fragment.
_SAME_PART = 0.5
# A finding is a fragment where it comes this close to a cut, in parts of the overlap:
# masks are blurred at cuts. Objects that are whole there are seen whole next door too.
_CLOSE = 1 / 8


@dataclasses.dataclass(frozen=True, eq=False)
class TileFindings:
  """What was found in a tile, or in an image; best score first.

  Attributes:
    boxes: float32 [n, 4], xyxy, pixels of the tile.
    scores: float32 [n].
    labels: int32 [n].
    windows: n masks in the tile.
  """

  boxes: np.ndarray
  scores: np.ndarray
  labels: np.ndarray
  windows: tuple[MaskWindow, ...]


@dataclasses.dataclass(eq=False)
class _Finding:
  """One finding in the frame of the image."""

  box: np.ndarray
  score: float
  label: int
  window: MaskWindow
  tile: Tile
  is_fragment: bool


def merge_tiles(
  found: Sequence[TileFindings],
  tiles: Sequence[Tile],
  *,
  overlap: int,
  box_extent: int = 1,
) -> TileFindings:
  """Puts together what the tiles of an image found.

  Args:
    found: for each tile, in its frame.
    tiles: where they lie.
    overlap: pixels that neighbours share at least.
    box_extent: see `Prediction`.

  Returns:
    The findings in the frame of the image. An object's score is the best of its parts.
  """
  if len(tiles) == 1:
    return found[0]
  everything = [
    finding
    for part, tile in zip(found, tiles, strict=True)
    for finding in _in_image(part, tile, max(2, round(_CLOSE * overlap)), box_extent)
  ]
  everything.sort(key=lambda finding: -finding.score)
  near = _neighbours(everything)
  stays = np.asarray([not finding.is_fragment for finding in everything], bool)
  for i in np.flatnonzero(stays):
    better = [everything[k] for k in near[i] if k < i and stays[k]]
    stays[i] = not any(_is_same_object(everything[i], other) for other in better)
  whole = np.flatnonzero(stays)
  fragments = []
  for i in np.flatnonzero([finding.is_fragment for finding in everything]):
    others = [everything[k] for k in near[i] if stays[k]]
    if not any(_is_part_of(everything[i], other) for other in others):
      fragments.append(int(i))
  groups = _agreeing(everything, fragments, near)
  merged = [everything[i] for i in whole]
  merged += [_join([everything[i] for i in group]) for group in groups]
  merged.sort(key=lambda finding: -finding.score)
  return TileFindings(
    boxes=np.asarray([f.box for f in merged], np.float32).reshape(-1, 4),
    scores=np.asarray([f.score for f in merged], np.float32),
    labels=np.asarray([f.label for f in merged], np.int32),
    windows=tuple(f.window for f in merged),
  )


def _in_image(
  part: TileFindings, tile: Tile, close: int, box_extent: int
) -> list[_Finding]:
  findings = []
  height, width = tile.size
  for box, score, label, window in zip(
    part.boxes, part.scores, part.labels, part.windows, strict=True
  ):
    right, bottom = box[2:] + box_extent
    gaps = [box[1], box[0], height - bottom, width - right]
    if window.pixels.size:
      own = (window.top, window.left, height - window.bottom, width - window.right)
      gaps = [min(pair) for pair in zip(gaps, own, strict=True)]
    findings.append(
      _Finding(
        box=box + np.asarray([tile.left, tile.top] * 2, np.float32),
        score=float(score),
        label=int(label),
        window=window.moved(tile.top, tile.left),
        tile=tile,
        is_fragment=any(
          is_cut and gap <= close
          for is_cut, gap in zip(tile.cut_sides, gaps, strict=True)
        ),
      )
    )
  return findings


def _is_same_object(one: _Finding, other: _Finding) -> bool:
  """Whether two tiles have seen one object whole."""
  if one.label != other.label:
    return False
  shared, area, other_area = _shared_areas(one, other)
  return shared > 0 and shared >= _SAME_OBJECT * (area + other_area - shared)


def _is_part_of(fragment: _Finding, whole: _Finding) -> bool:
  """Whether a tile has seen the whole of what another saw a part of.

  Of any class: what a part looks like says less than the whole.
  """
  shared, area, _ = _shared_areas(fragment, whole)
  return shared > 0 and shared >= _SAME_PART * area


def _agree(one: _Finding, other: _Finding) -> bool:
  """Whether two fragments go on in each other."""
  if one.label != other.label:
    return False
  shared, area, other_area = _shared_areas(one, other)
  return shared > 0 and shared >= _SAME_PART * min(area, other_area)


def _shared_areas(one: _Finding, other: _Finding) -> tuple[int, int, int]:
  """Pixels of both, of the one and of the other, in what both tiles have seen.

  Zeros where they come from one tile, or do not meet.
  """
  a, b = one.window, other.window
  top, left = max(a.top, b.top), max(a.left, b.left)
  bottom, right = min(a.bottom, b.bottom), min(a.right, b.right)
  if one.tile == other.tile or top >= bottom or left >= right:
    return 0, 0, 0
  meeting = (top, left, bottom, right)
  shared = int(np.count_nonzero(a.cut(*meeting) & b.cut(*meeting)))
  seen = (
    max(one.tile.top, other.tile.top),
    max(one.tile.left, other.tile.left),
    min(one.tile.bottom, other.tile.bottom),
    min(one.tile.right, other.tile.right),
  )
  areas = [int(np.count_nonzero(window.cut(*seen))) for window in (a, b)]
  return shared, areas[0], areas[1]


def _neighbours(findings: list[_Finding]) -> list[np.ndarray]:
  """For each finding the indices of those in other tiles whose windows meet its own."""
  windows = [finding.window for finding in findings]
  top, left, bottom, right = (
    np.asarray([(w.top, w.left, w.bottom, w.right) for w in windows], np.int64)
    .reshape(-1, 4)
    .T
  )
  tiles = list(dict.fromkeys(finding.tile for finding in findings))
  tile = np.asarray([tiles.index(finding.tile) for finding in findings])
  return [
    np.flatnonzero(
      (tile != tile[i])
      & (top < bottom[i])
      & (top[i] < bottom)
      & (left < right[i])
      & (left[i] < right)
    )
    for i in range(len(findings))
  ]


def _agreeing(
  findings: list[_Finding], fragments: list[int], near: list[np.ndarray]
) -> list[list[int]]:
  """Groups of fragments, each linked to another of its group."""
  group_of = {i: [i] for i in fragments}
  for i in fragments:
    for k in near[i]:
      if (
        k < i
        and k in group_of
        and group_of[k] is not group_of[i]
        and _agree(findings[i], findings[k])
      ):
        joined = group_of[i] + group_of[k]
        group_of.update(dict.fromkeys(joined, joined))
  return list({id(group): group for group in group_of.values()}.values())


def _join(group: list[_Finding]) -> _Finding:
  boxes = np.stack([finding.box for finding in group])
  best = max(group, key=lambda finding: finding.score)
  return dataclasses.replace(
    best,
    box=np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]),
    window=union([finding.window for finding in group]),
  )
