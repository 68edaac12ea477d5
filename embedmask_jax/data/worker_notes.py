"""What the reading processes are at, for the case that one of them dies."""

import os
import shutil
import tempfile
from pathlib import Path


class WorkerNotes:
  """A temporary folder in which every process keeps the image it is on."""

  def __init__(self) -> None:
    self._folder = Path(tempfile.mkdtemp(prefix='embedmask_workers_'))

  def write(self, index: int) -> None:
    """Notes that this process now works on the image at `index` of the source."""
    (self._folder / str(os.getpid())).write_text(str(index))

  def clear(self) -> None:
    """Notes that this process is between two batches."""
    (self._folder / str(os.getpid())).write_text('')

  def left_by_dead(self) -> list[int]:
    """The images that processes which are no more were on; forgets these notes."""
    notes = [note for note in self._folder.iterdir() if not _is_alive(int(note.name))]
    texts = [note.read_text() for note in notes]
    for note in notes:
      note.unlink()
    return [int(text) for text in texts if text]

  def close(self) -> None:
    """Removes the folder."""
    shutil.rmtree(self._folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True
