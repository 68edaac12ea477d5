"""One run at a time in a work folder."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from embedmask_jax.errors import UserError

LOCK_NAME = 'running.lock'


@contextlib.contextmanager
def work_folder_lock(workdir: Path) -> Iterator[None]:
  """Holds WORKDIR/running.lock, whose content says by whom.

  The operating system frees it when the process ends, however it ends; unlike the
  other kind of lock, reading processes started by this one do not hold it on.

  Args:
    workdir: existing and writable.

  Raises:
    UserError: another process holds it.
  """
  path = workdir / LOCK_NAME
  with path.open('a+', encoding='utf-8') as file:
    try:
      fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
      file.seek(0)
      holder = file.read().strip() or 'another process'
      raise UserError(
        f'--workdir={workdir} is in use by {holder}; wait for it, stop it, or name '
        'another folder'
      ) from error
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    yield
