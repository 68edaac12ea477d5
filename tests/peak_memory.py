"""How much memory a call takes, for tests."""

import tracemalloc
from collections.abc import Callable
from typing import Any


def peak_memory(call: Callable[[], Any]) -> int:
  """The most bytes that Python and NumPy held at once beyond those of before."""
  tracemalloc.start()
  try:
    call()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
