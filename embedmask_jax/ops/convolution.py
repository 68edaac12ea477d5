"""Convolution with zero padding that keeps ceil(size / stride) cells a side.

Values are XLA's on every device. On CPUs XLA's gradient of the kernel is slow and is
written as matrix products instead; experiments/benchmarks/README.md has the table.
"""

from functools import partial

import jax
import jax.numpy as jnp

from embedmask_jax.structures import Array

# Cells of the output from which products are worth it, by the side of the kernel.
_MANY_CELLS = {1: 1000, 3: 4096}


def convolve(features: Array, kernel: Array, *, stride: int = 1) -> Array:
  """Returns [B, ceil(rows / stride), ceil(columns / stride), O].

  Args:
    features: [B, rows, columns, I].
    kernel: [k, k, I, O] with an odd k.
    stride: in both directions.
  """
  size = kernel.shape[0]
  rows, columns = (-(-side // stride) for side in features.shape[1:3])
  has_products = size == 1 or (size == 3 and stride == 1)
  if has_products and rows * columns >= _MANY_CELLS[size]:
    return _convolve_with_products(features, kernel, stride)
  return _convolve(features, kernel, stride)


def _convolve(features: Array, kernel: Array, stride: int) -> Array:
  half = kernel.shape[0] // 2
  return jax.lax.conv_general_dilated(
    features,
    kernel,
    (stride, stride),
    [(half, half)] * 2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_with_products(features: Array, kernel: Array, stride: int) -> Array:
  return _convolve(features, kernel, stride)


def _forward(
  features: Array, kernel: Array, stride: int
) -> tuple[Array, tuple[Array, Array]]:
  return _convolve(features, kernel, stride), (features, kernel)


def _backward(
  stride: int, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
  features, kernel = saved
  _, to_features = jax.vjp(lambda x: _convolve(x, kernel, stride), features)

  def by_xla(features: Array, cotangent: Array) -> Array:
    return jax.vjp(lambda k: _convolve(features, k, stride), kernel)[1](cotangent)[0]

  def by_products(features: Array, cotangent: Array) -> Array:
    if kernel.shape[0] == 3:
      return _kernel_gradient(features, cotangent)
    # XLA transposes the left one in memory, slowly: let it be the narrow one.
    seen = jax.lax.optimization_barrier(features)[:, ::stride, ::stride]
    if features.shape[-1] <= cotangent.shape[-1]:
      return jnp.einsum('bhwi,bhwo->io', seen, cotangent)[None, None]
    cotangent = jax.lax.optimization_barrier(cotangent)
    return jnp.einsum('bhwo,bhwi->oi', cotangent, seen).T[None, None]

  kernel_gradient = jax.lax.platform_dependent(
    features, cotangent, cpu=by_products, default=by_xla
  )
  return to_features(cotangent)[0], kernel_gradient


_convolve_with_products.defvjp(_forward, _backward)


def _kernel_gradient(features: Array, cotangent: Array) -> Array:
  """Returns the gradient [3, 3, I, O] at stride 1, a product for each kernel row.

  Both maps are padded to rows of one length and laid out flat. A shift by kernel row
  and column is then an offset: that of the row moves the features, those of the three
  columns move three copies of the cotangent, which stand side by side.

  Args:
    features: [B, rows, columns, I].
    cotangent: [B, rows, columns, O].
  """
  batch, rows, columns, inputs = features.shape
  outputs = cotangent.shape[-1]
  length = columns + 2
  cells = rows * length
  # Transposed once, not by each of the products.
  flat_features = jnp.pad(features, [(0, 0), (1, 2), (1, 1), (0, 0)])
  flat_features = flat_features.reshape(batch, (rows + 3) * length, inputs)
  flat_features = jax.lax.optimization_barrier(flat_features.swapaxes(1, 2))
  flat_cotangent = jnp.pad(cotangent, [(0, 0), (0, 0), (0, 2), (0, 0)])
  flat_cotangent = flat_cotangent.reshape(batch, cells, outputs)
  three_columns = jnp.concatenate(
    [jnp.pad(flat_cotangent, [(0, 0), (j, 2 - j), (0, 0)]) for j in range(3)], axis=-1
  )

  def kernel_row(i: int) -> Array:
    first = i * length
    moved = jax.lax.slice_in_dim(flat_features, first, first + cells + 2, axis=2)
    product = jnp.einsum('bip,bpo->io', moved, three_columns)
    return product.reshape(inputs, 3, outputs).swapaxes(0, 1)

  return jnp.stack([kernel_row(i) for i in range(3)])
