from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import random_batch, tiny_model, tiny_variables

from embedmask_jax.losses import (
  binary_cross_entropy,
  compute_losses,
  focal_loss,
  iou_loss,
  loss_names,
  normalisers,
)
from embedmask_jax.mask_loss import mask_loss_sums
from embedmask_jax.ops.valid_area import location_mask
from embedmask_jax.presets import PRESETS
from embedmask_jax.proposal_sampling import best_proposals, choose_proposals
from embedmask_jax.targets import assign_targets

CANVAS = (96, 128)


def network_outputs(batch, preset='2021'):
  model = tiny_model(preset=PRESETS[preset], axis_name=None)

  @jax.jit
  def apply(variables, batch):
    outputs, _ = model.apply(
      variables,
      batch.images,
      batch.image_size,
      batch.valid_size,
      train=True,
      mutable=['batch_stats'],
    )
    return outputs

  return apply(tiny_variables(preset=preset), batch)


@partial(jax.jit, static_argnames=('preset', 'mask_chunk'))
def losses_of(batch, outputs, preset='2021', mask_chunk=8):
  targets = assign_targets(batch, PRESETS[preset])
  return compute_losses(
    outputs,
    targets,
    batch,
    normalisers(batch, targets),
    preset=PRESETS[preset],
    mask_chunk=mask_chunk,
    key=jax.random.key(0),
  )


@cache
def gradient_of(preset):
  """(outputs, batch) -> gradient of the sum of the losses."""
  return jax.jit(jax.grad(lambda o, b: sum(losses_of(b, o, preset).values())))


