"""Growing files on their way to an object store, which cannot append to one."""

import shutil
import tempfile
import time
from pathlib import Path

from etils import epath

from embedmask_jax.errors import UserError
from embedmask_jax.storage import reason

# Between two rounds of copying, at least; more where copying takes longer than a
# twentieth of that.
_SECONDS = 30
_SHARE = 20


class Mirror:
  """A local folder whose files are copied, whole, to where they belong.

  Attributes:
    folder: the local one, empty at first.
  """

  def __init__(self, target: epath.Path):
    """Copies to `target`."""
    self.folder = Path(tempfile.mkdtemp(prefix='embedmask_logs_'))
    self._target = target
    self._copied: dict[Path, tuple[int, int]] = {}
    self._due = time.monotonic() + _SECONDS

  def fetch(self, name: str) -> None:
    """Brings a file of the target here, if it is there."""
    if (self._target / name).exists():
      (self.folder / name).write_bytes((self._target / name).read_bytes())

  def copy_if_due(self) -> None:
    """Copies what has changed, unless that was done a moment ago; see `copy`."""
    if time.monotonic() >= self._due:
      self.copy()

  def copy(self) -> None:
    """Copies what has changed.

    Raises:
      UserError: it cannot be written.
    """
    start = time.monotonic()
    for path in sorted(p for p in self.folder.rglob('*') if p.is_file()):
      state = path.stat().st_size, path.stat().st_mtime_ns
      if self._copied.get(path) == state:
        continue
      target = self._target / path.relative_to(self.folder)
      try:
        target.write_bytes(path.read_bytes())
      except Exception as error:  # the client of an object store raises many kinds
        raise UserError(f'cannot write {target}: {reason(error)}') from error
      self._copied[path] = state
    now = time.monotonic()
    self._due = now + max(_SECONDS, _SHARE * (now - start))

  def close(self) -> None:
    """Copies what has changed and removes the local folder."""
    try:
      self.copy()
    finally:
      shutil.rmtree(self.folder, ignore_errors=True)
