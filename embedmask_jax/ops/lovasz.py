"""Lovász hinge loss on probabilities or their logarithms.

Berman, Triki and Blaschko, "The Lovász-Softmax loss" (arXiv 1705.08790): hinge
errors sorted in descending order, weighted by the increments of the Jaccard loss.
"""

import jax
import jax.numpy as jnp

from embedmask_jax.structures import Array


def logit_from_log_probability(
  log_probability: Array, *, minimum: float = 1e-9, maximum: float = 1 - 6e-8
) -> Array:
  """Returns log p - log(1 - p) with p clamped to [minimum, maximum].

  `1 - p` comes from `expm1`, so that it keeps its digits near p = 1. Clamped
  values have no gradient. The largest float32 below 1 bounds p, since p = 1 would
  give an infinite logit.

  Args:
    log_probability: float32, not above 0.
    minimum: lower bound of p.
    maximum: upper bound of p.
  """
  bounded = jnp.clip(log_probability, jnp.log(minimum), jnp.log(maximum))
  return bounded - jnp.log(-jnp.expm1(bounded))


def logit_from_probability(
  probability: Array, *, minimum: float, maximum: float
) -> Array:
  """Returns log p - log(1 - p) with p clamped to [minimum, maximum].

  Clamped values have no gradient.

  Args:
    probability: float32.
    minimum: above 0.
    maximum: below 1, in float32.
  """
  bounded = jnp.clip(probability, minimum, maximum)
  return jnp.log(bounded) - jnp.log1p(-bounded)


def lovasz_hinge(logits: Array, targets: Array, valid: Array | bool = True) -> Array:
  """Returns the Lovász hinge loss of each row, [...].

  Args:
    logits: float [..., pixels].
    targets: bool [..., pixels].
    valid: bool, broadcast against the logits; other pixels do not count.
  """
  sign = jnp.where(targets, 1.0, -1.0).astype(logits.dtype)
  # An error of 0 has no value and no gradient wherever it sorts, so that pixels
  # that do not count need nothing else.
  errors = jnp.where(valid, jax.nn.relu(1 - logits * sign), 0)
  return _lovasz_extension(errors, targets & valid)


@jax.custom_vjp
def _lovasz_extension(errors: Array, targets: Array) -> Array:
  """Returns sum_i e_(i) (J_i - J_(i-1)) over non-negative errors, descending."""
  sorted_keys = jnp.sort(_sort_keys(errors, targets), axis=-1)
  return _loss(sorted_keys, _jaccard(sorted_keys, errors.dtype), errors.dtype)


def _forward(errors: Array, targets: Array) -> tuple[Array, Array]:
  """Returns the loss and its gradient with respect to the errors.

  Sorting one integer per pixel costs an eighth of sorting (error, index) pairs
  on a CPU; the rank of a pixel is found again by binary search. Pixels with
  equal error and target share the weight of their places, so that the gradient
  does not depend on the order of the pixels.
  """
  keys = _sort_keys(errors, targets)
  sorted_keys = jnp.sort(keys, axis=-1)
  jaccard = _jaccard(sorted_keys, errors.dtype)

  def ranks(side: str) -> Array:
    search = jnp.vectorize(
      lambda row, key: jnp.searchsorted(row, key, side=side), signature='(n),(n)->(n)'
    )
    return search(sorted_keys, keys)

  first, last = ranks('left'), ranks('right')
  growth = jnp.take_along_axis(jaccard, first, -1) - jnp.take_along_axis(
    jaccard, last, -1
  )
  gradient = jnp.where(errors > 0, growth / (last - first), 0)
  return _loss(sorted_keys, jaccard, errors.dtype), gradient.astype(errors.dtype)


def _backward(gradient: Array, cotangent: Array) -> tuple[Array, None]:
  return gradient * cotangent[..., None], None


_lovasz_extension.defvjp(_forward, _backward)


def _sort_keys(errors: Array, targets: Array) -> Array:
  """Returns integers that sort as the errors do, the target in the last bit.

  The bits of non-negative floats sort as integers. The last bit of the mantissa
  is worth less than the rounding of the error.
  """
  bits = jax.lax.bitcast_convert_type(errors, _integer_type(errors.dtype))
  return (bits & ~1) | targets.astype(bits.dtype)


def _integer_type(dtype: jnp.dtype) -> jnp.dtype:
  return jnp.dtype(f'int{8 * dtype.itemsize}')


def _jaccard(sorted_keys: Array, dtype: jnp.dtype) -> Array:
  """Returns the Jaccard loss [..., pixels + 1] of getting the last ones wrong.

  Entry i is the loss when the pixels i.. of the ascending order, those with the
  largest errors, are wrong; the last entry, nothing wrong, is 0.
  """
  targets = (sorted_keys & 1).astype(dtype)
  wrong = jnp.cumsum(targets[..., ::-1], axis=-1)[..., ::-1]
  total = wrong[..., :1]
  others = jnp.cumsum(1 - targets[..., ::-1], axis=-1)[..., ::-1]
  jaccard = 1 - (total - wrong) / (total + others)
  return jnp.pad(jaccard, [(0, 0)] * (jaccard.ndim - 1) + [(0, 1)])


def _loss(sorted_keys: Array, jaccard: Array, dtype: jnp.dtype) -> Array:
  errors = jax.lax.bitcast_convert_type(sorted_keys & ~1, dtype)
  return -jnp.sum(errors * jnp.diff(jaccard, axis=-1), axis=-1)
