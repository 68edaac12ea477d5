"""Values and gradients of a convolution are those of XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embedmask_jax.ops.convolution import convolve


def reference(features, kernel, stride):
  half = kernel.shape[0] // 2
  return jax.lax.conv_general_dilated(
    features,
    kernel,
    (stride, stride),
    [(half, half)] * 2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@pytest.mark.parametrize('size', [1, 3, 7])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('shape', [(2, 65, 66), (1, 128, 32), (2, 5, 7)])
def test_values_and_gradients(size, stride, shape):
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    features = jnp.asarray(rng.standard_normal((*shape, 4)))
    kernel = jnp.asarray(rng.standard_normal((size, size, 4, 3)))
    expected, pull_back = jax.vjp(
      lambda x, k: reference(x, k, stride), features, kernel
    )
    found, own_pull_back = jax.vjp(
      lambda x, k: convolve(x, k, stride=stride), features, kernel
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    cotangent = jnp.asarray(rng.standard_normal(expected.shape))
    for own, other in zip(own_pull_back(cotangent), pull_back(cotangent), strict=True):
      np.testing.assert_allclose(own, other, rtol=1e-11, atol=1e-11)
