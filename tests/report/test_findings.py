"""Matches, thresholds, calibration and confusion on data small enough to count."""

import numpy as np
import pytest

from embedmask_jax.metrics.ground_truth import read_ground_truth
from embedmask_jax.metrics.results import read_results
from embedmask_jax.report.findings import (
  best_operating_point,
  calibration,
  confusion,
  image_qualities,
)
from embedmask_jax.report.matching import CROWD, NOTHING, confused, match_images

CATEGORIES = [{'id': 3, 'name': 'cat'}, {'id': 7, 'name': 'dog'}]


def box(image_id, category_id, x, **more):
  return {
    'image_id': image_id,
    'category_id': category_id,
    'bbox': [x, 0, 10, 10],
  } | more


@pytest.fixture
def images():
  """Image 1: a cat found twice, a dog taken for a cat; image 2: a cat missed, a crowd.

  Image 3 is empty but for a false dog; image 4 is empty.
  """
  truth = read_ground_truth(
    {
      'images': [{'id': i, 'height': 50, 'width': 200} for i in (1, 2, 3, 4)],
      'categories': CATEGORIES,
      'annotations': [
        box(1, 3, 0, id=1),
        box(1, 7, 50, id=2),
        box(2, 3, 0, id=3),
        box(2, 3, 100, id=4, iscrowd=1),
      ],
    }
  )
  results = [
    box(1, 3, 1, score=0.9),
    box(1, 3, 0, score=0.8),
    box(1, 3, 52, score=0.7),
    box(2, 3, 101, score=0.6),
    box(3, 7, 20, score=0.3),
  ]
  return match_images(truth, read_results(results, truth), 'bbox')


def test_the_best_score_chooses_first(images):
  assert images[0].scores.tolist() == [0.9, 0.8, 0.7]
  assert images[0].found.tolist() == [0, NOTHING, NOTHING]
  assert images[1].found.tolist() == [CROWD]
  assert images[1].truth_labels.tolist() == [0]
  assert images[2].found.tolist() == [NOTHING]
  assert len(images[3].scores) == 0


def test_confusion(images):
  assert confused(images[0], 0.5) == [(2, 1)]
  assert confused(images[0], 0.75) == []
  # cat, dog, nothing there against cat, dog, missed.
  np.testing.assert_array_equal(
    confusion(images, 2, 0.5), [[1, 0, 1], [1, 0, 0], [1, 0, 0]]
  )
  np.testing.assert_array_equal(
    confusion(images, 2, 0.0), [[1, 0, 1], [1, 0, 0], [1, 1, 0]]
  )


def test_operating_point(images):
  point = best_operating_point(images)
  # With 0.9 alone: one of one right, one of three found.
  assert point.threshold == pytest.approx(0.9)
  assert (point.precision, point.recall) == (1, pytest.approx(1 / 3))
  assert point.f1 == pytest.approx(0.5)
  assert best_operating_point([]).f1 == 0


def test_calibration(images):
  found = calibration(images)
  assert found.scores == pytest.approx([0.3, 0.7, 0.8, 0.9])
  assert found.shares == [0, 0, 0, 1]
  assert found.error == pytest.approx((0.3 + 0.7 + 0.8 + 0.1) / 4)
  assert calibration([]).counts == []


def test_qualities(images):
  one, two, three = image_qualities(images, 0.5)[:2] + image_qualities(images, 0.2)[2:]
  assert (one.num_found, one.num_wrong, one.num_missed, one.num_confused) == (
    1,
    2,
    1,
    1,
  )
  assert one.quality == pytest.approx(90 / 110 / 2.5)
  assert (two.quality, two.num_wrong, two.num_missed) == (0, 0, 1)
  assert (three.quality, three.num_wrong) == (0, 1)
  # Nothing is to be said about an image with nothing in it.
  assert [q.index for q in image_qualities(images, 0.2)] == [0, 1, 2]
