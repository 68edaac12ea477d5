"""The count of operations behind the utilisation that benchmarks print."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / 'experiments' / 'benchmarks'))

from convolution_flops import convolution_flops


def convolve(x, kernel, stride=1, groups=1):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


X, KERNEL = jnp.ones((2, 8, 12, 6)), jnp.ones((3, 3, 6, 10))
# Images, cells, taps, inputs, outputs.
FORWARD = 2 * (2 * 8 * 12) * 9 * 6 * 10


def count(function, *arguments):
  return convolution_flops(jax.jit(function).trace(*arguments).jaxpr)


def test_the_forward_pass_counts_two_for_every_tap():
  assert count(convolve, X, KERNEL) == FORWARD
  assert count(lambda x, k: convolve(x, k, stride=2), X, KERNEL) == FORWARD / 4
  grouped = jnp.ones((3, 3, 3, 10))
  assert count(lambda x, k: convolve(x, k, groups=2), X, grouped) == FORWARD / 2
  assert count(lambda x: x @ x, jnp.ones((8, 8))) == 0
  # XLA leaves out what nothing is made of.
  assert count(lambda x, k: (convolve(x, k), x)[1], X, KERNEL) == 0


@pytest.mark.parametrize('stride', [1, 2])
def test_both_gradients_cost_about_as_much_as_the_forward_pass(stride):
  def loss(x, kernel):
    return jnp.sum(convolve(x, kernel, stride) ** 2)

  forward = FORWARD / stride**2
  found = count(jax.grad(loss, argnums=(0, 1)), X, KERNEL)
  # Where the padding lies decides on some per cent.
  assert found == pytest.approx(3 * forward, rel=0.3)


def test_loops_count_as_often_as_they_run_and_of_branches_the_dearest():
  def repeated(x, kernel):
    return jax.lax.scan(lambda c, _: (c, convolve(c, kernel)), x, length=5)

  def either(x, kernel):
    twice = lambda x: convolve(x, kernel) + convolve(2 * x, kernel)  # noqa: E731
    return jax.lax.cond(x[0, 0, 0, 0] > 0, twice, lambda x: convolve(x, kernel), x)

  assert count(repeated, X, KERNEL) == 5 * FORWARD
  assert count(either, X, KERNEL) == 2 * FORWARD
  assert count(jax.checkpoint(convolve), X, KERNEL) == FORWARD
