"""StableHLO: one program for CPU, CUDA and TPU, run by jax alone.

The weights are an argument of the program and lie beside it, for three reasons: no
compiler has to fold or copy hundreds of megabytes of constants, new weights of the same
network need no new program, and `numpy.load` can read them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.export.function import Function

PROGRAM, WEIGHTS = 'function.bin', 'weights.npz'
PLATFORMS = ('cpu', 'cuda', 'tpu')


def write_stablehlo(
  folder: Path,
  function: Function,
  weights: Mapping[str, np.ndarray],
  inputs: tuple[jax.ShapeDtypeStruct, ...],
) -> tuple[str, ...]:
  """Lowers the function for all platforms; returns the names of the files.

  Args:
    folder: gets `PROGRAM` and `WEIGHTS`.
    function: see `make_function`.
    weights: its first argument.
    inputs: shapes of its other arguments.

  Raises:
    UserError: flatbuffers, in which jax writes programs, is not installed.
  """
  try:
    import flatbuffers  # noqa: F401
  except ImportError as error:
    raise UserError(
      'jax.export writes with flatbuffers, which is not installed: '
      'pip install flatbuffers'
    ) from error
  shapes = {
    name: jax.ShapeDtypeStruct(array.shape, array.dtype)
    for name, array in weights.items()
  }
  exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(shapes, *inputs)
  (folder / PROGRAM).write_bytes(exported.serialize())
  np.savez(folder / WEIGHTS, **weights)  # type: ignore[arg-type]
  return PROGRAM, WEIGHTS


def load_stablehlo(folder: Path) -> Any:
  """The function (image, size) -> outputs of a folder, on this machine's device."""
  program = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
  with np.load(folder / WEIGHTS) as arrays:
    weights = jax.device_put(dict(arrays))
  call = jax.jit(program.call)
  return lambda image, size: call(weights, image, size)
