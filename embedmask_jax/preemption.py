"""A request to stop: SIGTERM, as schedulers send it, or Ctrl-C."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils


class PreemptedError(Exception):
  """Training stopped on request, with its state saved: to be started again.

  Attributes:
    is_by_hand: whether the request was Ctrl-C, after which nothing should start it by
      itself.
  """

  def __init__(self, message: str, *, is_by_hand: bool = False):
    super().__init__(message)
    self.is_by_hand = is_by_hand


class StopRequest:
  """Tells at every step boundary whether to stop there; a context manager.

  The first Ctrl-C is a request, which a warning answers at once; the second one
  interrupts as ever.

  Among several hosts it is enough that one of them is asked: JAX's coordination
  service, which then catches SIGTERM in the place of the handler here, has them all
  stop at the same step. Ctrl-C interrupts there.

  Attributes:
    is_by_hand: whether Ctrl-C was the request.
  """

  def __init__(self) -> None:
    self.is_by_hand = False
    self._is_asked = threading.Event()
    self._before: dict[int, Any] = {}

  def is_due(self, step: int) -> bool:
    """Whether to stop with `step` updates done; every host must ask for every step."""
    if jax.distributed.is_initialized():
      return bool(multihost_utils.reached_preemption_sync_point(step))
    return self._is_asked.is_set()

  def __enter__(self) -> 'StopRequest':
    # Handlers belong to the main thread.
    if (
      jax.distributed.is_initialized()
      or threading.current_thread() is not threading.main_thread()
    ):
      return self
    numbers = [signal.SIGTERM]
    # A shell has background jobs ignore it, and a caller may have its own use for it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
      numbers.append(signal.SIGINT)
    self._before = {number: signal.signal(number, self._ask) for number in numbers}
    if signal.SIGINT in numbers:
      received, self._wakeup = os.pipe()
      os.set_blocking(self._wakeup, False)
      self._wakeup_before = signal.set_wakeup_fd(
        self._wakeup, warn_on_full_buffer=False
      )
      threading.Thread(target=_answer, args=(received,), daemon=True).start()
    return self

  def _ask(self, number: int, _: FrameType | None) -> None:
    self._is_asked.set()
    if number == signal.SIGINT:
      self.is_by_hand = True
      signal.signal(signal.SIGINT, signal.default_int_handler)

  def __exit__(self, *_: object) -> None:
    if signal.SIGINT in self._before:
      signal.set_wakeup_fd(self._wakeup_before)
      os.close(self._wakeup)
    for number, handler in self._before.items():
      signal.signal(number, handler)


def _answer(received: int) -> None:
  """Warns of the first SIGINT among the signals whose numbers are `received`.

  A thread of its own, since handlers wait for the end of what the main thread has
  called, and that may be the compiler.
  """
  with open(received, 'rb', buffering=0) as numbers:
    while number := numbers.read(1):
      if number[0] == signal.SIGINT:
        logging.warning(
          'stopping after this step (a compilation or evaluation is finished first); '
          'once more to stop at once'
        )
        # To its end, since Python complains where nobody reads.
        numbers.read()
