"""Objects on borders of tiles come out once and whole."""

from itertools import pairwise

import numpy as np
import pytest

from embedmask_jax.data.mask_windows import window_of
from embedmask_jax.predict.merging import TileFindings, merge_tiles
from embedmask_jax.predict.tiles import plan_tiles

SIZE = (200, 260)


def objects(seed, largest):
  """Masks that do not overlap: discs, bars and a ring, with labels."""
  rng = np.random.default_rng(seed)
  rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
  taken = np.zeros(SIZE, bool)
  found = []
  for _ in range(120):
    y, x = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1])
    height, width = rng.uniform(6, largest, 2)
    distance = ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2
    mask = distance <= 0.25
    if rng.random() < 0.2:
      mask &= distance > 0.06
    if mask.any() and not (mask & taken).any():
      taken |= mask
      found.append((mask, int(rng.integers(2))))
  return found


def seen_by(tile, truth, rng):
  """What a perfect network finds in a tile: the visible part of every object."""
  boxes, scores, labels, windows = [], [], [], []
  for mask, label in truth:
    part = mask[tile.top : tile.bottom, tile.left : tile.right]
    if not part.any():
      continue
    window = window_of(part)
    boxes.append((window.left, window.top, window.right - 1, window.bottom - 1))
    scores.append(rng.uniform(0.3, 1))
    labels.append(label)
    windows.append(window)
  order = np.argsort(-np.asarray(scores), kind='stable')
  return TileFindings(
    boxes=np.asarray(boxes, np.float32).reshape(-1, 4)[order],
    scores=np.asarray(scores, np.float32)[order],
    labels=np.asarray(labels, np.int32)[order],
    windows=tuple(windows[i] for i in order),
  )


def merged(truth, side, overlap, spoil=lambda tile, found: found):
  rng = np.random.default_rng(0)
  tiles = plan_tiles(SIZE, side, overlap)
  found = [spoil(tile, seen_by(tile, truth, rng)) for tile in tiles]
  return merge_tiles(found, tiles, overlap=overlap)


def check_is_truth(result, truth):
  assert len(result.scores) == len(truth)
  assert (np.diff(result.scores) <= 0).all()
  for mask, label in truth:
    [same] = [
      i
      for i, window in enumerate(result.windows)
      if np.array_equal(window.dense(SIZE), mask)
    ]
    assert result.labels[same] == label
    window = window_of(mask)
    box = (window.left, window.top, window.right - 1, window.bottom - 1)
    np.testing.assert_allclose(result.boxes[same], box)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize(
  # Objects below the overlap are seen whole somewhere; others are put together.
  ('side', 'overlap', 'largest'),
  [(64, 32, 24), (96, 24, 20), (64, 16, 60), (64, 24, 190), (100, 50, 100)],
)
def test_every_object_comes_out_once_and_whole(seed, side, overlap, largest):
  truth = objects(seed, largest)
  assert len(truth) > 5
  check_is_truth(merged(truth, side, overlap), truth)


def test_one_tile_is_the_image():
  truth = objects(0, 40)
  check_is_truth(merged(truth, 0, 0), truth)
  check_is_truth(merged(truth, 500, 100), truth)


def disc(y, x, radius):
  rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
  return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def test_masks_that_differ_a_little_between_tiles_are_one_object():
  # Seen in part, seen whole by two tiles, and larger than any tile.
  truth = [(disc(50, 48, 10), 0), (disc(20, 51, 5), 0), (disc(120, 130, 60), 1)]

  def rough(tile, found):
    # Each tile sees the masks a pixel further down or up.
    shift = 1 if (tile.top + tile.left) % 2 else -1
    windows = tuple(window.moved(shift, 0) for window in found.windows)
    return TileFindings(found.boxes, found.scores, found.labels, windows)

  assert len(merged(truth, 64, 24, rough).scores) == 3


def test_two_classes_in_one_place_both_stay():
  truth = [(disc(20, 51, 5), 0), (disc(20, 51, 5), 1)]

  def one_class(tile, found):
    mine = [truth[int(tile.left > 0)]]
    return seen_by(tile, mine, np.random.default_rng(tile.left))

  result = merged(truth, 64, 24, one_class)
  assert sorted(result.labels.tolist()) == [0, 1]


def test_a_part_taken_for_another_class_gives_way_to_the_whole():
  truth = [(disc(60, 60, 11), 0)]
  tiles = plan_tiles(SIZE, 64, 32)

  def mistaken(tile, found):
    is_whole = [window.area == truth[0][0].sum() for window in found.windows]
    labels = np.where(is_whole, 0, 1).astype(np.int32)
    return TileFindings(found.boxes, found.scores, labels, found.windows)

  assert any(64 - tile.left == 64 for tile in tiles)
  check_is_truth(merged(truth, 64, 32, mistaken), truth)


def test_neighbours_of_one_class_are_not_joined():
  # Two discs that touch, across the border of two tiles.
  truth = [(disc(60, 50, 9), 0), (disc(60, 69, 9), 0)]
  check_is_truth(merged(truth, 64, 32), truth)


def test_what_one_tile_alone_finds_stays():
  truth = [(disc(60, 50, 9), 0)]

  def one_sided(tile, found):
    if tile.left:
      return seen_by(tile, [], np.random.default_rng(0))
    return found

  result = merged(truth, 64, 24, one_sided)
  assert len(result.scores) == 1


def test_boxes_without_a_mask_are_kept():
  tiles = plan_tiles(SIZE, 200, 50)
  empty = seen_by(tiles[0], [], np.random.default_rng(0))
  lone = TileFindings(
    boxes=np.asarray([[20, 30, 40, 50]], np.float32),
    scores=np.asarray([0.5], np.float32),
    labels=np.asarray([1], np.int32),
    windows=(window_of(np.zeros((4, 4), bool)),),
  )
  found = [lone, *[empty] * (len(tiles) - 1)]
  result = merge_tiles(found, tiles, overlap=50)
  np.testing.assert_allclose(result.boxes, lone.boxes)


@pytest.mark.parametrize('size', [(64, 64), (65, 64), (63, 200), (1000, 90), (10, 10)])
@pytest.mark.parametrize(('side', 'overlap'), [(64, 0), (64, 16), (64, 32)])
def test_tiles_cover_the_image_and_overlap(size, side, overlap):
  tiles = plan_tiles(size, side, overlap)
  covered = np.zeros(size, int)
  for tile in tiles:
    assert tile.size == (min(side, size[0]), min(side, size[1]))
    covered[tile.top : tile.bottom, tile.left : tile.right] += 1
  assert covered.min() == 1
  tops = sorted({tile.top for tile in tiles})
  assert all(second - first <= side - overlap for first, second in pairwise(tops))
  assert not any(
    tile.cut_sides[0] != (tile.top > 0) or tile.cut_sides[3] != (tile.right < size[1])
    for tile in tiles
  )
