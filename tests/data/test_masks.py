import json
from pathlib import Path

import numpy as np
import pytest
from coco_files import encode_mask as encode
from mask_twin import decode, network_mask, packed

from embedmask_jax.data.annotations import clip_boxes
from embedmask_jax.data.masks import pack_masks, rasterize_polygons
from embedmask_jax.data.views import View, whole_view
from embedmask_jax.ops.locations import locations

SHARED = Path(__file__).resolve().parents[3] / 'shared'
GOLDEN = SHARED / 'golden' / '2021' / 'public'
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason='no ../shared')


def check(segmentations, original_size, view):
  cells, at_locations, area, centroid = pack_masks(segmentations, original_size, view)
  assert cells.shape == (
    len(segmentations),
    view.canvas[0] // 4,
    view.canvas[1] // 32,
  )
  for i, segmentation in enumerate(segmentations):
    mask = network_mask(segmentation, original_size, view)
    want = packed(mask, view)
    np.testing.assert_array_equal(cells[i], want[0])
    np.testing.assert_array_equal(at_locations[i], want[1])
    assert area[i] == mask.sum()
    rows, columns = np.nonzero(mask)
    middle = (columns.mean(), rows.mean()) if area[i] else (0, 0)
    np.testing.assert_allclose(centroid[i], middle, rtol=1e-6)


def random_polygon(rng, size):
  height, width = size
  centre = rng.uniform(0, 1, 2) * (width, height)
  angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
  radius = rng.uniform(1, 0.5 * max(size), len(angles))
  points = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
  return np.round(points, 2).astype(np.float32).ravel()


def random_mask(rng, size):
  """Blobs, specks, full, empty and edge-touching masks."""
  kind = rng.integers(5)
  mask = np.zeros(size, bool)
  if kind == 0:
    mask |= rng.random(size) < 0.05
  elif kind == 1:
    mask[:] = True
  elif kind == 2:
    y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
    mask[y, x] = True
  elif kind == 3:
    y, x = np.sort(rng.integers(0, size[0], 2)), np.sort(rng.integers(0, size[1], 2))
    mask[y[0] : y[1] + 1, x[0] : x[1] + 1] = True
  return mask


def random_view(rng, original_size):
  scale = rng.choice([0.3, 1.0, 1.7])
  height = max(int(original_size[0] * scale), 1)
  width = max(int(original_size[1] * scale), 1)
  window_height = int(rng.integers(1, height + 1))
  window_width = int(rng.integers(1, width + 1))
  if rng.random() < 0.4:
    window_height, window_width = height, width
  window = (
    int(rng.integers(0, height - window_height + 1)),
    int(rng.integers(0, width - window_width + 1)),
    window_height,
    window_width,
  )
  canvas = (
    -(-window_height // 32) * 32 + 32 * int(rng.integers(2)),
    -(-window_width // 32) * 32 + 32 * int(rng.integers(2)),
  )
  return View((height, width), bool(rng.integers(2)), window, canvas)


@pytest.mark.parametrize('seed', range(60))
def test_masks_match_the_long_way(seed):
  rng = np.random.default_rng(seed)
  size = tuple(rng.integers(1, 90, 2).tolist())
  segmentations = [
    encode(random_mask(rng, size))
    if rng.random() < 0.6
    else tuple(random_polygon(rng, size) for _ in range(rng.integers(1, 3)))
    for _ in range(rng.integers(1, 6))
  ]
  check(segmentations, size, random_view(rng, size))


def test_no_instances():
  packed = pack_masks([], (40, 50), whole_view((40, 50), (64, 64)))
  assert packed.cells.shape == (0, 16, 2)
  assert packed.at_locations.shape == (0, -(-len(locations((64, 64))) // 8))
  assert packed.area.shape == (0,)
  assert packed.centroid.shape == (0, 2)


def test_mirrored_polygon_is_rasterised_after_mirroring():
  """Rounding is not symmetric, so mirroring the mask would give another one."""
  size = (20, 21)
  polygon = (np.asarray([3.2, 4.1, 9.7, 4.4, 6.5, 12.9], np.float32),)
  plain = decode(rasterize_polygons(polygon, size, size), size)
  mirrored = decode(rasterize_polygons(polygon, size, size, is_flipped=True), size)
  assert plain.sum() > 0
  assert (plain[:, ::-1] != mirrored).any()
  assert abs(int(plain.sum()) - int(mirrored.sum())) < 15


def unpacked(rows, size):
  return np.unpackbits(rows, axis=1)[:, : size[0] * size[1]].reshape(-1, *size) > 0


@needs_golden
def test_golden_rasteriser():
  unit = np.load(GOLDEN / 'unit.npz')
  polygons = json.loads((GOLDEN / 'unit_polygons.json').read_text())
  size = tuple(unit['raster_size_wh'][::-1].tolist())
  for parts, want in zip(
    polygons['raster_polygons'], unpacked(unit['raster_masks'], size), strict=True
  ):
    counts = rasterize_polygons(np.array(parts, np.float32), size, size)
    np.testing.assert_array_equal(decode(counts, size), want)


@needs_golden
def test_golden_resized_and_mirrored():
  unit = np.load(GOLDEN / 'unit.npz')
  polygons = json.loads((GOLDEN / 'unit_polygons.json').read_text())['tf_polygons']
  original, resized = (tuple(size[::-1].tolist()) for size in unit['tf_sizes_wh'])
  for i, parts in enumerate(polygons):
    parts = [np.asarray(part, np.float32) for part in parts]
    for key, size, is_flipped in [
      ('tf_masks_orig', original, False),
      ('tf_masks_resized', resized, False),
      ('tf_masks_flipped', resized, True),
    ]:
      counts = rasterize_polygons(parts, original, size, is_flipped=is_flipped)
      want = unpacked(unit[key], size)[i]
      np.testing.assert_array_equal(decode(counts, size), want, err_msg=key)


@needs_golden
def test_golden_stride_4():
  unit = np.load(GOLDEN / 'unit.npz')
  size, canvas, reduced = (tuple(row.tolist()) for row in unit['maskdown_shapes'])
  masks = unpacked(unit['maskdown_in'], size)
  cells, *_ = pack_masks([encode(m) for m in masks], size, whole_view(size, canvas))
  got = np.unpackbits(cells, axis=2).astype(bool)
  np.testing.assert_array_equal(got, unpacked(unit['maskdown_out'], reduced))


@needs_golden
def test_golden_ground_truth():
  """Boxes and masks of the assignment record, from its polygons."""
  golden = np.load(GOLDEN / 'assign.npz')
  polygons = json.loads((GOLDEN / 'assign_polygons.json').read_text())['polygons']
  size = tuple(golden['image_hw'].tolist())
  points = [
    np.concatenate([np.reshape(p, (-1, 2)) for p in parts]) for parts in polygons
  ]
  boxes = np.asarray([[*p.min(0), *np.ptp(p, axis=0)] for p in points])
  clipped = clip_boxes(boxes, np.tile(size, (len(boxes), 1)))
  is_kept = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
  np.testing.assert_array_equal(clipped[is_kept], golden['boxes'])
  masks = unpacked(golden['masks'], size)
  for parts, want in zip(
    (parts for parts, kept in zip(polygons, is_kept, strict=True) if kept),
    masks,
    strict=True,
  ):
    parts = [np.asarray(part, np.float32) for part in parts]
    counts = rasterize_polygons(parts, size, size)
    np.testing.assert_array_equal(decode(counts, size), want)
