"""Places that results are written to."""

import os
import uuid
from pathlib import Path

from etils import epath

from embedmask_jax.errors import UserError
from embedmask_jax.storage import is_remote, located, reason


def writable_folder(path: str | os.PathLike, name: str) -> epath.Path:
  """Makes a folder and finds out whether files can be written there.

  Called before the work whose results go there, so that none is done in vain.

  Args:
    path: the folder, of a file system or gs://BUCKET/...; `~` stands for the home
      folder.
    name: what the user calls it, such as '--workdir'.

  Returns:
    The absolute path.

  Raises:
    UserError: it cannot be made or written.
  """
  try:
    folder = located(path)
  except UserError as error:
    raise UserError(f'{name}={error}') from error
  probe = folder / f'.writable-{uuid.uuid4().hex}'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_text('')
    probe.unlink()
  except Exception as error:  # the client of an object store raises many kinds
    raise UserError(
      f'{name}={folder} cannot be written ({reason(error)}); name another folder'
    ) from error
  return folder


def local_folder(path: str | os.PathLike, name: str) -> Path:
  """See `writable_folder`; for results that no object store takes.

  Raises:
    UserError: it is none of a file system, or cannot be made or written.
  """
  if is_remote(path):
    raise UserError(
      f'{name}={path} is no folder of a file system; name one, and copy it after'
    )
  return Path(writable_folder(path, name))


def local_file(path: str | os.PathLike, name: str) -> Path:
  """Makes the folder of a file; see `local_folder`.

  Returns:
    The absolute path of the file.

  Raises:
    UserError: it is none of a file system, or its folder cannot be made or written.
  """
  if is_remote(path):
    raise UserError(
      f'{name}={path} is no file of a file system; name one, and copy it after'
    )
  folder, file_name = os.path.split(path)
  return local_folder(folder or '.', f'the folder of {name}') / file_name
