"""A prediction in the forms that others read."""

import sys

import numpy as np
import pytest
from handmade_prediction import SIZE, crowded_prediction, masks, prediction
from peak_memory import peak_memory
from pycocotools import mask as rle

from embedmask_jax.errors import UserError


def test_masks_and_selection():
  found = prediction()
  np.testing.assert_array_equal(found.masks, masks())
  assert len(found.above(0.5)) == 2
  last = found.select(np.asarray([2, 0]))
  assert last.scores.tolist() == pytest.approx([0.4, 0.9])
  np.testing.assert_array_equal(last.masks, masks()[[2, 0]])
  assert '3 instances in 60x40 pixels: a/b 0.90, box 0.60' in repr(found)


def test_coco_results():
  results = prediction().to_coco(image_id=7, file_name='x.png')
  assert results[0]['bbox'] == [5, 4, 30, 26]
  assert results[1]['category_id'] == 3
  assert results[1]['category_name'] == 'box'
  for entry, mask in zip(results, masks(), strict=True):
    assert (entry['image_id'], entry['file_name']) == (7, 'x.png')
    np.testing.assert_array_equal(rle.decode(entry['segmentation']), mask)


def test_polygons_are_in_pixels_of_the_image():
  ring, squares, nothing = prediction().polygons()
  assert sorted(map(tuple, ring[0][0].tolist())) == [(5, 4), (5, 30), (35, 4), (35, 30)]
  assert len(ring[0]) == 2
  assert [len(polygon) for polygon in squares] == [1, 1]
  assert nothing == []


def test_label_map_gives_shared_pixels_to_the_better_score():
  numbers = prediction().label_map()
  assert numbers[12, 7] == 1
  assert numbers[27, 32] == 1
  assert numbers[36, 32] == numbers[26, 55] == 2
  assert numbers[0, 0] == 0


def test_cutouts_have_alpha_where_the_mask_is():
  found = prediction()
  cutout = found.cutout(0)
  assert cutout.shape == (26, 30, 4)
  np.testing.assert_array_equal(cutout[..., 3] == 255, found.windows[0].pixels)
  np.testing.assert_array_equal(cutout[..., :3], found.image[4:30, 5:35])
  assert found.cutout(2).shape == (1, 1, 4)


def test_a_notebook_sees_the_picture():
  found = prediction()
  assert found._repr_png_().startswith(b'\x89PNG')
  # Small images are enlarged by a whole factor.
  assert found.plot().size == (13 * SIZE[1], 13 * SIZE[0])


def test_a_picture_of_many_instances_takes_little_memory():
  assert peak_memory(crowded_prediction().plot) < 20e6


def test_supervision(monkeypatch):
  supervision = pytest.importorskip('supervision')
  found = prediction().to_supervision()
  assert isinstance(found, supervision.Detections)
  np.testing.assert_array_equal(found.mask, masks())
  # Boxes end at the edge of the last pixel.
  np.testing.assert_allclose(found.xyxy[0], [5, 4, 35, 30])
  assert found.class_id.tolist() == [1, 0, 1]
  assert found['class_name'].tolist() == ['a/b', 'box', 'a/b']


def test_without_supervision_the_remedy_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'supervision', None)
  with pytest.raises(UserError, match='pip install supervision'):
    prediction().to_supervision()
