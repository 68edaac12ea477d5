import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embedmask_jax.ops import lovasz
from embedmask_jax.ops.lovasz import logit_from_log_probability, lovasz_hinge


def lovasz_by_definition(errors: np.ndarray, targets: np.ndarray) -> float:
  """Adds the pixels in order of their errors and counts the Jaccard loss."""
  loss, previous = 0.0, 0.0
  wrong_targets = wrong_others = 0
  total = targets.sum()
  for i in np.argsort(-errors, kind='stable'):
    wrong_targets += targets[i]
    wrong_others += not targets[i]
    jaccard = 1 - (total - wrong_targets) / (total + wrong_others)
    loss += max(errors[i], 0) * (jaccard - previous)
    previous = jaccard
  return loss


@pytest.mark.parametrize('positive_share', [0.0, 0.3, 1.0])
def test_loss_is_the_definition(positive_share):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 50)).astype(np.float32)
  targets = rng.random((3, 50)) < positive_share
  errors = 1 - logits * np.where(targets, 1, -1)
  expected = [lovasz_by_definition(e, t) for e, t in zip(errors, targets, strict=True)]
  np.testing.assert_allclose(lovasz_hinge(logits, targets), expected, rtol=2e-6)


def test_gradient_is_that_of_the_sorted_sum():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=40).astype(np.float32)
  targets = rng.random(40) < 0.4
  step = 1e-3
  gradient = jax.grad(lambda x: lovasz_hinge(x, targets))(jnp.asarray(logits))
  for i in range(40):
    shifted = [logits + s * step * (np.arange(40) == i) for s in (-1, 1)]
    low, high = (
      lovasz_by_definition(1 - x * np.where(targets, 1, -1), targets) for x in shifted
    )
    np.testing.assert_allclose(gradient[i], (high - low) / (2 * step), atol=2e-4)


def test_pixels_that_tie_share_their_gradient():
  logits = jnp.asarray([0.5, 0.5, -0.5, 0.2])
  targets = jnp.asarray([False, False, True, True])
  gradient = jax.grad(lambda x: lovasz_hinge(x, targets))(logits)
  assert gradient[0] == gradient[1] > 0
  flipped = jax.grad(lambda x: lovasz_hinge(x, targets[::-1]))(logits[::-1])
  np.testing.assert_array_equal(flipped[::-1], gradient)


def test_pixels_that_are_not_valid_do_not_count():
  rng = np.random.default_rng(2)
  logits = rng.normal(size=60).astype(np.float32)
  targets = rng.random(60) < 0.5
  valid = np.arange(60) < 45
  np.testing.assert_allclose(
    lovasz_hinge(logits, targets, valid),
    lovasz_hinge(logits[:45], targets[:45]),
    rtol=1e-6,
  )
  gradient = jax.grad(lambda x: lovasz_hinge(x, targets, valid))(jnp.asarray(logits))
  np.testing.assert_array_equal(gradient[45:], 0)


def test_logits_and_gradients_are_finite_at_both_ends():
  log_p = jnp.asarray([0.0, -1e-9, -1e-3, -5.0, -50.0, -1e4])
  logits = logit_from_log_probability(log_p)
  assert np.all(np.isfinite(logits))
  np.testing.assert_allclose(logits[2:4], [6.907255, -4.993239], rtol=1e-6)
  gradient = jax.grad(lambda x: logit_from_log_probability(x).sum())(log_p)
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize('positive_share', [0.0, 0.3, 1.0])
def test_both_ways_of_finding_the_weights_agree(positive_share):
  rng = np.random.default_rng(3)
  # Many of them tie.
  errors = jnp.asarray(np.maximum(rng.integers(-8, 9, (4, 300)) / 4, 0), jnp.float32)
  targets = jnp.asarray(rng.random((4, 300)) < positive_share)
  keys = lovasz._sort_keys(errors, targets)
  searched = lovasz.weights_by_search(keys, dtype=errors.dtype)
  in_order = lovasz.weights_by_sorting(keys, dtype=errors.dtype)
  for one, other in zip(searched, in_order, strict=True):
    np.testing.assert_array_equal(one, other)
