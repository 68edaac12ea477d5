"""Requests to stop, by signals to this process."""

import hashlib
import os
import signal
import socket
import threading
import time

import pytest

from embedmask_jax.preemption import StopRequest


def test_an_interrupt_is_answered_while_the_main_thread_compiles(caplog):
  with StopRequest() as stop:
    send = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    send.start()
    # One call that, like the compiler, lets other threads go on but no handler.
    hashlib.pbkdf2_hmac('sha256', b'', b'', 3_000_000)
    done = time.time()
    assert stop.is_due(1)
  [answer] = caplog.records
  assert 'stopping after this step' in answer.getMessage()
  assert answer.created < done - 0.2


def test_two_interrupts_while_the_main_thread_compiles_stop_at_once():
  def compile_interrupted():
    for delay in (0.1, 0.3):
      threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
    hashlib.pbkdf2_hmac('sha256', b'', b'', 3_000_000)
    time.sleep(1)

  with pytest.raises(KeyboardInterrupt), StopRequest():
    compile_interrupted()


def test_the_wakeup_of_an_event_loop_stays(caplog):
  received, wakeup = socket.socketpair()
  wakeup.setblocking(False)
  before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
  try:
    with StopRequest() as stop:
      signal.raise_signal(signal.SIGINT)
      assert stop.is_due(1)
    assert 'stopping after this step' in caplog.text
    assert received.recv(1) == bytes([signal.SIGINT])
  finally:
    assert signal.set_wakeup_fd(before) == wakeup.fileno()
    received.close()
    wakeup.close()


def test_the_second_interrupt_and_one_after_the_run_are_as_ever():
  with StopRequest() as stop:
    signal.raise_signal(signal.SIGINT)
    assert stop.is_by_hand
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt):
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_is_ignored_stays_so():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with StopRequest() as stop:
      signal.raise_signal(signal.SIGINT)
      assert not stop.is_due(1)
  finally:
    signal.signal(signal.SIGINT, before)
