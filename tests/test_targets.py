from functools import partial

import jax
import numpy as np
from synthetic import centroids, make_batch, random_batch

from embedmask_jax.ops.bits import unpack_bits
from embedmask_jax.ops.locations import location_strides, locations
from embedmask_jax.presets import PRESETS
from embedmask_jax.targets import assign_targets

assign = jax.jit(partial(assign_targets, preset=PRESETS['2021']))
RANGES = {8: (-1, 64), 16: (64, 128), 32: (128, 256), 64: (256, 512), 128: (512, 1e9)}


def assign_one(x, y, stride, on_mask, boxes, valid):
  """The rule for one location, written out: the matched instance or -1."""
  best, best_area = -1, np.inf
  for n, (x1, y1, x2, y2) in enumerate(boxes):
    cx, cy, r = (x1 + x2) / 2, (y1 + y2) / 2, 1.5 * stride
    in_centre = max(cx - r, x1) < x < min(cx + r, x2) and max(cy - r, y1) < y < min(
      cy + r, y2
    )
    low, high = RANGES[stride]
    in_range = low <= max(x - x1, y - y1, x2 - x, y2 - y) <= high
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    if valid[n] and on_mask[n] and in_centre and in_range and area < best_area:
      best, best_area = n, area
  return best


def test_every_location_follows_the_rule():
  canvas = (160, 192)
  batch = random_batch(0, [(160, 192), (100, 150)], canvas, [4, 2])
  targets = assign(batch)
  points, strides = locations(canvas), location_strides(canvas)
  on_mask = np.asarray(unpack_bits(batch.location_masks, len(points)))
  assert (targets.matched >= 0).sum() > 20
  for b in range(2):
    expected = [
      assign_one(
        x, y, strides[p], on_mask[b, :, p], batch.boxes[b], batch.instance_valid[b]
      )
      for p, (x, y) in enumerate(points)
    ]
    np.testing.assert_array_equal(targets.matched[b], expected)
    positive = np.asarray(expected) >= 0
    matched = np.asarray(expected)[positive]
    np.testing.assert_array_equal(targets.labels[b][positive], batch.labels[b][matched])
    assert (targets.labels[b][~positive] == -1).all()
    boxes, at = batch.boxes[b][matched], points[positive]
    sides = np.concatenate([at - boxes[:, :2], boxes[:, 2:] - at], axis=1)
    np.testing.assert_array_equal(targets.box_regression[b][positive], sides)
    left, top, right, bottom = sides.T
    centerness = np.sqrt(
      np.minimum(left, right)
      / np.maximum(left, right)
      * np.minimum(top, bottom)
      / np.maximum(top, bottom)
    )
    np.testing.assert_allclose(targets.centerness[b][positive], centerness, rtol=1e-6)


def test_smallest_area_wins_and_the_first_of_equals():
  inner, outer = np.asarray([40, 40, 71, 71]), np.asarray([20, 20, 91, 91])
  for order in ([outer, inner], [inner, inner]):
    instances = [[(box.astype(np.float32), 0) for box in order]]
    batch = make_batch(instances, [(128, 128)], (128, 128))
    # Both masks on everywhere, so that only the areas decide.
    full = np.full_like(batch.location_masks, 255)
    targets = assign(batch.replace(location_masks=full))
    centre = np.flatnonzero((locations((128, 128)) == [52, 52]).all(axis=1))[0]
    expected = 1 if order[0] is outer else 0
    assert targets.matched[0, centre] == expected


def test_rows_that_only_fill_the_batch_have_no_locations():
  batch = random_batch(1, [(96, 96)] * 2, (96, 96), [2, 2])
  batch = batch.replace(example_valid=np.asarray([True, False]))
  targets = assign(batch)
  assert targets.location_valid[0].all()
  assert not targets.location_valid[1].any()
  assert (targets.matched[1] == -1).all()


def test_without_instances_all_is_background():
  batch = random_batch(2, [(96, 96)], (96, 96), [0])
  targets = assign(batch)
  assert (targets.matched == -1).all()
  assert not targets.centerness.any()


assign_by_mask = jax.jit(partial(assign_targets, preset=PRESETS['adelaidet']))


def l_shaped(canvas=(128, 128)):
  """An instance whose mask, a column at the left, leaves most of its box empty."""
  box = np.asarray([20, 20, 91, 91], np.float32)
  batch = make_batch([[(box, 1)]], [canvas], canvas)
  mask = np.zeros((1, 4, *canvas), bool)
  mask[0, 0, 20:92, 20:36] = True
  x, y = locations(canvas).T
  inside = (x < canvas[1]) & (y < canvas[0])
  on = np.zeros((1, 4, len(x)), bool)
  on[..., inside] = mask[:, :, y[inside], x[inside]]
  return batch.replace(
    location_masks=np.packbits(on, axis=-1),
    mask_area=mask.sum(axis=(2, 3), dtype=np.int32),
    mask_centroid=centroids(mask),
  )


def test_the_centre_of_the_mask_counts_where_the_preset_says_so():
  batch = l_shaped()
  points, strides = locations((128, 128)), location_strides((128, 128))
  centre = batch.mask_centroid[0, 0]
  np.testing.assert_allclose(centre, [27.5, 55.5])
  near = np.abs(points - centre).max(axis=1) < 1.5 * strides
  inside = ((points > 20) & (points < 91)).all(axis=1)
  largest = np.maximum(points - 20, 91 - points).max(axis=1)
  fits = (largest <= 64) & (strides == 8) | (largest >= 64) & (strides == 16)
  expected = near & inside & fits
  # A location off the mask is among them.
  assert (expected & (points[:, 0] >= 36)).any()
  np.testing.assert_array_equal(assign_by_mask(batch).matched[0] == 0, expected)
  assert not np.array_equal(assign(batch).matched[0] == 0, expected)


def test_the_smallest_mask_gives_the_class_of_a_cell():
  boxes = [([10, 10, 89, 89], 0), ([30, 30, 61, 61], 2)]
  instances = [[(np.asarray(box, np.float32), label) for box, label in boxes]]
  batch = make_batch(instances, [(96, 120)], (96, 128))
  # The large instance is on below the small one, too.
  large = make_batch([instances[0][:1]], [(96, 120)], (96, 128))
  both = batch.location_masks | large.location_masks
  batch = batch.replace(location_masks=both, mask_area=batch.mask_area.clip(0))
  semantic = np.asarray(assign_by_mask(batch).semantic[0])
  y, x = np.mgrid[4:96:8, 4:128:8]
  expected = np.full(semantic.shape, -1)
  expected[(x >= 10) & (x <= 89) & (y >= 10) & (y <= 89)] = 0
  expected[(x >= 30) & (x <= 61) & (y >= 30) & (y <= 61)] = 2
  np.testing.assert_array_equal(semantic, expected)
