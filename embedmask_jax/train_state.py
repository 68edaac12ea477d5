"""Everything that a training step changes."""

from typing import Any

import jax.numpy as jnp
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
  """

  step: Array
  params: Any
  batch_stats: Any
  opt_state: Any


def create_train_state(
  variables: dict, optimizer: optax.GradientTransformation
) -> TrainState:
  """Returns the state before the first step."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables['params'],
    batch_stats=variables['batch_stats'],
    opt_state=optimizer.init(variables['params']),
  )
