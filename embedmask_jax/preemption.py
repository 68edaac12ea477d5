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
    self._is_urgent = threading.Event()
    self._before: dict[int, Any] = {}
    self._wakeup = -1

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
      self._answer_at_once()
    return self

  def _answer_at_once(self) -> None:
    received, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    if before == -1:
      self._wakeup = wakeup
      arguments = received, self._is_urgent
      threading.Thread(target=_answer, args=arguments, daemon=True).start()
    else:
      # Somebody else's, such as an event loop's.
      signal.set_wakeup_fd(before, warn_on_full_buffer=False)
      os.close(received)
      os.close(wakeup)

  def _ask(self, number: int, _: FrameType | None) -> None:
    self._is_asked.set()
    if number == signal.SIGINT:
      self.is_by_hand = True
      signal.signal(signal.SIGINT, signal.default_int_handler)
      if self._wakeup == -1:
        _warn()
      if self._is_urgent.is_set():
        raise KeyboardInterrupt

  def __exit__(self, *_: object) -> None:
    if self._wakeup != -1:
      signal.set_wakeup_fd(-1)
      os.close(self._wakeup)
    for number, handler in self._before.items():
      # None: not of Python.
      if handler is not None:
        signal.signal(number, handler)


def _answer(received: int, is_urgent: threading.Event) -> None:
  """Warns of the first SIGINT among the signals whose numbers are `received`.

  Sets `is_urgent` at the second one: two that come during one call from the main thread
  are one to the handler.

  A thread of its own, since handlers wait for the end of what the main thread has
  called, and that may be the compiler.
  """
  interrupts = 0
  with open(received, 'rb', buffering=0) as numbers:
    # To its end, since Python complains where nobody reads.
    while number := numbers.read(1):
      if number[0] != signal.SIGINT:
        continue
      interrupts += 1
      if interrupts == 1:
        _warn()
      else:
        is_urgent.set()


def _warn() -> None:
  logging.warning(
    'stopping after this step (a compilation or evaluation is finished first); once '
    'more to stop at once, or when the compilation ends'
  )
