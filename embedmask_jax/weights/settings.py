"""The settings that weights need, where no shape of a tensor tells them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError
from embedmask_jax.presets import share_weights


def check_settings(needed: Mapping[str, Any], configured: Mapping[str, Any]) -> None:
  """Checks that a config's `model` fields are those that weights were made for.

  Raises:
    UserError: one is not; names the flag to pass.
  """
  for name, value in other_settings(needed, configured).items():
    raise UserError(
      f'these weights need model.{name}={value}, the config has '
      f'{configured[name]}: pass --config.model.{name}={as_flag(value)}'
    )


def other_settings(
  needed: Mapping[str, Any], configured: Mapping[str, Any]
) -> dict[str, Any]:
  """Those of `needed` that `configured` has at a value that does not do."""
  return {
    name: value
    for name, value in needed.items()
    if not _fits(name, configured[name], value)
  }


def as_flag(value: Any) -> str:
  """As a shell takes it."""
  return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _fits(name: str, found: Any, needed: Any) -> bool:
  if name == 'preset':
    return share_weights(found, needed)
  if isinstance(needed, tuple):
    return len(found) == len(needed) and bool(np.allclose(found, needed))
  return found == needed
