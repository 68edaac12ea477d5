import io

import numpy as np
import pytest
from coco_files import disc, encode_mask, noise
from PIL import Image
from shared_data import SHARED

from embedmask_jax.data.image_source import ImageRecord
from embedmask_jax.data.masks import pack_masks
from embedmask_jax.data.transforms import (
  cut_out,
  empty_batch,
  fill_example,
  fill_image,
  show_boxes,
)
from embedmask_jax.data.views import View, whole_view
from embedmask_jax.structures import Batch

UNIT = SHARED / 'golden' / '2021' / 'public' / 'unit.npz'


def make_record(size, discs, seed=0):
  image = noise(np.random.default_rng(seed), size)
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, 'PNG')
  masks = [disc(size, *item) for item in discs]
  boxes = [
    [m.any(0).argmax(), m.any(1).argmax(), *(np.argwhere(m).max(0)[::-1])]
    for m in masks
  ]
  return ImageRecord(
    image_id=5,
    file_name='a.png',
    height=size[0],
    width=size[1],
    encoded=stream.getvalue(),
    annotation_ids=np.arange(len(discs)) + 1,
    labels=np.arange(len(discs), dtype=np.int32),
    boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
    segmentations=tuple(encode_mask(mask) for mask in masks),
  ), image


def example(record, view, num_instances=4):
  batch = empty_batch(1, view.canvas, num_instances)
  fill_example(batch, 0, record, view, 9)
  return {name: array[0] for name, array in batch.items()}


def test_fields_are_those_of_batch():
  batch = empty_batch(2, (64, 96), 3)
  assert batch.keys() == Batch.__dataclass_fields__.keys()
  assert not any(array.any() for n, array in batch.items() if n != 'image_index')
  assert batch['image_index'].tolist() == [-1, -1]
  assert batch['masks'].shape == (2, 3, 16, 3)
  # 8x12 + 4x6 + 2x3 + 1x2 + 1x1 locations.
  assert batch['location_masks'].shape == (2, 3, 17)


@pytest.mark.skipif(not UNIT.is_file(), reason='no ../shared')
def test_golden_boxes():
  unit = np.load(UNIT)
  (width, height), resized = unit['tf_sizes_wh'].tolist()
  for key, is_flipped in [('tf_boxes_resized', False), ('tf_boxes_flipped', True)]:
    view = whole_view(tuple(resized[::-1]), (160, 224), is_flipped=is_flipped)
    boxes, is_kept = show_boxes(unit['tf_boxes'], (height, width), view)
    np.testing.assert_array_equal(boxes, unit[key])
    assert is_kept.all()


def test_whole_image():
  record, image = make_record((40, 50), [(20, 20, 9), (30, 40, 5)])
  row = example(record, whole_view((60, 75), (64, 96)))
  want = np.asarray(Image.fromarray(image).resize((75, 60), Image.Resampling.BILINEAR))
  np.testing.assert_array_equal(row['images'][:60, :75], want)
  assert not row['images'][60:].any()
  assert not row['images'][:, 75:].any()
  assert row['image_size'].tolist() == [60, 75]
  assert row['valid_size'].tolist() == [64, 96]
  assert row['original_size'].tolist() == [40, 50]
  assert row['image_index'] == 9
  assert row['example_valid']
  assert row['instance_valid'].tolist() == [True, True, False, False]
  assert row['labels'].tolist() == [0, 1, 0, 0]
  np.testing.assert_allclose(row['boxes'][:2], record.boxes * 1.5)
  assert not row['boxes'][2:].any()
  assert row['masks'][:2].any(axis=(1, 2)).all()
  assert not row['masks'][2:].any()


def test_flip_mirrors_everything():
  record, _ = make_record((64, 64), [(20, 20, 9), (40, 50, 6)])
  plain = example(record, whole_view((64, 64), (64, 64)))
  mirrored = example(record, whole_view((64, 64), (64, 64), is_flipped=True))
  np.testing.assert_array_equal(plain['images'][:, ::-1], mirrored['images'])
  boxes = plain['boxes'][:2]
  np.testing.assert_array_equal(
    mirrored['boxes'][:2],
    np.stack([63 - boxes[:, 2], boxes[:, 1], 63 - boxes[:, 0], boxes[:, 3]], 1),
  )
  # A cell takes the pixels 4x+1, 4x+2: the two in the middle, also when mirrored.
  cells = [np.unpackbits(row['masks'], axis=2) for row in (plain, mirrored)]
  np.testing.assert_array_equal(cells[0][:, :, ::-1], cells[1])


