"""Mapping over rows, several at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from embedmask_jax.structures import Array


def map_chunks(
  function: Callable[[tuple[Array, ...]], Array],
  arrays: tuple[Array, ...],
  *,
  chunk: int,
) -> Array:
  """Returns [K, ...], what `function` makes of the rows of arrays, chunk after chunk.

  Args:
    function: arrays [chunk, ...] -> one [chunk, ...], a row for each of theirs. The
      last chunk is filled up with zeros.
    arrays: [K, ...] each.
    chunk: rows at a time; K where it is more.
  """
  count = len(arrays[0])
  chunk = min(chunk, count)

  def chunked(x: Array) -> Array:
    x = jnp.pad(x, [(0, -count % chunk)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(-1, chunk, *x.shape[1:])

  results = jax.lax.map(function, tuple(map(chunked, arrays)))
  return results.reshape(-1, *results.shape[2:])[:count]
