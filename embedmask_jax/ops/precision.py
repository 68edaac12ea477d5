"""The float32 islands of a bfloat16 program."""

import jax.numpy as jnp

from embedmask_jax.structures import Array


def at_least_float32(x: Array) -> Array:
  """Returns x in float32, or in float64 where it has that already."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
