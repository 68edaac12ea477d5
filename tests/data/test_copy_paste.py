"""Pasting, held against whole masks on whole pictures."""

import io

import numpy as np
import pytest
from coco_files import disc, encode_mask, noise
from mask_twin import network_mask, packed
from PIL import Image

from embedmask_jax.data.copy_paste import paste_instances
from embedmask_jax.data.decode import open_rgb
from embedmask_jax.data.image_source import ImageRecord
from embedmask_jax.data.transforms import empty_batch, fill_image, show_boxes
from embedmask_jax.data.views import Paste, View, whole_view
from embedmask_jax.presets import PRESETS

ROOM = 12


def outline(y, x, radius):
  angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
  points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)
  return (np.round(points, 2).astype(np.float32).ravel(),)


def make_record(size, discs, *, seed=0, outlines=()):
  """An image of noise; discs as (y, x, radius), some of them as polygons."""
  stream = io.BytesIO()
  Image.fromarray(noise(np.random.default_rng(seed), size)).save(stream, 'PNG')
  boxes = [[x - r, y - r, x + r, y + r] for y, x, r in discs]
  limits = np.asarray([size[1], size[0]] * 2) - 1
  return ImageRecord(
    image_id=seed,
    file_name=f'{seed}.png',
    height=size[0],
    width=size[1],
    encoded=stream.getvalue(),
    annotation_ids=np.arange(len(discs)),
    labels=(np.arange(len(discs)) + 10 * seed).astype(np.int32),
    boxes=np.clip(np.asarray(boxes, np.float32).reshape(-1, 4), 0, limits),
    segmentations=tuple(
      outline(*item) if i in outlines else encode_mask(disc(size, *item))
      for i, item in enumerate(discs)
    ),
  )


def shown(record, view):
  """Pixels and masks of an image on the canvas."""
  batch = empty_batch(1, view.canvas, 1)
  image = open_rgb(record.encoded, record.file_name, (record.height, record.width))
  fill_image(batch, 0, image, view, 0)
  size = (record.height, record.width)
  masks = [network_mask(item, size, view) for item in record.segmentations]
  return batch['images'][0], masks


def box_around(mask, extent):
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  more = 1 - extent
  return [columns[0], rows[0], columns[-1] + more, rows[-1] + more]


def has_sides(mask, extent):
  """Whether a mask is wide and high enough for a box."""
  return mask.any(0).sum() > 0 and all(
    np.ptp(np.flatnonzero(mask.any(axis))) + 1 > extent for axis in (0, 1)
  )


def pasted_the_long_way(record, view, other, paste):
  """Pixels, and per instance (mask, box, label)."""
  extent = view.preset.box_extent
  pixels, masks = shown(record, view)
  other_pixels, other_masks = shown(other, paste.view)

  def moved(array):
    canvas = np.zeros_like(pixels[..., : array.shape[2]] if array.ndim == 3 else masks0)
    height, width = paste.view.image_size
    top, left = paste.corner
    canvas[top : top + height, left : left + width] = array[:height, :width]
    return canvas

  masks0 = np.zeros(view.canvas, bool)
  over = [(moved(other_masks[i]), other.labels[i]) for i in paste.chosen]
  over = [item for item in over if has_sides(item[0], extent)]
  covered = np.any([mask for mask, _ in over], axis=0) if over else masks0
  boxes, is_kept = show_boxes(record.boxes, (record.height, record.width), view)
  found = []
  for mask, box, kept, label in zip(masks, boxes, is_kept, record.labels, strict=True):
    left = mask & ~covered
    if not kept or (view.is_crop and not mask.any()):
      continue
    if (left == mask).all():
      found.append((mask, box, label))
    elif has_sides(left, extent) and left.sum() >= 0.1 * mask.sum():
      found.append((left, box_around(left, extent), label))
  found += [(mask, box_around(mask, extent), label) for mask, label in over]
  return np.where(covered[..., None], moved(other_pixels), pixels), found


def filled(record, view, other, paste):
  batch = empty_batch(2, view.canvas, ROOM)
  image = open_rgb(record.encoded, record.file_name, (record.height, record.width))
  fill_image(batch, 1, image, view, 0)
  paste_instances(batch, 1, record, view, other, paste)
  assert not batch['instance_valid'][0].any()
  return {name: array[1] for name, array in batch.items()}


