"""What the backward pass computes again instead of keeping it from the forward pass.

  none    nothing: all activations are kept
  blocks  the inside of residual blocks and of the head's convolution layers, of which
          only the inputs are kept
  stages  the inside of whole stages of the backbone and whole levels of the head; while
          one of them is computed again, the inputs of its blocks are kept

Values do not change, but for the rounding of what the compiler fuses otherwise.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn

Remat = Literal['none', 'blocks', 'stages']


def block(function: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
  """Returns `function`, which takes a module and arrays, as a block of `remat`."""
  return function if remat == 'none' else nn.remat(function)


def stage(function: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
  """Returns `function`, which takes a module and arrays, as a stage of `remat`."""
  return nn.remat(function) if remat == 'stages' else function
