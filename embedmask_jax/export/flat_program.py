"""A traced function as one list of operations, and that list cut into short programs.

What is traced says many things often: the area of an image is masked before every
convolution, and each of jax.numpy's functions is a program of its own. Compilers see
through that; converters translate it as it is written.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core

# Calls that only name a part of a program, by where their parameters have that part.
_CALLS = {
  'jit': 'jaxpr',
  'custom_jvp_call': 'call_jaxpr',
  'custom_vjp_call': 'call_jaxpr',
}


@dataclass(frozen=True)
class Piece:
  """Some successive operations of a program.

  Attributes:
    inputs, outputs: variables of the whole program that it takes and gives.
    program: a function of the inputs; constants are in it.
  """

  inputs: list[core.Var]
  outputs: list[core.Var]
  program: core.ClosedJaxpr


def flat_program(
  function: Callable[..., Any], shapes: Sequence[jax.ShapeDtypeStruct]
) -> core.ClosedJaxpr:
  """Traces a function; calls are replaced by what they call, repetitions left out.

  Operations of which nothing depends are left out, too.

  Args:
    function: of arrays.
    shapes: theirs.
  """
  traced = jax.make_jaxpr(function)(*shapes)
  flat = jax.make_jaxpr(lambda *args: _run_flat(traced, args, {}))(*shapes)
  wanted = _variables(flat.jaxpr.outvars)
  kept = []
  for equation in reversed(flat.jaxpr.eqns):
    if wanted & set(equation.outvars):
      kept.append(equation)
      wanted |= _variables(equation.invars)
  jaxpr = flat.jaxpr
  return core.ClosedJaxpr(
    _jaxpr(jaxpr, jaxpr.constvars, jaxpr.invars, jaxpr.outvars, kept[::-1]), flat.consts
  )


def _run_flat(
  closed: core.ClosedJaxpr, args: Iterable[Any], seen: dict[Any, list]
) -> list[Any]:
  """Traces the operations again, each once; `seen` has the results of those so far."""
  jaxpr = closed.jaxpr
  values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
  values.update(zip(jaxpr.invars, args, strict=True))

  def read(variable: Any) -> Any:
    return variable.val if isinstance(variable, core.Literal) else values[variable]

  for equation in jaxpr.eqns:
    inputs = [read(variable) for variable in equation.invars]
    part = equation.params.get(_CALLS.get(equation.primitive.name, ''))
    if part is not None:
      if not isinstance(part, core.ClosedJaxpr):
        part = core.ClosedJaxpr(part, ())
      results = _run_flat(part, inputs, seen)
    else:
      key = _key(equation, inputs)
      if key not in seen:
        made = equation.primitive.bind(*inputs, **equation.params)
        # The inputs are kept since their identities are in the key.
        results = made if equation.primitive.multiple_results else [made]
        seen[key] = [inputs, results]
      results = seen[key][1]
    values.update(zip(equation.outvars, results, strict=True))
  return [read(variable) for variable in jaxpr.outvars]


def _key(equation: core.JaxprEqn, inputs: Sequence[Any]) -> Any:
  """What two operations with the same results have in common."""
  names = tuple(
    (str(variable.aval), np.asarray(variable.val).tobytes())
    if isinstance(variable, core.Literal)
    else id(value)
    for variable, value in zip(equation.invars, inputs, strict=True)
  )
  key = equation.primitive, names, tuple(sorted(equation.params.items()))
  try:
    hash(key)
  except TypeError:
    return object()  # of which there is no second
  return key


def split_program(closed: core.ClosedJaxpr, length: int) -> list[Piece]:
  """Cuts a flat program into pieces of so many operations, in their order."""
  whole = closed.jaxpr
  constants = dict(zip(whole.constvars, closed.consts, strict=True))
  wanted = _variables(whole.outvars)
  pieces = []
  for start in reversed(range(0, len(whole.eqns), length)):
    equations = whole.eqns[start : start + length]
    made = {variable: None for equation in equations for variable in equation.outvars}
    taken = {
      variable: None
      for equation in equations
      for variable in equation.invars
      if isinstance(variable, core.Var) and variable not in made
    }
    outputs = [variable for variable in made if variable in wanted]
    inputs = [variable for variable in taken if variable not in constants]
    own = [variable for variable in taken if variable in constants]
    program = core.ClosedJaxpr(
      _jaxpr(whole, own, inputs, outputs, equations),
      [constants[variable] for variable in own],
    )
    pieces.append(Piece(inputs, outputs, program))
    wanted = (wanted - set(made)) | set(inputs)
  return pieces[::-1]


def _variables(atoms: Iterable[Any]) -> set[core.Var]:
  return {atom for atom in atoms if isinstance(atom, core.Var)}


def _jaxpr(
  whole: core.Jaxpr,
  constants: Sequence[core.Var],
  inputs: Sequence[core.Var],
  outputs: Sequence[Any],
  equations: Sequence[core.JaxprEqn],
) -> core.Jaxpr:
  """A part of the whole program."""
  info = whole.debug_info._replace(arg_names=None, result_paths=None)
  return core.Jaxpr(constants, inputs, outputs, equations, whole.effects, info)
