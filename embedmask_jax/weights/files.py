"""Opening weight files without running what is in them.

A pickle can name any Python function and have it called while it is loaded. The
readers here admit only what arrays are made of.
"""

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.storage import reason
from embedmask_jax.writing import replaced_file

_TORCH_SUFFIXES = ('.pth', '.pt')
_PICKLE_SUFFIX = '.pkl'
# Keys under which a file may hold its tensors: the authors' trainer and
# torchvision's use 'model', Detectron 'blobs'.
_INNER = ('model', 'blobs', 'state_dict')

# What NumPy's own pickles consist of, old and new module names; `encode` is how
# Python 3 writes bytes for Python 2.
_ADMITTED = {
  ('collections', 'OrderedDict'),
  ('_codecs', 'encode'),
  ('numpy', 'ndarray'),
  ('numpy', 'dtype'),
  ('numpy.core.multiarray', '_reconstruct'),
  ('numpy.core.multiarray', 'scalar'),
  ('numpy._core.multiarray', '_reconstruct'),
  ('numpy._core.multiarray', 'scalar'),
}


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a weight file by name.

  Args:
    path: `.pth` or `.pt` of PyTorch, in its zip container or the older pickle
      stream (this needs PyTorch); `.pkl` of Detectron or caffe2. The tensors may be
      the whole content or stand under 'model', 'state_dict' or 'blobs'. `~` stands
      for the home folder.

  Returns:
    Arrays as stored, with their names as stored; what is no array is left out.

  Raises:
    UserError: the file cannot be read, wants to run code, or holds no arrays; or
      PyTorch is needed and absent.
  """
  path = Path(os.path.expanduser(path))
  if not path.is_file():
    raise UserError(f'{path}: no such file')
  if path.suffix in _TORCH_SUFFIXES:
    content = _read_torch(path)
  elif path.suffix == _PICKLE_SUFFIX:
    content = _read_pickle(path)
  else:
    accepted = ', '.join((*_TORCH_SUFFIXES, _PICKLE_SUFFIX))
    raise UserError(
      f'{path}: unknown kind of weight file; its name must end in one of {accepted}'
    )
  for name in _INNER:
    if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
      content = content[name]
      break
  if not isinstance(content, Mapping):
    raise UserError(f'{path}: holds a {type(content).__name__}, not named tensors')
  arrays = {
    str(name): value for name, value in content.items() if isinstance(value, np.ndarray)
  }
  if not arrays:
    raise UserError(f'{path}: no tensors in it, only {", ".join(map(str, content))}')
  return arrays


def write_torch(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
  """Writes {'model': state dict} as the authors' loader reads it.

  Args:
    path: file to write; its folder must exist.
    state_dict: arrays by name.

  Raises:
    UserError: PyTorch is absent, the name does not end in `.pth` or `.pt`, or the
      file cannot be written.
  """
  path = Path(path)
  if path.suffix not in _TORCH_SUFFIXES:
    raise UserError(f'{path}: the name of a PyTorch file must end in .pth')
  torch = _torch(path)
  tensors = {name: torch.from_numpy(np.array(v)) for name, v in state_dict.items()}
  try:
    # PyTorch would write the name of a file that it opens itself into it.
    with replaced_file(path) as beside, open(beside, 'wb') as file:
      torch.save({'model': tensors}, file)
  # PyTorch says by a RuntimeError that a disk is full.
  except (OSError, RuntimeError) as error:
    raise UserError(
      f'{path}: cannot be written ({reason(error)}); make room there, or name another '
      'file'
    ) from error


def _torch(path: Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f"{path}: PyTorch's file format needs PyTorch: pip install 'embedmask-jax[torch]'"
    ) from error
  return torch


def _read_torch(path: Path) -> Any:
  torch = _torch(path)
  try:
    content = torch.load(path, map_location='cpu', weights_only=True)
  except pickle.UnpicklingError as error:
    if 'GLOBAL' not in str(error):
      raise UserError(f'{path}: not a readable PyTorch file') from error
    raise UserError(
      f'{path}: refused: it wants to run code that is no part of storing tensors; '
      'get the file from its authors, or have it saved again as a plain state dict'
    ) from error
  except Exception as error:
    raise UserError(f'{path}: not a readable PyTorch file ({error})') from error
  return _to_numpy(torch, content)


def _to_numpy(torch: Any, content: Any) -> Any:
  if isinstance(content, Mapping):
    return {name: _to_numpy(torch, value) for name, value in content.items()}
  if isinstance(content, torch.Tensor):
    if content.dtype == torch.bfloat16:
      content = content.float()
    return content.detach().numpy()
  return content


class _ArrayUnpickler(pickle.Unpickler):
  """Loads containers and arrays, and refuses everything else."""

  def find_class(self, module: str, name: str) -> Any:
    """Returns an admitted constructor.

    Raises:
      UserError: anything else is asked for.
    """
    if (module, name) not in _ADMITTED:
      raise UserError(
        f'refused: it wants to run {module}.{name}, which is no part of storing arrays'
      )
    if module.startswith('numpy.core'):
      module = module.replace('numpy.core', 'numpy._core')
    return super().find_class(module, name)

  def persistent_load(self, pid: Any) -> Any:
    """Refuses what lies outside the pickle.

    Raises:
      UserError: always.
    """
    raise UserError(
      'refused: it refers to data outside of itself; if PyTorch wrote it, name it .pth'
    )


def _read_pickle(path: Path) -> Any:
  try:
    # Python 2 wrote caffe2's files: its strings are bytes, arrays among them.
    unpickler = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding='latin1')
    return unpickler.load()
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  except Exception as error:
    raise UserError(f'{path}: not a readable pickle ({error})') from error
