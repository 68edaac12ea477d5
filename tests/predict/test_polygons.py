"""Outlines are the mask itself: filled in again they give every pixel back."""

import numpy as np
import pytest
from handmade_prediction import fill
from peak_memory import peak_memory

from embedmask_jax.predict.polygons import mask_polygons, open_holes, ring_area


def random_mask(seed, size=(13, 17)):
  rng = np.random.default_rng(seed)
  mask = rng.random(size) < rng.uniform(0.1, 0.9)
  if seed % 2:
    mask = mask.repeat(2, axis=0).repeat(3, axis=1)
  return mask


@pytest.mark.parametrize('seed', range(20))
def test_filled_outlines_are_the_mask(seed):
  mask = random_mask(seed)
  polygons = mask_polygons(mask)
  rings = [ring for polygon in polygons for ring in polygon]
  np.testing.assert_array_equal(fill(rings, mask.shape), mask)
  # Each polygon alone is a set of pixels of its own, with its holes taken out.
  area = sum(ring_area(p[0]) - sum(map(ring_area, p[1:])) for p in polygons)
  assert area == mask.sum()
  opened = [open_holes(polygon) for polygon in polygons]
  np.testing.assert_array_equal(fill(opened, mask.shape), mask)
  for polygon in polygons:
    assert fill(polygon, mask.shape).sum() > 0
    assert not (fill(polygon, mask.shape) & ~mask).any()


def test_corners_only_and_holes_within_their_polygon():
  mask = np.ones((6, 8), bool)
  mask[2:4, 3:5] = False
  [[outer, hole]] = mask_polygons(mask)
  assert sorted(outer.tolist()) == [[0, 0], [0, 6], [8, 0], [8, 6]]
  assert sorted(hole.tolist()) == [[3, 2], [3, 4], [5, 2], [5, 4]]
  assert mask_polygons(np.zeros((4, 4), bool)) == []


def test_pixels_that_meet_at_a_corner_are_two_polygons():
  assert len(mask_polygons(np.eye(2, dtype=bool))) == 2
  assert len(mask_polygons(np.eye(2, dtype=bool)[::-1])) == 2


def test_an_island_in_a_hole_is_a_polygon_of_its_own():
  mask = np.ones((9, 9), bool)
  mask[1:8, 1:8] = False
  mask[3:6, 3:6] = True
  mask[4, 4] = False
  polygons = mask_polygons(mask)
  assert [len(polygon) for polygon in polygons] == [2, 2]
  assert ring_area(polygons[0][1]) == 49
  assert ring_area(polygons[1][1]) == 1


def test_simplified_outlines_stay_within_the_tolerance():
  rows, columns = np.mgrid[:60, :60]
  disc = (rows - 30) ** 2 + (columns - 30) ** 2 <= 20**2
  disc &= (rows - 30) ** 2 + (columns - 30) ** 2 > 9**2
  [exact] = mask_polygons(disc)
  [simple] = mask_polygons(disc, tolerance=1.0)
  assert len(simple) == 2
  assert len(simple[0]) < len(exact[0]) / 2
  wrong = fill(simple, disc.shape) != disc
  middle = np.hypot(rows[wrong] - 30, columns[wrong] - 30)
  assert np.minimum(abs(middle - 20), abs(middle - 9)).max() < 2


def test_no_corner_is_further_from_the_simplified_outline_than_the_tolerance():
  mask = np.zeros((40, 1050), bool)
  mask[:2, 50:] = True
  # Beyond the end of the long edges, but on their line.
  mask[1, :50] = True
  mask[:, 1030:] = True
  [[exact]] = mask_polygons(mask)
  [[simple]] = mask_polygons(mask, tolerance=3.0)
  assert len(simple) < len(exact)
  distances = [
    distance_to_segment(exact, start, end)
    for start, end in zip(simple, np.roll(simple, -1, axis=0), strict=True)
  ]
  assert np.min(distances, axis=0).max() <= 3


def distance_to_segment(points, start, end):
  places = np.linspace(0, 1, 2001)[:, None]
  on_segment = start + places * (end - start)
  return np.hypot(*(points[:, None] - on_segment).T).min(axis=0)


def test_what_is_thinner_than_the_tolerance_is_not_lost():
  assert mask_polygons(np.ones((1, 1), bool), tolerance=5.0)


def test_holes_with_long_outlines_take_little_memory():
  mask = np.ones((1002, 1002), bool)
  # A comb: 3,000 corners around the hole, and as many around the outside.
  mask[1:900, 1:1001:2] = mask[900, 1:1001] = False
  mask[905:, 1::2] = False
  [polygon] = mask_polygons(mask)
  assert min(map(len, polygon)) > 1900
  assert peak_memory(lambda: open_holes(polygon)) < 30e6
