import jax
import jax.numpy as jnp
import numpy as np
from synthetic import random_batch

from embedmask_jax.ops.boxes import box_iou, boxes_from_distances
from embedmask_jax.ops.locations import location_strides, locations
from embedmask_jax.presets import PRESETS
from embedmask_jax.proposal_sampling import (
  choose_proposals,
  draw_positives,
  drawn_proposals,
  mean_proposals,
  overlapping_proposals,
)
from embedmask_jax.structures import HeadOutputs
from embedmask_jax.targets import assign_targets

CANVAS = (96, 128)
P = len(locations(CANVAS))


def truth():
  """A batch of two instances, its targets, and perfect regressions in strides."""
  batch = random_batch(0, [CANVAS], CANVAS, [2])
  targets = assign_targets(batch, PRESETS['2019'])
  assert min(np.sum(targets.matched[0] == n) for n in range(2)) > 2
  return batch, targets, targets.box_regression / location_strides(CANVAS)[:, None]


def test_an_instance_is_represented_by_its_best_box():
  batch, targets, exact = truth()
  own = np.flatnonzero(targets.matched[0] == 1)
  poor = exact.at[0].multiply(0.5)
  best = poor.at[0, own[2]].set(exact[0, own[2]])
  chosen = choose_proposals(best, targets, batch.boxes, CANVAS)
  assert chosen[0, 1] == own[2]
  assert (chosen[0, 2:] == -1).all()


def test_all_boxes_above_half_are_averaged_and_otherwise_the_best():
  batch, targets, exact = truth()
  matched = np.asarray(targets.matched[0])
  scale = np.random.default_rng(0).uniform(0.5, 1, (P, 1)).astype(np.float32)
  # The second instance has poor boxes only.
  scale = np.where(matched[:, None] == 1, scale * 0.3, scale)
  regression = exact * scale
  selected = overlapping_proposals(regression, targets, batch.boxes, CANVAS)[0]

  distances = regression[0] * location_strides(CANVAS)[:, None]
  predicted = boxes_from_distances(locations(CANVAS), distances)
  iou = np.asarray(box_iou(predicted, batch.boxes[0][matched]))
  above = (matched == 0) & (iou > 0.5)
  assert 0 < above.sum() < (matched == 0).sum()
  best = np.where(matched == 1, iou, -1).argmax()
  assert iou[best] < 0.5
  np.testing.assert_array_equal(
    np.flatnonzero(selected), np.sort([*np.flatnonzero(above), best])
  )


def test_all_that_tie_for_the_best_are_averaged():
  batch, targets, exact = truth()
  selected = overlapping_proposals(exact * 0, targets, batch.boxes, CANVAS)
  np.testing.assert_array_equal(selected, targets.matched >= 0)


def test_the_slip_takes_strides_for_pixels():
  batch, targets, exact = truth()
  slip = overlapping_proposals(
    targets.box_regression, targets, batch.boxes, CANVAS, has_stride_slip=True
  )
  right = overlapping_proposals(exact, targets, batch.boxes, CANVAS)
  np.testing.assert_array_equal(slip, right)
  np.testing.assert_array_equal(right, targets.matched >= 0)


def test_means_and_spread_by_hand():
  _, targets, _ = truth()
  rng = np.random.default_rng(1)
  embedding = rng.normal(size=(1, P, 3)).astype(np.float32)
  margin = rng.random((1, P, 1)).astype(np.float32)
  outputs = HeadOutputs(
    class_logits=None,
    box_regression=None,
    centerness=None,
    proposal_embedding=jnp.asarray(embedding),
    margin=jnp.asarray(margin),
    pixel_embedding=None,
  )
  selected = (targets.matched >= 0) & (rng.random((1, P)) < 0.7)
  samples = jax.jit(mean_proposals, static_argnums=3)(outputs, targets, selected, 4)
  assert samples.valid[0].tolist() == [True, True, False, False]
  spread = 0.0
  for n in range(2):
    own = np.flatnonzero(selected[0] & (targets.matched[0] == n))
    for found, array in ((samples.embedding, embedding), (samples.margin, margin)):
      mean = array[0, own].mean(axis=0)
      np.testing.assert_allclose(found[0, n], mean, rtol=1e-5, atol=1e-6)
      spread += np.sum((array[0, own] - mean) ** 2)
  np.testing.assert_allclose(samples.spread[0], spread, rtol=1e-5)


def test_all_positives_are_taken_below_the_limit_and_that_many_above():
  positive = np.random.default_rng(2).random((3, 200)) < 0.4
  draw = jax.jit(draw_positives, static_argnames='limit')
  count = int(positive.sum())
  for limit in (count, count + 1, 600, 1000):
    drawn = draw(positive, jax.random.key(0), limit=limit)
    np.testing.assert_array_equal(drawn, positive)
  first, second = (
    np.asarray(draw(positive, jax.random.key(k), limit=50)) for k in (0, 1)
  )
  for drawn in (first, second):
    assert drawn.sum() == 50
    assert not (drawn & ~positive).any()
    assert drawn.any(axis=1).all()
  assert (first != second).any()
  assert not draw(np.zeros((2, 30), bool), jax.random.key(0), limit=50).any()


def test_every_drawn_location_is_a_sample_of_its_instance():
  _, targets, _ = truth()
  embedding = np.random.default_rng(3).normal(size=(1, P, 3)).astype(np.float32)
  outputs = HeadOutputs(
    class_logits=None,
    box_regression=None,
    centerness=None,
    proposal_embedding=jnp.asarray(embedding),
    margin=jnp.asarray(embedding[..., :1]),
    pixel_embedding=None,
  )
  samples = drawn_proposals(outputs, targets, targets.matched >= 0)
  place = np.flatnonzero(targets.matched[0] >= 0)
  valid = np.asarray(samples.valid[0])
  assert valid.sum() == len(place)
  np.testing.assert_array_equal(samples.instance[0][valid], targets.matched[0, place])
  np.testing.assert_array_equal(samples.embedding[0][valid], embedding[0, place])
  np.testing.assert_array_equal(samples.margin[0][valid], embedding[0, place, :1])
