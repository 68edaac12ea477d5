"""A request to stop: SIGTERM, as preempted machines and schedulers send it."""

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class PreemptedError(Exception):
  """Training stopped on request, with its state saved: to be started again."""


class StopRequest:
  """Tells at every step boundary whether to stop there; a context manager.

  Among several hosts it is enough that one of them is asked: JAX's coordination
  service, which then catches SIGTERM in the place of the handler here, has them all
  stop at the same step.
  """

  def __init__(self) -> None:
    self._is_asked = threading.Event()
    self._before: Any = None

  def is_due(self, step: int) -> bool:
    """Whether to stop with `step` updates done; every host must ask for every step."""
    if jax.distributed.is_initialized():
      return bool(multihost_utils.reached_preemption_sync_point(step))
    return self._is_asked.is_set()

  def __enter__(self) -> 'StopRequest':
    # Handlers belong to the main thread.
    if (
      not jax.distributed.is_initialized()
      and threading.current_thread() is threading.main_thread()
    ):
      self._before = signal.signal(signal.SIGTERM, lambda *_: self._is_asked.set())
    return self

  def __exit__(self, *_: object) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
