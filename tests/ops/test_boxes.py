import jax.numpy as jnp
import numpy as np
import pytest

from embedmask_jax.ops.boxes import box_area, box_iou, clip_boxes
from embedmask_jax.ops.nms import greedy_nms


@pytest.mark.parametrize(
  ('extent', 'area', 'iou'), [(1, 121, 66 / 176), (0, 100, 1 / 3)]
)
def test_a_side_ends_with_its_last_pixel_or_at_its_edge(extent, area, iou):
  a, b = jnp.asarray([0.0, 0, 10, 10]), jnp.asarray([5.0, 0, 15, 10])
  assert box_area(a, extent=extent) == area
  np.testing.assert_allclose(box_iou(a, b, extent=extent), iou, rtol=1e-6)
  clipped = clip_boxes(b, jnp.asarray([8, 12]), extent=extent)
  assert clipped.tolist() == [5, 0, 12 - extent, 8 - extent]


def test_points_suppress_nothing():
  """Where a side may be 0, the IoU of two equal points is no number."""
  boxes = jnp.asarray([[3.0, 3, 3, 3]] * 2)
  labels, valid = jnp.zeros(2, jnp.int32), jnp.ones(2, bool)
  assert greedy_nms(boxes, labels, valid, threshold=0.6, extent=0).all()
  keep = greedy_nms(boxes, labels, valid, threshold=0.6, extent=1)
  assert keep.tolist() == [True, False]
