"""Results: whole or not at all, and what kept them from being written."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from embedmask_jax.errors import UserError
from embedmask_jax.storage import is_remote, reason


@contextlib.contextmanager
def failures_told(path: str | os.PathLike) -> Iterator[None]:
  """Says in words what keeps the code inside from writing.

  Args:
    path: the file or folder that it writes; of a file system or gs://...

  Raises:
    UserError: the code inside raised an OSError, or, for gs://, anything else.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # the client of an object store raises many kinds
    if not isinstance(error, OSError) and not is_remote(path):
      raise
    raise UserError(
      f'{path}: cannot be written ({reason(error)}); make room there, or name another '
      'place'
    ) from error


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
  """Has a file replaced in one go: it is there whole, or as it was before.

  Yields:
    A place beside it. The file that the code inside writes there is moved to `path`, or
    removed where that code fails.

  Raises:
    OSError: it cannot be moved.
  """
  beside = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  try:
    yield beside
    os.replace(beside, path)
  except BaseException:
    with contextlib.suppress(OSError):
      beside.unlink()
    raise


@contextlib.contextmanager
def replaced_folder(path: Path, *, others_will_do: bool = False) -> Iterator[Path]:
  """Has a folder filled in one go: it is there whole, or not at all.

  Args:
    path: the folder, which is not there or empty.
    others_will_do: whether the folder of another process that was faster is kept, and
      no error.

  Yields:
    A new folder beside it, which becomes `path`, or is removed where the code inside
    fails.

  Raises:
    OSError: it cannot be made or moved.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = Path(tempfile.mkdtemp(prefix=f'.{path.name}-', dir=path.parent))
  try:
    yield beside
    beside.chmod(0o755)
    try:
      os.replace(beside, path)
    except OSError:
      if not (others_will_do and path.is_dir()):
        raise
  finally:
    shutil.rmtree(beside, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
  """Writes a file in one go, see `replaced_file`.

  Raises:
    OSError: it cannot be written.
  """
  with replaced_file(path) as beside:
    beside.write_text(text, encoding='utf-8')


def remove_json(path: Path) -> None:
  """Removes a file that `write_json` would replace, if there is one.

  Raises:
    UserError: it cannot be removed.
  """
  path = Path(os.path.realpath(path))
  with failures_told(path):
    if path.is_file():
      path.unlink()


def write_json(path: Path, content: object, *, indent: int | None = None) -> None:
  """Writes a JSON file in one go, see `replace_text`.

  What a link points to is written, and so are devices such as /dev/stdout.

  Raises:
    UserError: it cannot be written.
  """
  text = json.dumps(content, indent=indent) + '\n'
  path = Path(os.path.realpath(path))
  is_device = path.exists() and not (path.is_file() or path.is_dir())
  with failures_told(path):
    if is_device:
      path.write_text(text, encoding='utf-8')
    else:
      replace_text(path, text)
