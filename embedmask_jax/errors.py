"""The one exception that stands for a user's mistake, and lists in its words."""

from collections.abc import Sequence
from typing import Any


class UserError(Exception):
  """Input that cannot be used as given.

  The message names the file, field or value and the remedy. Command-line entry
  points print it as a single line and exit with status 2, without a traceback.
  """


def shorten(items: Sequence[Any], *, count: int = 5, joint: str = ', ') -> str:
  """The first few of what a message lists, with dots for those that are left out."""
  shown = [str(item) for item in items[:count]]
  return joint.join([*shown, '...'] if len(items) > count else shown)
