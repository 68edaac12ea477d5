"""Folders that results are written into."""

import tempfile
from pathlib import Path

from embedmask_jax.errors import UserError


def writable_folder(path: str | Path, name: str) -> Path:
  """Makes a folder and finds out whether files can be written there.

  Called before the work whose results go there, so that none is done in vain.

  Args:
    path: the folder; `~` stands for the home folder.
    name: what the user calls it, such as '--workdir'.

  Returns:
    The absolute path.

  Raises:
    UserError: it cannot be made or written.
  """
  if '://' in str(path):
    raise UserError(
      f'{name}={path} is no folder of a file system; mount the bucket, or name a folder'
    )
  folder = Path(path).expanduser().resolve()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
  except OSError as error:
    raise UserError(
      f'{name}={folder} cannot be written ({error.strerror}); name another folder'
    ) from error
  return folder
