"""Convolution with zero padding that keeps ceil(size / stride) cells a side.

The results are XLA's. Two of its gradients are slow on CPUs and are written as matrix
products instead; the table is in experiments/benchmarks/README.md.
"""

import jax
import jax.numpy as jnp

from embedmask_jax.structures import Array

# Cells of a map from which products of shifted rows beat XLA on CPUs.
_MANY_CELLS = 1024


def convolve(features: Array, kernel: Array, *, stride: int = 1) -> Array:
  """Returns [B, ceil(rows / stride), ceil(columns / stride), O].

  Args:
    features: [B, rows, columns, I].
    kernel: [k, k, I, O] with an odd k.
    stride: in both directions.
  """
  size = kernel.shape[0]
  if size == 1:
    return jnp.einsum('bhwi,io->bhwo', features[:, ::stride, ::stride], kernel[0, 0])
  if size == 3 and stride == 1 and features.shape[1] * features.shape[2] >= _MANY_CELLS:
    return _convolve_3x3(features, kernel)
  return _convolve(features, kernel, stride)


def _convolve(features: Array, kernel: Array, stride: int = 1) -> Array:
  half = kernel.shape[0] // 2
  return jax.lax.conv_general_dilated(
    features,
    kernel,
    (stride, stride),
    [(half, half)] * 2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@jax.custom_vjp
def _convolve_3x3(features: Array, kernel: Array) -> Array:
  return _convolve(features, kernel)


def _forward(features: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _convolve(features, kernel), (features, kernel)


def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
  features, kernel = saved
  _, to_features = jax.vjp(lambda x: _convolve(x, kernel), features)

  def by_xla(features: Array, cotangent: Array) -> Array:
    return jax.vjp(lambda k: _convolve(features, k), kernel)[1](cotangent)[0]

  kernel_gradient = jax.lax.platform_dependent(
    features, cotangent, cpu=_kernel_gradient, default=by_xla
  )
  return to_features(cotangent)[0], kernel_gradient


_convolve_3x3.defvjp(_forward, _backward)


def _kernel_gradient(features: Array, cotangent: Array) -> Array:
  """Returns the gradient [3, 3, I, O], one matrix product for each kernel row.

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
  flat_features = jnp.pad(features, [(0, 0), (1, 2), (1, 1), (0, 0)])
  flat_features = flat_features.reshape(batch, (rows + 3) * length, inputs)
  flat_cotangent = jnp.pad(cotangent, [(0, 0), (0, 0), (0, 2), (0, 0)])
  flat_cotangent = flat_cotangent.reshape(batch, cells, outputs)
  three_columns = jnp.concatenate(
    [jnp.pad(flat_cotangent, [(0, 0), (j, 2 - j), (0, 0)]) for j in range(3)], axis=-1
  )

  def kernel_row(i: int) -> Array:
    first = i * length
    moved = jax.lax.slice_in_dim(flat_features, first, first + cells + 2, axis=1)
    product = jnp.einsum('bpi,bpo->io', moved, three_columns)
    return product.reshape(inputs, 3, outputs).swapaxes(0, 1)

  return jnp.stack([kernel_row(i) for i in range(3)])
