"""Rates and updates against the original's numbers and hand-written NumPy."""

import dataclasses
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shared_data import SHARED

from embedmask_jax import optim
from embedmask_jax.errors import UserError

PAPER = optim.OptimSettings(
  name='sgd',
  learning_rate=0.01,
  reference_batch_size=16,
  weight_decay=1e-4,
  norm_decay_multiplier=1.0,
  momentum=0.9,
  momentum_dtype='float32',
  bias_rate_multiplier=2.0,
  bias_weight_decay=0.0,
  warmup_steps=500,
  warmup='constant',
  warmup_factor=1 / 3,
  schedule='step',
  milestones=(60000, 80000),
  decay_factor=0.1,
  clip_norm=0.0,
)


def small_params():
  generator = np.random.default_rng(0)

  def leaf(*shape):
    return generator.normal(size=shape).astype(np.float32)

  return {
    'backbone': {
      'stem': {
        'conv': {'kernel': leaf(3)},
        'norm': {'scale': leaf(2), 'bias': leaf(2)},
      },
      'stage1_block0': {'conv1': {'kernel': leaf(2, 2)}},
      'stage2_block0': {'conv1': {'kernel': leaf(2, 2)}},
      'stage4_block1': {'shortcut_norm': {'scale': leaf(2)}},
    },
    'fpn': {'lateral3': {'kernel': leaf(4), 'bias': leaf(1)}},
    'head': {
      'class_tower': {'norm0': {'scale': leaf(2), 'bias': leaf(2)}},
      'box_scale': leaf(5),
      'position_scale': leaf(),
    },
  }


def gradients(params, step):
  generator = np.random.default_rng(step + 1)
  return jax.tree.map(
    lambda p: generator.normal(size=p.shape).astype(np.float32), params
  )


def flatten(tree):
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {'/'.join(k.key for k in path): np.asarray(leaf) for path, leaf in leaves}


def run(settings, params, *, trained, steps):
  schedule = optim.Schedule(settings, steps=steps)
  optimizer = optim.make_optimizer(settings, schedule, trained=trained)
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for step in range(steps):
    updates, state = update(gradients(params, step), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


@pytest.mark.parametrize('model', ['R50', 'R101'])
@pytest.mark.parametrize('warmup', ['constant', 'linear'])
def test_rates_are_those_of_the_original_bit_for_bit(model, warmup):
  golden = SHARED / 'golden' / '2021' / 'public' / 'unit.npz'
  if not golden.exists():
    pytest.skip('the golden records are not beside this checkout')
  milestones = {'R50': (60000, 80000), 'R101': (210000, 250000)}[model]
  settings = dataclasses.replace(PAPER, milestones=milestones, warmup=warmup)
  schedule = optim.Schedule(settings, steps=milestones[-1] + 10000)
  with np.load(golden) as records:
    steps = records[f'sched_{model}_iters']
    expected = records[f'sched_{model}_{warmup}']
  rates = [schedule(int(step)) for step in steps]
  np.testing.assert_array_equal(rates, expected)
  on_device = jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32))
  np.testing.assert_allclose(on_device, expected, rtol=3e-7)


def test_cosine_warms_up_linearly_and_ends_at_zero():
  settings = dataclasses.replace(
    PAPER, schedule='cosine', warmup='linear', warmup_steps=10, warmup_factor=0.0
  )
  schedule = optim.Schedule(settings, steps=110)
  assert schedule(0) == 0
  assert schedule(5) == pytest.approx(0.005)
  assert schedule(10) == pytest.approx(0.01)
  assert schedule(60) == pytest.approx(0.005)
  assert schedule(110) == pytest.approx(0, abs=1e-12)
  rates = [schedule(step) for step in range(10, 111)]
  assert all(a > b for a, b in itertools.pairwise(rates))


def test_no_warmup_starts_at_the_full_rate():
  for warmup in ('constant', 'linear'):
    settings = dataclasses.replace(PAPER, warmup_steps=0, warmup=warmup)
    assert optim.Schedule(settings, steps=10)(0) == 0.01


def test_linear_rule_scales_rate_steps_and_milestones_but_not_the_warmup():
  scaled, steps = optim.scale_to_batch(PAPER, steps=90000, batch_size=4)
  assert scaled.learning_rate == 0.0025
  assert scaled.milestones == (240000, 320000)
  assert steps == 360000
  assert scaled.warmup_steps == PAPER.warmup_steps
  assert optim.scale_to_batch(PAPER, steps=90000, batch_size=16) == (PAPER, 90000)
  off = dataclasses.replace(PAPER, reference_batch_size=0)
  assert optim.scale_to_batch(off, steps=7, batch_size=3) == (off, 7)


def test_sgd_is_torch_sgd():
  settings = dataclasses.replace(
    PAPER,
    warmup_steps=2,
    milestones=(4, 6),
    weight_decay=0.1,
    norm_decay_multiplier=0.5,
    learning_rate=0.05,
  )
  params = small_params()
  schedule = optim.Schedule(settings, steps=8)
  got, _ = run(settings, params, trained=optim.is_trained(params, 0), steps=8)

  expected = {k: v.astype(np.float64) for k, v in flatten(params).items()}
  buffers = {k: np.zeros_like(v) for k, v in expected.items()}
  for step in range(8):
    for name, gradient in flatten(gradients(params, step)).items():
      bias = name.endswith('bias')
      decay = 0.0 if bias else 0.05 if name.endswith('/scale') else 0.1
      rate = schedule(step) * (2 if bias else 1)
      buffers[name] = 0.9 * buffers[name] + gradient + decay * expected[name]
      expected[name] = expected[name] - rate * buffers[name]
  for name, value in flatten(got).items():
    np.testing.assert_allclose(
      value, expected[name], rtol=2e-5, atol=2e-6, err_msg=name
    )


