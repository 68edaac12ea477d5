"""Folders that results are written into."""

import os
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
  folder = Path(path).expanduser().resolve()
  probe = folder / f'.writable-{os.getpid()}'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise UserError(
      f'{name}={folder} cannot be written ({error.strerror}); name another folder'
    ) from error
  return folder