def check(record, view, other, paste):
  row = filled(record, view, other, paste)
  pixels, instances = pasted_the_long_way(record, view, other, paste)
  np.testing.assert_array_equal(row['images'], pixels)
  count = len(instances)
  assert row['instance_valid'].tolist() == [True] * count + [False] * (ROOM - count)
  for i, (mask, box, label) in enumerate(instances):
    assert row['labels'][i] == label
    np.testing.assert_array_equal(row['boxes'][i], np.asarray(box, np.float32))
    cells, at_locations = packed(mask, view)
    np.testing.assert_array_equal(row['masks'][i], cells)
    np.testing.assert_array_equal(row['location_masks'][i], at_locations)
    assert row['mask_area'][i] == mask.sum()
    rows, columns = np.nonzero(mask)
    middle = (columns.mean(), rows.mean()) if len(rows) else (0, 0)
    np.testing.assert_allclose(row['mask_centroid'][i], middle, rtol=1e-5)
  for name in ('boxes', 'labels', 'masks', 'location_masks', 'mask_area'):
    assert not row[name][count:].any()
  return row


def random_discs(rng, size, count):
  return [(*rng.uniform(0, size), rng.uniform(0.5, 14)) for _ in range(count)]


def random_view(rng, size, canvas, preset, *, limits, is_crop):
  resized = tuple(max(int(side * rng.choice([0.4, 1, 1.6])), 1) for side in size)
  window = np.minimum(resized, limits) if is_crop else np.asarray(resized)
  corner = [int(rng.integers(room + 1)) for room in resized - window]
  flip = bool(rng.integers(2))
  window = (*corner, *window.tolist())
  return View(resized, flip, window, canvas, is_crop, PRESETS[preset])


@pytest.mark.parametrize('seed', range(40))
def test_pasting_matches_the_long_way(seed):
  rng = np.random.default_rng(seed)
  preset = ['2021', 'adelaidet'][seed % 2]
  size, other_size = (tuple(rng.integers(20, 60, 2).tolist()) for _ in range(2))
  record = make_record(size, random_discs(rng, size, 5), seed=1, outlines=(1, 3))
  other = make_record(
    other_size, random_discs(rng, other_size, 4), seed=2, outlines=(0,)
  )
  view = random_view(
    rng, size, (96, 96), preset, limits=(40, 48), is_crop=bool(rng.integers(2))
  )
  shown_of = random_view(
    rng, other_size, (96, 96), preset, limits=view.image_size, is_crop=True
  )
  room = np.subtract(view.image_size, shown_of.image_size)
  corner = tuple(int(rng.integers(side + 1)) for side in room)
  chosen = tuple(np.flatnonzero(rng.random(4) < 0.7).tolist()) or (0,)
  check(record, view, other, Paste(0, shown_of, corner, chosen))


def plain(size, *discs_under, over, corner=(0, 0)):
  """Discs of one image under discs of another, both shown as they are."""
  record = make_record(size, discs_under, seed=1)
  other = make_record(size, over, seed=2)
  view = whole_view(size, (64, 64))
  window = (0, 0, size[0] - corner[0], size[1] - corner[1])
  pasted = View(size, False, window, (64, 64), is_crop=True)
  return check(
    record, view, other, Paste(0, pasted, corner, tuple(range(len(over))))
  ), record


def labels(row):
  return row['labels'][row['instance_valid']].tolist()


def test_what_is_wholly_covered_goes_and_what_is_not_touched_stays():
  row, record = plain((64, 64), (20, 20, 5), (50, 50, 6.4), over=[(20, 20, 9)])
  assert labels(row) == [11, 20]
  # As annotated, a little off the pixels.
  np.testing.assert_array_equal(row['boxes'][0], record.boxes[1])
  assert row['boxes'][1].tolist() == [11, 11, 29, 29]


@pytest.mark.parametrize(('x', 'is_left'), [(36, False), (37, True)])
def test_a_tenth_must_be_left(x, is_left):
  row, _ = plain((64, 64), (30, 30, 10), over=[(30, x, 14)])
  assert labels(row) == ([10, 20] if is_left else [20])


def test_boxes_follow_what_is_left():
  row, _ = plain((64, 64), (30, 30, 10), over=[(30, 42, 12)])
  mask = disc((64, 64), 30, 30, 10) & ~disc((64, 64), 30, 42, 12)
  assert row['boxes'][0].tolist() == box_around(mask, 1)
  assert row['boxes'][0][2] < 40


def test_an_image_without_instances_gets_some():
  row, _ = plain((64, 64), over=[(20, 20, 9), (40, 40, 3)], corner=(5, 9))
  assert labels(row) == [20, 21]
  assert row['boxes'][1].tolist() == [46, 42, 52, 48]


def test_an_instance_that_a_cut_misses_is_not_pasted():
  record, other = (make_record((64, 64), [(40, 40, 5)], seed=seed) for seed in (1, 2))
  view = whole_view((64, 64), (64, 64))
  pasted = View((64, 64), False, (0, 0, 30, 30), (64, 64), is_crop=True)
  row = check(record, view, other, Paste(0, pasted, (20, 20), (0,)))
  assert labels(row) == [10]
  np.testing.assert_array_equal(row['images'], shown(record, view)[0])
