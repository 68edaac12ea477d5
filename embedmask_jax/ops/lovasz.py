"""Lovász hinge loss on probabilities or their logarithms.

Berman, Triki and Blaschko, "The Lovász-Softmax loss" (arXiv 1705.08790): hinge
errors sorted in descending order, weighted by the increments of the Jaccard loss.
"""

from functools import partial

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

  Pixels with equal error and target share the weight of their places, so that the
  gradient does not depend on the order of the pixels.
  """
  loss, weights = jax.lax.platform_dependent(
    _sort_keys(errors, targets),
    cpu=partial(weights_by_search, dtype=errors.dtype),
    default=partial(weights_by_sorting, dtype=errors.dtype),
  )
  return loss, jnp.where(errors > 0, weights, 0)


def weights_by_search(keys: Array, *, dtype: jnp.dtype) -> tuple[Array, Array]:
  """The loss of each row, and each pixel's share of the Jaccard loss.

  For CPUs, where sorting one integer per pixel costs an eighth of sorting (error,
  index) pairs: the rank of a pixel is found again by binary search.

  Args:
    keys: of `_sort_keys`, [..., pixels].
    dtype: of the errors.

  Returns:
    Both of `dtype`, [...] and [..., pixels].
  """
  sorted_keys = jnp.sort(keys, axis=-1)
  jaccard = _jaccard(sorted_keys, dtype)

  def ranks(side: str) -> Array:
    search = jnp.vectorize(
      lambda row, key: jnp.searchsorted(row, key, side=side), signature='(n),(n)->(n)'
    )
    return search(sorted_keys, keys)

  first, last = ranks('left'), ranks('right')
  growth = jnp.take_along_axis(jaccard, first, -1) - jnp.take_along_axis(
    jaccard, last, -1
  )
  return _loss(sorted_keys, jaccard, dtype), (growth / (last - first)).astype(dtype)


def weights_by_sorting(keys: Array, *, dtype: jnp.dtype) -> tuple[Array, Array]:
  """As `weights_by_search`, without a gather: for GPUs and TPUs.

  Pixels are sorted along with their keys, and their shares sorted back.
  """
  places = jnp.broadcast_to(jnp.arange(keys.shape[-1]), keys.shape)
  sorted_keys, pixels = jax.lax.sort((keys, places), num_keys=1, is_stable=False)
  is_new = sorted_keys[..., 1:] != sorted_keys[..., :-1]
  edge = jnp.ones((*keys.shape[:-1], 1), bool)
  is_first = jnp.concatenate([edge, is_new], axis=-1)
  is_last = jnp.concatenate([is_new, edge], axis=-1)
  jaccard = _jaccard(sorted_keys, dtype)
  axis = keys.ndim - 1
  # From the ends of each run of equal keys to all of it. The Jaccard loss descends.
  before = jax.lax.cummin(jnp.where(is_first, jaccard[..., :-1], jnp.inf), axis)
  after = jax.lax.cummax(
    jnp.where(is_last, jaccard[..., 1:], -jnp.inf), axis, reverse=True
  )
  first = jax.lax.cummax(jnp.where(is_first, places, 0), axis)
  last = jax.lax.cummin(jnp.where(is_last, places, keys.shape[-1]), axis, reverse=True)
  shares = ((before - after) / (last + 1 - first)).astype(dtype)
  _, weights = jax.lax.sort((pixels, shares), num_keys=1, is_stable=False)
  return _loss(sorted_keys, jaccard, dtype), weights


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