def test_focal_loss_by_hand():
  loss = focal_loss(jnp.asarray([[0.0, 2.0]]), jnp.asarray([0]))
  p = 1 / (1 + np.exp(-2.0))
  expected = [0.25 * 0.25 * np.log(2), 0.75 * p**2 * -np.log(1 - p)]
  np.testing.assert_allclose(loss[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('kind', 'expected'),
  [
    # The hull is the larger box: IoU and GIoU are the same.
    ('giou', 1 - 2 / 5),
    ('iou', -np.log(2 / 5)),
    ('linear_iou', 1 - 2 / 5),
  ],
)
def test_box_losses_of_equal_and_nested_boxes(kind, expected):
  box = jnp.asarray([1.0, 2.0, 3.0, 4.0])
  np.testing.assert_allclose(iou_loss(box, box, kind=kind), 0, atol=1e-6)
  # 2x2 around the point against its lower right quarter.
  larger, smaller = jnp.asarray([1.0, 1, 1, 1]), jnp.asarray([0.0, 0, 1, 1])
  loss = iou_loss(larger, smaller, kind=kind)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_giou_loss_of_touching_boxes():
  # Two squares side by side: the hull has no gap.
  left, right = jnp.asarray([2.0, 1, 0, 1]), jnp.asarray([0.0, 1, 2, 1])
  np.testing.assert_allclose(iou_loss(left, right), 1 - 1 / 9, rtol=1e-6)


def test_cross_entropy_is_stable_and_right():
  logits = jnp.asarray([0.3, -200.0, 200.0])
  loss = binary_cross_entropy(logits, jnp.asarray([0.7, 1.0, 0.5]))
  p = 1 / (1 + np.exp(-0.3))
  by_hand = -0.7 * np.log(p) - 0.3 * np.log(1 - p)
  np.testing.assert_allclose(loss, [by_hand, 200, 100], rtol=1e-6)


@pytest.mark.parametrize('preset', PRESETS)
def test_permuted_instances_give_the_same_losses(preset):
  batch = random_batch(1, [CANVAS] * 2, CANVAS, [4, 3])
  outputs = network_outputs(batch, preset)
  order = np.asarray([2, 0, 3, 1])
  permuted = batch.replace(
    **{
      name: getattr(batch, name)[:, order]
      for name in (
        'boxes',
        'labels',
        'instance_valid',
        'masks',
        'location_masks',
        'mask_area',
        'mask_centroid',
      )
    }
  )
  losses = losses_of(batch, outputs, preset)
  other = losses_of(permuted, outputs, preset)
  assert set(losses) == set(loss_names(PRESETS[preset]))
  for name, value in losses.items():
    np.testing.assert_allclose(other[name], value, rtol=1e-5)


@pytest.mark.parametrize('preset', PRESETS)
def test_more_padded_instances_change_nothing(preset):
  few = random_batch(2, [CANVAS], CANVAS, [3], padded_instances=4)
  many = random_batch(2, [CANVAS], CANVAS, [3], padded_instances=21)
  outputs = network_outputs(few, preset)
  losses, other = losses_of(few, outputs, preset), losses_of(many, outputs, preset)
  for name, value in losses.items():
    np.testing.assert_allclose(other[name], value, rtol=1e-6)


def test_mask_loss_is_the_sum_over_instances_whatever_the_chunk():
  batch = random_batch(3, [CANVAS], CANVAS, [3])
  outputs = network_outputs(batch)
  targets = assign_targets(batch, PRESETS['2021'])
  chosen = choose_proposals(outputs.box_regression, targets, batch.boxes, CANVAS)
  assert (chosen[0] >= 0).sum() == 3

  @partial(jax.jit, static_argnames='chunk')
  def loss_of(chosen, chunk):
    samples = best_proposals(outputs, chosen)
    preset = PRESETS['2021']
    return mask_loss_sums(outputs, batch, samples, preset=preset, chunk=chunk)

  each = [loss_of(jnp.where(jnp.arange(4) == n, chosen, -1), chunk=2) for n in range(3)]
  for chunk in (1, 3, 8):
    np.testing.assert_allclose(loss_of(chosen, chunk=chunk), np.sum(each), rtol=1e-5)


@pytest.mark.parametrize('preset', ['2021', 'adelaidet'])
def test_more_chunks_of_masks_keep_no_more_for_the_backward_pass(preset):
  batch = random_batch(0, [CANVAS] * 2, CANVAS, [2, 1], padded_instances=64)
  model = tiny_model(preset=PRESETS[preset], axis_name=None)
  inputs = (batch.images, batch.image_size, batch.valid_size)
  outputs, _ = jax.eval_shape(
    partial(model.init_with_output, train=True), jax.random.key(0), *inputs
  )

  def kept_bytes(chunk):
    def backward(outputs):
      return jax.vjp(lambda o: losses_of(batch, o, preset, chunk)['mask'], outputs)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, outputs))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in kept)

  assert kept_bytes(2) < 1.1 * kept_bytes(32)


def test_what_is_predicted_beyond_the_valid_area_costs_nothing():
  batch = random_batch(6, [(60, 90)], CANVAS, [2])
  outputs = network_outputs(batch)
  beyond = ~location_mask(CANVAS, batch.valid_size)
  assert 0 < beyond.sum() < beyond.size
  logits = jnp.where(beyond[..., None], 50, outputs.class_logits)
  absurd = losses_of(batch, outputs.replace(class_logits=logits))
  assert absurd['class'] == losses_of(batch, outputs)['class']


@pytest.mark.parametrize('preset', PRESETS)
def test_image_without_instances_costs_only_its_background(preset):
  batch = random_batch(4, [CANVAS], CANVAS, [0])
  outputs = network_outputs(batch, preset)
  gradient = gradient_of(preset)(outputs, batch)
  parts = losses_of(batch, outputs, preset)
  assert parts.pop('class') > 0
  parts.pop('semantic', None)  # that of background cells
  assert not any(parts.values())
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize('preset', PRESETS)
def test_gradients_are_finite_for_perfect_and_for_absurd_outputs(preset):
  batch = random_batch(5, [CANVAS], CANVAS, [3])
  outputs = network_outputs(batch, preset)
  for scale in (0.0, 1.0, 1e4):
    scaled = jax.tree.map(lambda x, scale=scale: x * scale, outputs)
    gradient = gradient_of(preset)(scaled, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
