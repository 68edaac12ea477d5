"""Everything that a training step changes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from embedmask_jax.structures import Array


@struct.dataclass
class TrainState:
  """The state of training; also what a checkpoint holds.

  Attributes:
    step: int32 scalar, updates done so far.
    params: parameters, float32.
    batch_stats: buffers of frozen batch norm, statistics of live batch norm.
    opt_state: of the optax optimiser.
    ema_params: moving average of `params`, or None.
    is_finite: bool scalar, False from the first step on whose loss or gradient is
      not finite; all else is then as it was before that step.
  """

  step: Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema_params: Any = None
  is_finite: Array = np.True_

  @property
  def variables(self) -> dict[str, Any]:
    """What is evaluated and predicted with, the average where there is one."""
    params = self.params if self.ema_params is None else self.ema_params
    return {'params': params, 'batch_stats': self.batch_stats}


def create_train_state(
  variables: dict, optimizer: optax.GradientTransformation, *, has_ema: bool = False
) -> TrainState:
  """Returns the state before the first step."""
  params = variables['params']
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables['batch_stats'],
    opt_state=optimizer.init(params),
    ema_params=jax.tree.map(jnp.copy, params) if has_ema else None,
    is_finite=jnp.ones((), bool),
  )


def abstract_state(
  variables: dict, optimizer: optax.GradientTransformation, *, has_ema: bool
) -> TrainState:
  """Returns shapes and dtypes of `create_train_state`, to compile a step with."""
  return jax.eval_shape(
    lambda variables: create_train_state(variables, optimizer, has_ema=has_ema),
    variables,
  )


def keep_finite(before: TrainState, after: TrainState, finite: Array) -> TrainState:
  """Returns `after`, but `before` from the first step on that was not finite.

  What went wrong can so be looked at with the parameters it went wrong with, although
  the host hears of it a step later.

  Args:
    before: a step.
    after: it.
    finite: bool scalar, whether the loss and the gradient of the step were finite.
  """
  is_finite = before.is_finite & finite
  kept = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), after, before)
  return kept.replace(is_finite=is_finite)


def moving_average(before: TrainState, params: dict, decay: float) -> dict | None:
  """Returns decay * average + (1 - decay) * params, or None where there is none.

  With t updates done the decay is no more than (1 + t) / (10 + t), so that the initial
  parameters are soon forgotten.

  Args:
    before: the state before this update.
    params: after it.
    decay: 0 to 1.
  """
  if before.ema_params is None:
    return None
  kept = jnp.minimum(decay, (1 + before.step) / (10 + before.step))
  return jax.tree.map(
    lambda mean, new: kept * mean + (1 - kept) * new, before.ema_params, params
  )