def crop_view(resized, window, *, is_flipped=False):
  canvas = tuple(-(-side // 32) * 32 for side in window[2:])
  return View(resized, is_flipped, window, canvas, is_crop=True)


@pytest.mark.parametrize('is_flipped', [False, True])
@pytest.mark.parametrize('resized', [(90, 120), (45, 60), (150, 200)])
def test_crop_is_a_part_of_the_whole(resized, is_flipped):
  record, _ = make_record((90, 120), [(40, 50, 20), (20, 90, 10)])
  window = (8, 16, 32, 32)
  whole_canvas = tuple(-(-side // 32) * 32 for side in resized)
  whole = example(record, whole_view(resized, whole_canvas, is_flipped=is_flipped))
  view = crop_view(resized, window, is_flipped=is_flipped)
  part = example(record, view)
  want = whole['images'][8:40, 16:48].astype(int)
  assert np.abs(part['images'] - want).max() <= 1
  assert part['image_size'].tolist() == [32, 32]
  boxes, is_kept = show_boxes(record.boxes, (90, 120), view)
  shifted = whole['boxes'][:2] - [16, 8, 16, 8]
  np.testing.assert_allclose(boxes, np.clip(shifted, 0, 31), atol=1e-4)
  cells = np.unpackbits(whole['masks'], axis=2)[:2, 2:10, 4:12]
  masks = np.packbits(cells, axis=2)
  is_kept &= pack_masks(record.segmentations, (90, 120), view).area > 0
  count = int(is_kept.sum())
  assert part['instance_valid'].sum() == count
  np.testing.assert_array_equal(part['masks'][:count], masks[is_kept])
  np.testing.assert_array_equal(part['labels'][:count], record.labels[is_kept])


def test_crop_drops_what_cannot_be_seen():
  # In the corner of its box that the window shows, the second disc has no pixel.
  discs = [(20, 20, 8), (45, 45, 15), (60, 80, 5), (16, 33, 3)]
  record, _ = make_record((90, 120), discs)
  row = example(record, crop_view((90, 120), (0, 0, 32, 32)))
  assert row['labels'][row['instance_valid']].tolist() == [0, 3]
  assert row['boxes'][1].tolist() == [30, 13, 31, 19]


def test_box_cut_to_one_column_goes_and_an_uncut_one_stays():
  boxes = np.asarray([[31, 0, 40, 20], [30, 0, 40, 20], [5, 5, 5, 9]], np.float32)
  shown, is_kept = show_boxes(boxes, (64, 64), crop_view((64, 64), (0, 0, 32, 32)))
  assert is_kept.tolist() == [False, True, True]
  assert shown[1].tolist() == [30, 0, 31, 20]
  assert shown[2].tolist() == [5, 5, 5, 9]
  assert show_boxes(boxes, (64, 64), whole_view((64, 64), (64, 64)))[1].all()


def test_image_smaller_than_the_crop_is_padded():
  record, image = make_record((20, 70), [(10, 10, 5)])
  row = example(record, View((20, 70), False, (0, 7, 20, 48), (64, 64), True))
  np.testing.assert_array_equal(row['images'][:20, :48], image[:, 7:55])
  assert not row['images'][20:].any()
  assert row['image_size'].tolist() == [20, 48]


@pytest.mark.parametrize('is_flipped', [False, True])
def test_window_at_the_far_corner(is_flipped):
  image = Image.fromarray(noise(np.random.default_rng(3), (41, 53)))
  for resized in [(97, 131), (23, 29), (41, 53)]:
    height, width = resized
    view = View(resized, is_flipped, (height - 9, width - 11, 9, 11), (32, 32), True)
    assert cut_out(image, view).size == (11, 9)


@pytest.mark.parametrize('is_flipped', [False, True])
@pytest.mark.parametrize('width', [1, 50, 400, 2000])
def test_pixels_arrive_whatever_the_size(width, is_flipped):
  pixels = np.random.default_rng(0).integers(0, 256, (333, width, 3), np.uint8)
  canvas = (352, -(-width // 32) * 32)
  batch = empty_batch(2, canvas, 1)
  view = whole_view((333, width), canvas, is_flipped=is_flipped)
  fill_image(batch, 1, Image.fromarray(pixels), view, 4)
  want = np.zeros((*canvas, 3), np.uint8)
  want[:333, :width] = pixels[:, ::-1] if is_flipped else pixels
  np.testing.assert_array_equal(batch['images'][1], want)
  assert not batch['images'][0].any()
