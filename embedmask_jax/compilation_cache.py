"""Compiled programs kept on disk, so that a second run starts at once."""

import os

from embedmask_jax.errors import UserError
from embedmask_jax.storage import default_folder, located


def enable_compilation_cache(folder: str) -> None:
  """Tells jax where to keep compiled programs.

  Args:
    folder: made if need be; '' for the environment's JAX_COMPILATION_CACHE_DIR, or
      xla in the cache folder; 'off' for none.

  Raises:
    UserError: it cannot be made.
  """
  import jax

  if folder == 'off' or (not folder and os.environ.get('JAX_COMPILATION_CACHE_DIR')):
    return
  path = located(folder or default_folder() / 'xla')
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f'--compilation-cache={path} cannot be written ({error.strerror}); name another '
      'folder, or "off"'
    ) from error
  jax.config.update('jax_compilation_cache_dir', str(path))
