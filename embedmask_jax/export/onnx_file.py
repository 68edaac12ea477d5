"""ONNX, by way of jax2onnx: everything from image to masks in one file.

jax2onnx searches what it has written so far at every operation, so its time grows with
the square of their number. The program is therefore given to it in pieces, each of
which it converts in a second, and the pieces are put together here.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core

from embedmask_jax.errors import UserError
from embedmask_jax.export.flat_program import Piece, flat_program, split_program
from embedmask_jax.export.function import INPUT_NAMES, OUTPUT_NAMES, Function
from embedmask_jax.export.verify import Program

MODEL = 'model.onnx'
OPSET = 21
PIECE_LENGTH = 100
_LONG = 1024  # elements of a constant worth a node of its own
INSTALL = "pip install 'embedmask-jax[onnx]'"


def write_onnx(
  folder: Path,
  function: Function,
  weights: Mapping[str, np.ndarray],
  inputs: tuple[jax.ShapeDtypeStruct, ...],
) -> tuple[str, ...]:
  """Converts the function; returns the names of the files.

  Args:
    folder: gets `MODEL`.
    function: see `make_function`.
    weights: its first argument, which become initializers of their names.
    inputs: shapes of its other arguments.

  Raises:
    UserError: jax2onnx is not installed, or cannot convert an operation.
  """
  try:
    import jax2onnx  # noqa: F401
    import onnx
  except ImportError as error:
    raise UserError(f'--format=onnx needs jax2onnx: {INSTALL}') from error

  # It warns of values in loops that have a shape and no type; nothing reads either.
  logging.getLogger('onnx_ir').setLevel(logging.ERROR)

  def in_order(*args: Any) -> tuple:
    values = dict(zip(weights, args[: len(weights)], strict=True))
    outputs = function(values, *args[len(weights) :])
    return tuple(outputs[name] for name in OUTPUT_NAMES)

  shapes = [
    jax.ShapeDtypeStruct(array.shape, array.dtype) for array in weights.values()
  ]
  program = flat_program(in_order, [*shapes, *inputs])
  graph = _Graph()
  graph.name_variables([*weights, *INPUT_NAMES], program.jaxpr.invars)
  graph.name_variables(OUTPUT_NAMES, program.jaxpr.outvars)
  pieces = split_program(program, PIECE_LENGTH)
  read = {variable for piece in pieces for variable in piece.inputs}
  for variable, name in zip(program.jaxpr.invars, weights, strict=False):
    if variable in read:  # not those of the semantic head, which only training has
      graph.add_constant(name, weights[name])
  for piece in pieces:
    graph.add_piece(piece)
  image_and_size = program.jaxpr.invars[len(weights) :]
  model = graph.model(image_and_size, program.jaxpr.outvars)
  onnx.checker.check_model(model)
  onnx.save(model, folder / MODEL)
  return (MODEL,)


def load_onnx(folder: Path) -> Program:
  """The function (image, size) -> outputs of a folder, in ONNX Runtime on the CPU.

  Raises:
    UserError: onnxruntime is not installed.
  """
  try:
    import onnxruntime
  except ImportError as error:
    raise UserError(f'--verify of ONNX needs onnxruntime: {INSTALL}') from error
  session = onnxruntime.InferenceSession(
    folder / MODEL, providers=['CPUExecutionProvider']
  )

  def call(image: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
    found = session.run(list(OUTPUT_NAMES), {'image': image, 'size': size})
    return dict(zip(OUTPUT_NAMES, found, strict=True))

  return call


class _Graph:
  """A graph in the making; what pieces pass on has the same name in all of them."""

  def __init__(self) -> None:
    self._names: dict[core.Var, str] = {}
    self._nodes: list[Any] = []
    self._initializers: list[Any] = []
    self._num_pieces = 0

  def name_variables(self, names: Any, variables: Any) -> None:
    self._names.update(zip(variables, names, strict=True))

  def add_constant(self, name: str, array: np.ndarray) -> None:
    import onnx

    self._initializers.append(onnx.numpy_helper.from_array(array, name))

  def add_piece(self, piece: Piece) -> None:
    """Converts a piece; its own names get its number before them."""
    import jax2onnx

    inputs, outputs = map(self._named, (piece.inputs, piece.outputs))
    try:
      model = jax2onnx.to_onnx(
        core.jaxpr_as_fun(piece.program),
        inputs=[_shape(variable) for variable in piece.inputs],
        input_names=inputs,
        output_names=outputs,
        opset=OPSET,
      )
    except Exception as error:  # whatever the converter stumbles over
      reason = (str(error).strip() or type(error).__name__).splitlines()[0]
      raise UserError(
        f'jax2onnx cannot convert this model ({type(error).__name__}: '
        f'{reason[:200]}); use --format=stablehlo'
      ) from error
    shared = {*inputs, *outputs, ''}
    prefix = f'{self._num_pieces}/'
    _rename(model.graph, lambda name: name if name in shared else prefix + name)
    _shorten_constants(model.graph)
    self._nodes.extend(model.graph.node)
    self._initializers.extend(model.graph.initializer)
    self._num_pieces += 1

  def model(self, inputs: Any, outputs: Any) -> Any:
    """The whole."""
    from onnx import helper

    def described(variable: core.Var) -> Any:
      shape = _shape(variable)
      element = helper.np_dtype_to_tensor_dtype(shape.dtype)
      return helper.make_tensor_value_info(self._names[variable], element, shape.shape)

    graph = helper.make_graph(
      self._nodes,
      'embedmask',
      [described(variable) for variable in inputs],
      [described(variable) for variable in outputs],
      self._initializers,
    )
    return helper.make_model(
      graph,
      opset_imports=[helper.make_opsetid('', OPSET)],
      ir_version=helper.OP_SET_ID_VERSION_MAP[('ai.onnx', OPSET)],
    )

  def _named(self, variables: list[core.Var]) -> list[str]:
    return [
      self._names.setdefault(variable, f'value{len(self._names)}')
      for variable in variables
    ]


def _shape(variable: core.Var) -> jax.ShapeDtypeStruct:
  aval: Any = variable.aval
  return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _rename(graph: Any, renamed: Callable[[str], str]) -> None:
  """Renames what a graph and those within it name, in place."""
  for named in (*graph.input, *graph.output, *graph.initializer, *graph.node):
    named.name = renamed(named.name)
  del graph.value_info[:]
  for node in graph.node:
    node.input[:] = map(renamed, node.input)
    node.output[:] = map(renamed, node.output)
  for part in _graphs_within(graph.node):
    _rename(part, renamed)


def _shorten_constants(graph: Any) -> None:
  """Leaves out constants that nothing reads, and shortens those of one value.

  JAX broadcasts the zeros around an image to the size of the features; jax2onnx writes
  them all down, where a node that makes them does.

  Args:
    graph: changed in place, with the graphs within it.
  """
  from onnx import helper, numpy_helper

  constants, nodes = [], list(graph.node)
  read = _names_read(graph)
  for tensor in graph.initializer:
    array = numpy_helper.to_array(tensor)
    if tensor.name not in read:
      continue
    if array.size < _LONG or (array != array.flat[0]).any():
      constants.append(tensor)
      continue
    shape = f'{tensor.name}/shape'
    constants.append(numpy_helper.from_array(np.asarray(array.shape, np.int64), shape))
    value = numpy_helper.from_array(array.flat[:1])
    maker = helper.make_node('ConstantOfShape', [shape], [tensor.name], value=value)
    nodes.insert(0, maker)
  for part in _graphs_within(nodes):
    _shorten_constants(part)
  del graph.initializer[:], graph.node[:]
  graph.initializer.extend(constants)
  graph.node.extend(nodes)


def _names_read(graph: Any) -> set[str]:
  """What the nodes of a graph and of those within it read, and its outputs."""
  names = {output.name for output in graph.output}
  names.update(name for node in graph.node for name in node.input)
  return names.union(*map(_names_read, _graphs_within(graph.node)))


def _graphs_within(nodes: Iterable[Any]) -> Iterator[Any]:
  """The branches and bodies of nodes."""
  for node in nodes:
    for attribute in node.attribute:
      if attribute.HasField('g'):
        yield attribute.g
