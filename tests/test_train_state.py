import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from embedmask_jax.train_state import create_train_state, keep_finite, moving_average


def make_state(value, **options):
  variables = {'params': {'w': jnp.full(3, value)}, 'batch_stats': {'m': jnp.zeros(2)}}
  return create_train_state(variables, optax.sgd(0.1, momentum=0.9), **options)


def moved(state):
  return jax.tree.map(lambda x: x + 1, state).replace(is_finite=state.is_finite)


def test_nothing_changes_from_the_first_step_on_that_is_not_finite():
  states = [make_state(1.0, has_ema=True)]
  for finite in (True, False, True):
    states.append(keep_finite(states[-1], moved(states[-1]), jnp.asarray(finite)))
  assert [bool(state.is_finite) for state in states] == [True, True, False, False]
  assert [int(state.step) for state in states] == [0, 1, 1, 1]
  for later in states[2:]:
    same = later.replace(is_finite=states[1].is_finite)
    jax.tree.map(np.testing.assert_array_equal, same, states[1])


@pytest.mark.parametrize('decay', [0.9, 0.2])
def test_the_average_follows_its_recurrence(decay):
  state = make_state(1.0, has_ema=True)
  expected = 1.0
  for t, value in enumerate([3.0, -1.0, 2.0, 5.0]):
    params = {'w': jnp.full(3, value)}
    state = state.replace(
      step=jnp.int32(t + 1),
      params=params,
      ema_params=moving_average(state.replace(step=jnp.int32(t)), params, decay),
    )
    d = min(decay, (1 + t) / (10 + t))
    expected = d * expected + (1 - d) * value
    np.testing.assert_allclose(state.ema_params['w'], expected, rtol=1e-6)
    assert state.variables['params'] is state.ema_params


def test_without_an_average_the_parameters_themselves_are_used():
  state = make_state(1.0)
  assert moving_average(state, state.params, 0.9) is None
  assert state.variables['params'] is state.params


def test_the_average_has_memory_of_its_own():
  """Or donating the state would give the same buffer away twice."""
  state = make_state(1.0, has_ema=True)
  step = jax.jit(moved, donate_argnums=0)
  np.testing.assert_array_equal(step(state).ema_params['w'], 2)
