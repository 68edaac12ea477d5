"""One run at a time in a work folder."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from functools import partial
from typing import IO

from etils import epath

from embedmask_jax.errors import UserError
from embedmask_jax.storage import is_remote, reason
from embedmask_jax.writing import failures_told

LOCK_NAME = 'running.lock'


@contextlib.contextmanager
def work_folder_lock(workdir: epath.Path, *, take_over: bool = False) -> Iterator[None]:
  """Holds WORKDIR/running.lock, whose content says by whom.

  In a file system the operating system frees it when the process ends, however it ends.
  In an object store it is a lease (`lease.py`); a process that loses it is ended.

  Args:
    workdir: existing and writable.
    take_over: in an object store, takes it at once from a run on another machine, which
      ends if it still lives. In a file system the lock is free when that run is gone.

  Raises:
    UserError: another process holds it, or it cannot be locked.
  """
  if is_remote(workdir):
    with _lease(workdir, take_over):
      yield
    return
  with _open_lock(workdir) as file:
    try:
      # Unlike the other kind of lock, this one is not held on by reading processes.
      fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
      file.seek(0)
      holder = file.read().strip() or 'another process'
      raise UserError(
        f'--workdir={workdir} is in use by {holder}; wait for it, stop it, or name '
        'another folder'
      ) from error
    except OSError as error:
      raise _without_locks(workdir, error) from error
    holder = f'process {os.getpid()} on {socket.gethostname()}\n'
    with failures_told(workdir / LOCK_NAME):
      file.truncate(0)
      os.write(file.fileno(), holder.encode())
    yield


def _open_lock(workdir: epath.Path) -> IO[str]:
  try:
    return open(workdir / LOCK_NAME, 'a+', encoding='utf-8')
  except OSError as error:
    raise _without_locks(workdir, error) from error


def _without_locks(workdir: epath.Path, error: OSError) -> UserError:
  return UserError(
    f'--workdir={workdir}: {LOCK_NAME} cannot be locked ({reason(error)}); remove it '
    'if it is of another user and no run is in the folder, or name a folder on a file '
    'system with locks'
  )


def _lease(
  workdir: epath.Path, take_over: bool
) -> contextlib.AbstractContextManager[None]:
  """The lock in a bucket, by way of what writes the arrays of checkpoints there."""
  import tensorstore

  from embedmask_jax.hosts import leave
  from embedmask_jax.lease import lease

  # Without the slash between them the work folders `run` and `run2` would mix.
  store = tensorstore.KvStore.open(f'{workdir}/').result()
  name = f'--workdir={workdir}'
  return lease(store, LOCK_NAME, name, on_loss=partial(leave, 1), take_over=take_over)
