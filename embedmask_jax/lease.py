"""A lock in an object store, where no operating system frees it: a lease.

The lock is an object that says who holds it. It is made, renewed and taken over only on
the condition that it is as it was last seen, so of several that try at once one
succeeds. Its holder renews it every `BEAT_SECONDS`. It is free

  * at once after a run that has ended, or stopped on request: it is deleted;
  * at once on the machine where its holder has died, however it died;
  * elsewhere when it was not renewed for `LEASE_SECONDS`, for which a newcomer watches
    it; no clocks are compared. Who knows that the holder is gone may take it at once.

A holder that cannot renew it leaves before it can be taken over, and one that finds it
taken over, because it was suspended for longer or thought to be gone, leaves within
`BEAT_SECONDS` (of waking). In these cases alone both may write for that long.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorstore
from absl import logging

from embedmask_jax.errors import UserError
from embedmask_jax.storage import reason

BEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0

# What a conditional write returns that has not taken place.
_REFUSED = b''


@contextlib.contextmanager
def lease(
  store: tensorstore.KvStore,
  key: str,
  name: str,
  *,
  on_loss: Callable[[], Any],
  take_over: bool = False,
  beat_seconds: float = BEAT_SECONDS,
  lease_seconds: float = LEASE_SECONDS,
) -> Iterator[None]:
  """Holds the object `key` of `store`.

  Args:
    store: with conditional writes.
    key: of the object.
    name: what the lock is for, as messages should call it.
    on_loss: called from a thread where the lock is lost; must end the process.
    take_over: does not wait for a sign of life of a holder on another machine.
    beat_seconds: between two renewals.
    lease_seconds: without renewals, after which others may take it.

  Raises:
    UserError: somebody else holds it, or the store cannot be reached.
  """
  content = {**_identity(), 'lease_seconds': lease_seconds, 'token': uuid.uuid4().hex}
  value = json.dumps(content).encode()
  try:
    generation = _acquire(store, key, value, name, take_over, beat_seconds)
  except (OSError, ValueError) as error:
    raise UserError(f'{name} cannot be locked ({reason(error)})') from error
  keeper = _Keeper(store, key, value, generation, on_loss, beat_seconds, lease_seconds)
  try:
    yield
  finally:
    keeper.release()


def _acquire(
  store: tensorstore.KvStore,
  key: str,
  value: bytes,
  name: str,
  take_over: bool,
  beat_seconds: float,
) -> bytes:
  """Returns the generation of the lock, once it is ours."""
  watched, until = None, 0.0
  while True:
    found = store.read(key).result()
    generation = found.stamp.generation
    is_free = found.state == 'missing'
    if not is_free:
      holder = _parse(found.value)
      who = f'process {holder.get("process")} on {holder.get("host")}'
      is_here = holder.get('machine') == _machine()
      is_free = is_here and not _is_alive(holder)
      if not is_free:
        if is_here or watched not in (None, generation):
          raise UserError(
            f'{name} is in use by {who}; wait for it, stop it, or name another folder'
          )
        if watched is None:
          wait = float(holder.get('lease_seconds', LEASE_SECONDS))
          watched, until = generation, time.monotonic() + wait
          if take_over:
            logging.warning('%s was in use by %s: taken over as asked', name, who)
          else:
            logging.warning(
              '%s was in use by %s: waiting %.0f s for a sign of life '
              '(--take-over where it is known to be gone)',
              name,
              who,
              wait,
            )
        is_free = take_over or time.monotonic() >= until
    if is_free:
      stamp = store.write(key, value, if_equal=generation).result()
      if stamp.generation != _REFUSED:
        return stamp.generation
    time.sleep(beat_seconds / 10)


class _Keeper:
  """Renews a lock from a thread until it is released."""

  def __init__(
    self,
    store: tensorstore.KvStore,
    key: str,
    value: bytes,
    generation: bytes,
    on_loss: Callable[[], Any],
    beat_seconds: float,
    lease_seconds: float,
  ):
    self._store = store
    self._key = key
    self._value = value
    self._generation = generation
    self._on_loss = on_loss
    self._beat = beat_seconds
    # An attempt takes a beat at most and the next begins one later: with this much to
    # spare, the last one is over before anyone takes the lock.
    self._patience = lease_seconds - 3 * beat_seconds
    self._renewed = time.monotonic()
    self._is_over = threading.Event()
    self._thread = threading.Thread(target=self._keep, name='lease', daemon=True)
    self._thread.start()

  def release(self) -> None:
    self._is_over.set()
    self._thread.join()
    try:
      self._store.write(self._key, None, if_equal=self._generation).result()
    except (OSError, ValueError) as error:
      logging.warning(
        'the lock %s is left behind (%s); it frees itself', self._key, reason(error)
      )

  def _keep(self) -> None:
    while not self._is_over.wait(self._beat):
      start = time.monotonic()
      try:
        is_ours = self._renew()
      except (OSError, ValueError) as error:
        is_ours = start - self._renewed < self._patience
        logging.warning('the lock cannot be renewed (%s)', reason(error))
      else:
        self._renewed = start
      if not is_ours:
        logging.error('the lock %s of this run is lost: leaving', self._key)
        self._on_loss()
        return

  def _renew(self) -> bool:
    write = self._store.write(self._key, self._value, if_equal=self._generation)
    generation = write.result(timeout=self._beat).generation
    if generation == _REFUSED:
      # Where an answer got lost, what is there may be our own last renewal.
      found = self._store.read(self._key).result(timeout=self._beat)
      if found.value != self._value:
        return False
      generation = found.stamp.generation
    self._generation = generation
    return True


def _identity() -> dict[str, Any]:
  pid = os.getpid()
  return {
    'process': pid,
    'host': socket.gethostname(),
    'machine': _machine(),
    'started': _start_time(pid),
  }


def _machine() -> str:
  """The same in all processes that see each other, in no others, nor after a reboot."""
  try:
    boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
    return f'{socket.gethostname()} {boot} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return uuid.uuid4().hex  # Unknown: never the same.


def _start_time(pid: int) -> str | None:
  """When a process was started; None where there is none."""
  try:
    # The name of the program, in brackets, may hold anything.
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  except OSError:
    return None
  state, started = fields[0], fields[19]
  return None if state == 'Z' else started


def _is_alive(holder: dict[str, Any]) -> bool:
  return _start_time(holder.get('process', 0)) == holder.get('started')


def _parse(value: bytes) -> dict[str, Any]:
  try:
    return dict(json.loads(value))
  except (ValueError, TypeError):
    return {}
