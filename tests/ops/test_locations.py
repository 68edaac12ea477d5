import numpy as np
import pytest

from embedmask_jax.ops.locations import level_shapes, location_strides, locations
from embedmask_jax.ops.valid_area import location_mask


def test_levels_of_a_canvas_round_up():
  assert level_shapes((800, 1056)) == ((100, 132), (50, 66), (25, 33), (13, 17), (7, 9))


def test_a_location_is_the_centre_pixel_of_its_cell():
  points, strides = locations((64, 96)), location_strides((64, 96))
  assert points[:3].tolist() == [[4, 4], [12, 4], [20, 4]]
  assert points[12].tolist() == [4, 12]  # second row of P3
  assert points[strides == 64].tolist() == [[32, 32], [96, 32]]


def test_canvas_that_is_no_multiple_of_32_is_refused():
  with pytest.raises(ValueError, match='100x64'):
    level_shapes((100, 64))


def test_valid_locations_of_a_larger_canvas_are_those_of_the_tight_one():
  for valid in [(96, 64), (32, 160), (224, 96)]:
    mask = np.asarray(location_mask((256, 192), np.asarray([valid])))[0]
    np.testing.assert_array_equal(locations((256, 192))[mask], locations(valid))
