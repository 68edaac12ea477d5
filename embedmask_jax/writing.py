"""Files of results: whole or not at all, and what kept them from being written."""

import contextlib
import json
import os
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


def replace_text(path: Path, text: str) -> None:
  """Writes a file in one go: it is there whole, or as it was before.

  Raises:
    OSError: it cannot be written.
  """
  beside = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  try:
    beside.write_text(text, encoding='utf-8')
    os.replace(beside, path)
  except OSError:
    with contextlib.suppress(OSError):
      beside.unlink()
    raise


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