def test_adamw_first_step_is_the_sign_and_decay_stands_apart():
  settings = dataclasses.replace(
    PAPER, name='adamw', warmup_steps=0, weight_decay=0.5, bias_rate_multiplier=1.0
  )
  params = small_params()
  got, _ = run(settings, params, trained=optim.is_trained(params, 0), steps=1)
  start, gradient = flatten(params), flatten(gradients(params, 0))
  for name, value in flatten(got).items():
    decay = 0.0 if name.endswith('bias') else 0.5
    expected = start[name] - 0.01 * (np.sign(gradient[name]) + decay * start[name])
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
  ('frozen_stages', 'frozen'),
  [
    (0, ()),
    (1, ('stem',)),
    (2, ('stem', 'stage1')),
    (3, ('stem', 'stage1', 'stage2')),
    (5, ('stem', 'stage1', 'stage2', 'stage4')),
  ],
)
def test_frozen_stages(frozen_stages, frozen):
  flags = flatten(optim.is_trained(small_params(), frozen_stages))
  for name, trained in flags.items():
    expected = not name.startswith(tuple(f'backbone/{part}' for part in frozen))
    assert trained == (expected if frozen else True), name


def test_frozen_leaves_neither_move_nor_hold_state_nor_enter_the_norm():
  settings = dataclasses.replace(PAPER, warmup_steps=0, clip_norm=1e-3)
  params = small_params()
  got, state = run(settings, params, trained=optim.is_trained(params, 2), steps=3)
  before, after = flatten(params), flatten(got)
  for name in before:
    moved = not np.array_equal(before[name], after[name])
    assert moved == (not name.startswith(('backbone/stem', 'backbone/stage1'))), name
  floats = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32]
  trained = sum(jax.tree.leaves(optim.is_trained(params, 2)))
  assert len(floats) == trained

  # Huge gradients of frozen leaves must not shrink the step of the others.
  gradient = gradients(params, 0)
  loud = jax.tree.map(lambda g: g, gradient)
  loud['backbone']['stem'] = jax.tree.map(lambda g: g * 1e6, loud['backbone']['stem'])
  optimizer = optim.make_optimizer(
    settings, optim.Schedule(settings, steps=3), trained=optim.is_trained(params, 2)
  )
  quiet_update, _ = optimizer.update(gradient, optimizer.init(params), params)
  loud_update, _ = optimizer.update(loud, optimizer.init(params), params)
  np.testing.assert_array_equal(
    quiet_update['fpn']['lateral3']['kernel'], loud_update['fpn']['lateral3']['kernel']
  )


def test_clipping_bounds_the_global_norm():
  settings = dataclasses.replace(
    PAPER,
    warmup_steps=0,
    clip_norm=0.5,
    weight_decay=0.0,
    momentum=0.0,
    bias_rate_multiplier=1.0,
    learning_rate=1.0,
  )
  params = small_params()
  got, _ = run(settings, params, trained=optim.is_trained(params, 0), steps=1)
  step = jax.tree.map(lambda a, b: a - b, got, params)
  norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(step)))
  assert norm == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
  ('field', 'value'), [('name', 'lion'), ('schedule', 'linear'), ('warmup', 'none')]
)
def test_unknown_names_are_named(field, value):
  settings = dataclasses.replace(PAPER, **{field: value})
  with pytest.raises(UserError, match=f'optim.{field} is {value!r}'):
    run(settings, small_params(), trained=optim.is_trained(small_params(), 0), steps=1)


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
def test_momentum_in_half_the_bytes_rounds_and_does_no_more(name):
  params = small_params()
  trained = optim.is_trained(params, 0)
  found = {}
  for dtype in ('float32', 'bfloat16'):
    settings = dataclasses.replace(PAPER, name=name, momentum_dtype=dtype)
    optimizer = optim.make_optimizer(settings, lambda _: 0.1, trained=trained)
    state = optimizer.init(params)
    found[dtype] = []
    for scale in (1.0, -0.3, 0.7):
      grads = jax.tree.map(lambda p, scale=scale: scale * np.cos(p), params)
      updates, state = optimizer.update(grads, state, params)
      found[dtype].append(np.concatenate([x.ravel() for x in jax.tree.leaves(updates)]))
    dtypes = Counter(x.dtype.name for x in jax.tree.leaves(state))
    # Adam's second moments stay as they are.
    assert dtypes[dtype] == len(jax.tree.leaves(params)) * (
      2 if (name, dtype) == ('adamw', 'float32') else 1
    )
  full, half = found['float32'], found['bfloat16']
  np.testing.assert_array_equal(full[0], half[0])
  for a, b in zip(full[1:], half[1:], strict=True):
    assert 0 < np.linalg.norm(a - b) < 2**-7 * np.linalg.norm(a)
