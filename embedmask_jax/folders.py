"""Folders that results are written into."""

import os
import uuid

from etils import epath

from embedmask_jax.errors import UserError
from embedmask_jax.storage import located, reason


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
