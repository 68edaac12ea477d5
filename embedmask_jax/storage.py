"""Where files lie: in a file system, or in Google Cloud Storage as gs://BUCKET/...

Both are reached through `etils.epath`. For gs:// it needs gcsfs, which the extra `gcs`
brings, and credentials where Google's own tools look for them. An object store has no
folders, no appending and no locks, and renames file by file: docs/scale.md says what
stands in for them.
"""

import functools
import importlib.util
import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from etils import epath

from embedmask_jax.errors import UserError

_BUCKETS = 'gs://'
# Files on their way at a time.
_COPIES = 8

CACHE_VARIABLE = 'EMBEDMASK_CACHE'


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path is one of an object store."""
  return os.fspath(path).startswith(_BUCKETS)


def default_folder() -> Path:
  """$EMBEDMASK_CACHE, or ~/.cache/embedmask_jax where it is not set."""
  named = os.environ.get(CACHE_VARIABLE)
  return Path(named) if named else Path.home() / '.cache' / 'embedmask_jax'


def located(path: str | os.PathLike) -> epath.Path:
  """The absolute path; in a file system, `~` stands for the home folder.

  Raises:
    UserError: it names a kind of storage that is not known, or one that needs a package
      which is not installed.
  """
  text = os.fspath(path)
  if is_remote(text):
    if importlib.util.find_spec('gcsfs') is None:
      raise UserError(f"{text}: needs gcsfs: pip install 'embedmask-jax[gcs]'")
    _forget_listings()
    _send_plain_bytes()
    return epath.Path(text)
  if '://' in text:
    raise UserError(
      f'{text}: must be a path of a file system, or begin with {_BUCKETS}'
    )
  return epath.Path(os.path.abspath(os.path.expanduser(text)))


def _forget_listings() -> None:
  """Has gcsfs ask anew what there is: it does not see what other programs write.

  Those include TensorStore in this process, which writes the arrays of checkpoints.
  """
  import fsspec.config

  for protocol in ('gcs', 'gs'):
    fsspec.config.conf.setdefault(protocol, {})['use_listings_cache'] = False


@functools.cache
def _send_plain_bytes() -> None:
  """Keeps Python 3.12.0 and 3.12.1 from crashing after a write that failed.

  Their garbage collector does when a `BytesIO.getbuffer()` is part of a cycle
  (gh-111049, mended in 3.12.2). gcsfs sends such a buffer, and the error of a failed
  write is in a cycle with the frames that hold it.
  """
  if not (3, 12) <= sys.version_info < (3, 12, 2):
    return
  from gcsfs.core import GCSFile

  upload = GCSFile._upload_chunk

  def upload_plain_bytes(self, final=False):
    position = self.buffer.tell()
    self.buffer = _PlainBytes(self.buffer.getvalue())
    self.buffer.seek(position)
    return upload(self, final)

  GCSFile._upload_chunk = upload_plain_bytes


class _PlainBytes(io.BytesIO):
  """Its buffer is one of immutable bytes, whose release it need not be told."""

  def getbuffer(self) -> memoryview:
    return memoryview(self.getvalue())


def read_bytes(path: str | os.PathLike) -> bytes:
  """The content of a file.

  Raises:
    UserError: see `located`.
    OSError: it cannot be read.
  """
  place = located(path)
  try:
    return place.read_bytes()
  except OSError:
    raise
  except Exception as error:  # whatever the client of an object store raises
    raise OSError(str(error)) from error


def read_json(path: str | os.PathLike, *, remedy: str = '') -> Any:
  """The content of a JSON file.

  Args:
    path: of the file.
    remedy: what the message says after what is wrong with the file.

  Raises:
    UserError: see `located`; it cannot be read, or is not JSON.
  """
  try:
    return json.loads(read_bytes(path))
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({reason(error)}){remedy}') from error
  except (ValueError, RecursionError) as error:
    raise UserError(f'{path}: not JSON ({error}){remedy}') from error


def list_names(folder: str | os.PathLike) -> frozenset[str]:
  """The names in a folder; none where there is no such folder."""
  try:
    if is_remote(folder):
      return frozenset(path.name for path in located(folder).iterdir())
    return frozenset(os.listdir(folder))
  except OSError:
    return frozenset()


def copy_files(source: epath.Path, target: epath.Path, names: list[str]) -> None:
  """Copies files of a folder, several at a time; `target` gets each whole or not.

  Raises:
    OSError: one of them cannot be read or written.
  """
  with ThreadPoolExecutor(_COPIES) as pool:
    try:
      for _ in pool.map(lambda name: (source / name).copy(target / name), names):
        pass
    except OSError:
      raise
    except Exception as error:  # whatever the client of an object store raises
      raise OSError(str(error)) from error


def reason(error: Exception) -> str:
  """Why something could not be read or written, in a few words."""
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  return text.splitlines()[0]
