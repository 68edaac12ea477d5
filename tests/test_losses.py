from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from synthetic import random_batch, tiny_model, tiny_variables

from embedmask_jax.losses import (
  binary_cross_entropy,
  choose_proposals,
  compute_losses,
  focal_loss,
  giou_loss,
  mask_loss,
  normalisers,
)
from embedmask_jax.ops.locations import location_strides, locations
from embedmask_jax.targets import assign_targets

CANVAS = (96, 128)


def network_outputs(batch):
  model = tiny_model()

  @jax.jit
  def apply(variables, batch):
    return model.apply(
      variables, batch.images, batch.image_size, batch.valid_size, train=False
    )

  return apply(tiny_variables(), batch)


@jax.jit
def losses_of(batch, outputs):
  targets = assign_targets(batch)
  total = normalisers(batch, targets)
  return compute_losses(outputs, targets, batch, total, spatial_dims=2)


def test_focal_loss_by_hand():
  loss = focal_loss(jnp.asarray([[0.0, 2.0]]), jnp.asarray([0]))
  p = 1 / (1 + np.exp(-2.0))
  expected = [0.25 * 0.25 * np.log(2), 0.75 * p**2 * -np.log(1 - p)]
  np.testing.assert_allclose(loss[0], expected, rtol=1e-6)


def test_giou_loss_of_disjoint_and_equal_boxes():
  box = jnp.asarray([1.0, 2.0, 3.0, 4.0])
  np.testing.assert_allclose(giou_loss(box, box), 0, atol=1e-6)
  # 2x2 around the point against 1x1 to its lower right.
  loss = giou_loss(jnp.asarray([1.0, 1, 1, 1]), jnp.asarray([0.0, 0, 1, 1]))
  np.testing.assert_allclose(loss, 1 - 2 / 5, rtol=1e-6)


def test_cross_entropy_is_stable_and_right():
  logits = jnp.asarray([0.3, -200.0, 200.0])
  loss = binary_cross_entropy(logits, jnp.asarray([0.7, 1.0, 0.5]))
  p = 1 / (1 + np.exp(-0.3))
  by_hand = -0.7 * np.log(p) - 0.3 * np.log(1 - p)
  np.testing.assert_allclose(loss, [by_hand, 200, 100], rtol=1e-6)


def test_an_instance_is_represented_by_its_best_box():
  batch = random_batch(0, [CANVAS], CANVAS, [2])
  targets = assign_targets(batch)
  own = np.flatnonzero(targets.matched[0] == 1)
  assert len(own) > 2
  exact = targets.box_regression / location_strides(CANVAS)[:, None]
  poor = exact.at[0].multiply(0.5)
  best = poor.at[0, own[2]].set(exact[0, own[2]])
  chosen = choose_proposals(best, targets, batch.boxes, CANVAS)
  assert chosen[0, 1] == own[2]
  assert (chosen[0, 2:] == -1).all()


def test_permuted_instances_give_the_same_losses():
  batch = random_batch(1, [CANVAS] * 2, CANVAS, [4, 3])
  outputs = network_outputs(batch)
  order = np.asarray([2, 0, 3, 1])
  permuted = batch.replace(
    **{
      name: getattr(batch, name)[:, order]
      for name in ('boxes', 'labels', 'instance_valid', 'masks', 'location_masks')
    }
  )
  losses, other = losses_of(batch, outputs), losses_of(permuted, outputs)
  for name, value in losses.items():
    np.testing.assert_allclose(other[name], value, rtol=1e-5)


def test_more_padded_instances_change_nothing():
  few = random_batch(2, [CANVAS], CANVAS, [3], padded_instances=4)
  many = random_batch(2, [CANVAS], CANVAS, [3], padded_instances=21)
  outputs = network_outputs(few)
  losses, other = losses_of(few, outputs), losses_of(many, outputs)
  for name, value in losses.items():
    np.testing.assert_allclose(other[name], value, rtol=1e-6)


def test_mask_loss_is_the_mean_over_instances_whatever_the_chunk():
  batch = random_batch(3, [CANVAS], CANVAS, [3])
  outputs = network_outputs(batch)
  targets = assign_targets(batch)
  chosen = choose_proposals(outputs.box_regression, targets, batch.boxes, CANVAS)
  assert (chosen[0] >= 0).sum() == 3

  @partial(jax.jit, static_argnames='chunk')
  def loss_of(chosen, chunk):
    return mask_loss(outputs, batch, chosen, spatial_dims=2, chunk=chunk)

  each = [loss_of(jnp.where(jnp.arange(4) == n, chosen, -1), chunk=2) for n in range(3)]
  for chunk in (1, 3, 8):
    loss = loss_of(chosen, chunk=chunk)
    np.testing.assert_allclose(loss, np.mean(each), rtol=1e-5)


def test_image_without_instances_costs_only_its_background():
  batch = random_batch(4, [CANVAS], CANVAS, [0])
  outputs = network_outputs(batch)
  gradient = jax.jit(jax.grad(lambda o: sum(losses_of(batch, o).values())))(outputs)
  parts = losses_of(batch, outputs)
  assert parts['class'] > 0
  assert parts['box'] == parts['centerness'] == parts['mask'] == 0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_gradients_are_finite_for_perfect_and_for_absurd_outputs():
  batch = random_batch(5, [CANVAS], CANVAS, [3])
  outputs = network_outputs(batch)
  gradient_of = jax.jit(jax.grad(lambda o: sum(losses_of(batch, o).values())))
  for scale in (0.0, 1.0, 1e4):
    gradient = gradient_of(jax.tree.map(lambda x, scale=scale: x * scale, outputs))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_locations_of_the_chosen_proposals_lie_on_their_instance():
  batch = random_batch(6, [CANVAS], CANVAS, [3])
  outputs = network_outputs(batch)
  targets = assign_targets(batch)
  chosen = choose_proposals(outputs.box_regression, targets, batch.boxes, CANVAS)
  for n in range(3):
    x, y = locations(CANVAS)[chosen[0, n]]
    x1, y1, x2, y2 = batch.boxes[0, n]
    assert x1 < x < x2
    assert y1 < y < y2
