"""Operations of the convolutions of a traced function.

On GPUs XLA's own count is reported to leave out what it hands to cuDNN.
"""

import math
from typing import Any


def convolution_flops(jaxpr: Any) -> float:
  """Multiplications and additions of all convolutions in a jaxpr.

  Those in loops of known length count as often as they run, in other loops once; of
  the branches of a condition the one with the most counts. Positions that lie in the
  padding count; zeros between the elements of a dilated input, and what nothing is made
  of, do not.

  Args:
    jaxpr: such as `jax.jit(f).trace(x).jaxpr`.
  """
  total = 0.0
  for equation in _used(getattr(jaxpr, 'jaxpr', jaxpr)):
    name, parameters = equation.primitive.name, equation.params
    if name == 'conv_general_dilated':
      kernel, output = equation.invars[1].aval, equation.outvars[0].aval
      outputs = kernel.shape[parameters['dimension_numbers'].rhs_spec[0]]
      dilation = math.prod(parameters['lhs_dilation'])
      total += 2 * output.size * kernel.size / outputs / dilation
    elif name == 'cond':
      total += max(convolution_flops(branch) for branch in parameters['branches'])
    else:
      times = parameters['length'] if name == 'scan' else 1
      total += times * sum(map(convolution_flops, _inner(parameters)))
  return total


def _used(jaxpr: Any) -> list[Any]:
  """The equations that the results depend on, last first."""
  needed = set(map(id, jaxpr.outvars))
  used = []
  for equation in reversed(jaxpr.eqns):
    if needed.intersection(map(id, equation.outvars)):
      used.append(equation)
      needed.update(map(id, equation.invars))
  return used


def _inner(parameters: dict[str, Any]) -> list[Any]:
  """The jaxprs that an equation calls."""
  found = []
  for value in parameters.values():
    values = value if isinstance(value, tuple | list) else (value,)
    found += [inner for inner in values if hasattr(inner, 'eqns')]
  return found
