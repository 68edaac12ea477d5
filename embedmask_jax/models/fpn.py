"""Feature pyramid P3..P7 (Lin et al., arXiv 1612.03144; P6, P7 as in RetinaNet)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from embedmask_jax.models.layers import Conv
from embedmask_jax.structures import Array

# Kaiming-uniform with a = 1: variance 1 / fan_in.
kaiming_uniform = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')


class FPN(nn.Module):
  """Lateral 1x1, nearest 2x top-down sum, 3x3 outputs; P6 from P5, P7 from P6."""

  channels: int = 256
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features: list[Array], sizes: list[Array]) -> list[Array]:
    """Returns [P3, P4, P5, P6, P7].

    Args:
      features: C3, C4, C5.
      sizes: valid sizes, int32 [B, 2], of P3..P7.
    """
    make_conv = partial(
      Conv, self.channels, dtype=self.dtype, kernel_init=kaiming_uniform
    )
    outputs: list[Array] = []
    top_down = None
    for level in (5, 4, 3):
      index = level - 3
      lateral = make_conv(1, name=f'lateral{level}')(features[index], sizes[index])
      if top_down is not None:
        lateral += jnp.repeat(jnp.repeat(top_down, 2, axis=1), 2, axis=2)
      top_down = lateral
      output = make_conv(3, name=f'output{level}')(lateral, sizes[index])
      outputs.insert(0, output)
    p6 = make_conv(3, stride=2, name='p6')(outputs[2], sizes[2])
    p7 = make_conv(3, stride=2, name='p7')(nn.relu(p6), sizes[3])
    return [*outputs, p6, p7]
