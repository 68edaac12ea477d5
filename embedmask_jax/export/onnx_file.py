"""ONNX by way of jax2onnx: NMS and masks are in the graph, or there is no file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.export.function import INPUT_NAMES, OUTPUT_NAMES, Function

MODEL = 'model.onnx'
# jax2onnx asks for an orbax-checkpoint older than ours, which only its examples use.
INSTALL = (
  "pip install 'embedmask-jax[onnx]' and then "
  "pip install --no-deps 'jax2onnx>=0.17,<0.18'"
)


def write_onnx(
  folder: Path,
  function: Function,
  weights: Mapping[str, np.ndarray],
  inputs: tuple[jax.ShapeDtypeStruct, ...],
) -> tuple[str, ...]:
  """Converts the function; returns the names of the files.

  Args:
    folder: gets `MODEL`, the weights in it.
    function: see `make_function`.
    weights: its first argument, which become constants of the graph.
    inputs: shapes of its other arguments.

  Raises:
    UserError: jax2onnx is not installed, or cannot carry something.
  """
  try:
    import jax2onnx
  except ImportError as error:
    raise UserError(f'--format=onnx needs jax2onnx: {INSTALL}') from error
  constants = jax.device_put(dict(weights))

  def in_order(image: Any, size: Any) -> tuple:
    outputs = function(constants, image, size)
    return tuple(outputs[name] for name in OUTPUT_NAMES)

  try:
    jax2onnx.to_onnx(
      in_order,
      inputs=list(inputs),
      input_names=list(INPUT_NAMES),
      output_names=list(OUTPUT_NAMES),
      model_name='embedmask',
      return_mode='file',
      output_path=str(folder / MODEL),
    )
  except Exception as error:  # whatever the converter stumbles over
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UserError(
      f'jax2onnx cannot carry this model ({type(error).__name__}: {reason[:200]}); '
      'nothing is cut off to make it fit: use --format=stablehlo'
    ) from error
  return (MODEL,)


def load_onnx(folder: Path) -> Any:
  """The function (image, size) -> outputs of a folder, in ONNX Runtime on the CPU.

  Raises:
    UserError: onnxruntime is not installed, or refuses the graph.
  """
  try:
    import onnxruntime
  except ImportError as error:
    raise UserError(f'--verify of ONNX needs onnxruntime: {INSTALL}') from error
  try:
    session = onnxruntime.InferenceSession(
      str(folder / MODEL), providers=['CPUExecutionProvider']
    )
  except Exception as error:
    reason = str(error).strip().splitlines()[0]
    raise UserError(f'ONNX Runtime refuses the graph ({reason[:200]})') from error

  def call(image: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
    found = session.run(list(OUTPUT_NAMES), {'image': image, 'size': size})
    return dict(zip(OUTPUT_NAMES, found, strict=True))

  return call
