"""Which cells of the stride-4 grid belong to a box, by brute force."""

import jax.numpy as jnp
import numpy as np
import pytest

from embedmask_jax.ops.masks import box_mask, crop_mask

GRID, VALID = (20, 28), (16, 24)
BOXES = np.asarray(
  [[0, 0, 95, 63], [20, 12, 20, 12], [9.9, 8, 30.1, 40.5], [60, 30, 200, 200]],
  np.float32,
)


def cells(box, inside):
  """bool [rows, columns] of the cells (x, y) for which `inside` says so."""
  rows, columns = GRID
  x1, y1, x2, y2 = box / 4
  return [
    [
      inside(x1, x2, x, VALID[1]) and inside(y1, y2, y, VALID[0])
      for x in range(columns)
    ]
    for y in range(rows)
  ]


@pytest.mark.parametrize('growth', [0.0, 0.1])
def test_the_mask_loss_counts_the_grown_box_but_for_the_last_row_and_column(growth):
  def inside(low, high, cell, count):
    more = (high - low) * growth + 1
    return low - more <= cell < min(high + more, count - 1)

  found = crop_mask(jnp.asarray(BOXES), GRID, jnp.asarray(VALID), growth=growth)
  np.testing.assert_array_equal(found, [cells(box, inside) for box in BOXES])


def test_a_mask_may_leave_its_box_by_a_cell():
  def inside(low, high, cell, count):
    return low - 1 <= cell < min(high + 1, count)

  found = box_mask(jnp.asarray(BOXES), GRID, jnp.asarray(VALID))
  np.testing.assert_array_equal(found, [cells(box, inside) for box in BOXES])
