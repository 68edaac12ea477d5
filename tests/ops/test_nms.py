import jax
import numpy as np

from embedmask_jax.ops.nms import greedy_nms


def overlap(a, b):
  width = min(a[2], b[2]) - max(a[0], b[0]) + 1
  height = min(a[3], b[3]) - max(a[1], b[1]) + 1
  if width <= 0 or height <= 0:
    return 0.0
  areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
  return width * height / (sum(areas) - width * height)


def one_by_one(boxes, labels, valid, threshold):
  keep: list[int] = []
  for i in range(len(boxes)):
    rivals = [j for j in keep if labels[j] == labels[i]]
    if valid[i] and all(overlap(boxes[i], boxes[j]) <= threshold for j in rivals):
      keep.append(i)
  return np.isin(np.arange(len(boxes)), keep)


def test_agrees_with_going_down_the_list():
  for seed in range(5):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (200, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    labels = rng.integers(0, 3, 200)
    valid = rng.random(200) < 0.9
    keep = greedy_nms(boxes, labels, valid, threshold=0.4)
    np.testing.assert_array_equal(keep, one_by_one(boxes, labels, valid, 0.4))


def test_a_suppressed_box_suppresses_nothing():
  # A chain: each box overlaps the next, so every second one is kept.
  start = np.arange(50, dtype=np.float32) * 4
  boxes = np.stack([start, 0 * start, start + 9, 0 * start + 9], axis=1)
  labels, valid = np.zeros(50, np.int32), np.ones(50, bool)
  keep = greedy_nms(boxes, labels, valid, threshold=0.3)
  np.testing.assert_array_equal(keep, np.arange(50) % 2 == 0)


def test_iou_equal_to_the_threshold_survives():
  boxes = np.asarray([[0, 0, 9, 9], [0, 0, 9, 5]], np.float32)  # IoU 60 / 100
  keep = greedy_nms(boxes, np.zeros(2), np.ones(2, bool), threshold=0.6)
  assert keep.tolist() == [True, True]
  keep = greedy_nms(boxes, np.zeros(2), np.ones(2, bool), threshold=0.59)
  assert keep.tolist() == [True, False]


def test_nothing_valid_keeps_nothing():
  boxes = np.zeros((4, 4), np.float32)
  keep = jax.jit(lambda v: greedy_nms(boxes, np.zeros(4), v, threshold=0.6))(
    np.zeros(4, bool)
  )
  assert not keep.any()
