"""Reading the bit-packed masks that the host ships."""

import jax.numpy as jnp

from embedmask_jax.structures import Array


def unpack_bits(packed: Array, count: int) -> Array:
  """Returns bool [..., count] from uint8 [..., ceil(count / 8)]."""
  return jnp.unpackbits(packed, axis=-1, count=count).astype(bool)
