"""The lock of work folders in object stores, with a store in memory."""

import json
import os
import subprocess
import threading
import time

import pytest
import tensorstore

from embedmask_jax import lease as lease_module
from embedmask_jax.errors import UserError
from embedmask_jax.lease import lease

KEY = 'running.lock'
BEAT, LEASE = 0.1, 1.0


@pytest.fixture
def store():
  return tensorstore.KvStore.open('memory://').result()


def hold(store, on_loss=lambda: None, **options):
  times = {'beat_seconds': BEAT, 'lease_seconds': LEASE}
  return lease(store, KEY, '--workdir=gs://b/run', on_loss=on_loss, **times, **options)


def content(store):
  return json.loads(store.read(KEY).result().value)


def write_as(store, *, host='elsewhere', **fields):
  """Leaves a lock behind as another machine's process would."""
  holder = {
    'process': 7,
    'host': host,
    'machine': host,
    'started': '1',
    'lease_seconds': LEASE,
    **fields,
  }
  store.write(KEY, json.dumps(holder).encode()).result()


def test_one_holds_it_and_the_next_gets_it_at_once(store):
  with hold(store):
    assert content(store)['process'] == os.getpid()
    message = f'gs://b/run is in use by process {os.getpid()} on .*; wait for it, stop'
    with pytest.raises(UserError, match=message), hold(store):
      pass
  assert store.read(KEY).result().state == 'missing'
  with hold(store):
    pass


def test_of_many_that_begin_at_once_one_gets_it(store):
  outcomes = []
  ready = threading.Barrier(8)

  def compete():
    ready.wait()
    try:
      with hold(store):
        outcomes.append('held')
        while len(outcomes) < 8:
          time.sleep(BEAT / 10)
    except UserError:
      outcomes.append('refused')

  threads = [threading.Thread(target=compete) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(outcomes) == ['held'] + ['refused'] * 7


class Raced:
  """A store in which somebody else writes the lock after it was first read."""

  def __init__(self, store):
    self.store = store
    self.write = store.write
    self.is_first = True

  def read(self, key):
    found = self.store.read(key)
    found.result()
    if self.is_first:
      self.is_first = False
      write_as(self.store)
    return found


def test_who_was_faster_keeps_it(store):
  start = time.monotonic()
  with hold(Raced(store)):
    assert time.monotonic() - start >= LEASE


def test_a_process_that_died_on_this_machine_is_not_waited_for(store):
  child = subprocess.Popen(['sleep', '60'])
  identity = {
    'host': 'here',
    'machine': lease_module._machine(),
    'process': child.pid,
    'started': lease_module._start_time(child.pid),
  }
  write_as(store, **identity)
  with pytest.raises(UserError, match='in use by process'), hold(store):
    pass
  child.kill()
  # Also as long as nobody has asked for its exit status.
  os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
  start = time.monotonic()
  with hold(store):
    assert time.monotonic() - start < LEASE / 2
  child.wait()
  # Another process may have got its number since.
  write_as(store, **{**identity, 'process': os.getpid()})
  with hold(store):
    pass


def test_a_process_that_died_elsewhere_is_waited_for(store, caplog):
  write_as(store)
  start = time.monotonic()
  with hold(store):
    assert time.monotonic() - start >= LEASE
  assert 'process 7 on elsewhere: waiting 1 s for a sign of life' in caplog.text


def test_who_is_known_to_be_gone_is_not_waited_for(store, caplog):
  write_as(store)
  start = time.monotonic()
  with hold(store, take_over=True):
    assert time.monotonic() - start < LEASE / 2
  assert 'process 7 on elsewhere: taken over as asked' in caplog.text


def test_who_is_here_and_alive_is_not_taken_over(store):
  message = 'is in use by process'
  with (
    hold(store),
    pytest.raises(UserError, match=message),
    hold(store, take_over=True),
  ):
    pass


def test_a_process_that_lives_elsewhere_is_not_taken_from(store):
  over = threading.Event()

  def beat():
    while not over.wait(BEAT):
      write_as(store)

  write_as(store)
  thread = threading.Thread(target=beat)
  thread.start()
  try:
    with pytest.raises(UserError, match='process 7 on elsewhere'), hold(store):
      pass
  finally:
    over.set()
    thread.join()


def test_it_is_renewed_and_given_back(store):
  with hold(store):
    before = store.read(KEY).result().stamp.generation
    time.sleep(5 * BEAT)
    assert store.read(KEY).result().stamp.generation != before
  assert store.read(KEY).result().state == 'missing'


def test_who_finds_it_taken_over_leaves(store):
  lost = threading.Event()
  with hold(store, on_loss=lost.set):
    write_as(store)
    assert lost.wait(20 * BEAT)
  # The lock of the new holder stays.
  assert content(store)['host'] == 'elsewhere'


def test_a_renewal_whose_answer_got_lost_is_one(store):
  lost = threading.Event()
  with hold(store, on_loss=lost.set):
    store.write(KEY, store.read(KEY).result().value).result()
    time.sleep(5 * BEAT)
    assert not lost.is_set()
  assert store.read(KEY).result().state == 'missing'


class Unreachable:
  """A store that is not to be reached once `is_down`."""

  def __init__(self, store):
    self.store = store
    self.is_down = False

  def read(self, *args, **kwargs):
    return self.store.read(*args, **kwargs)

  def write(self, *args, **kwargs):
    if self.is_down:
      raise ValueError('UNAVAILABLE')
    return self.store.write(*args, **kwargs)


def test_who_cannot_renew_it_leaves_before_it_is_taken(store, caplog):
  unreachable = Unreachable(store)
  lost = threading.Event()
  with hold(unreachable, on_loss=lost.set):
    unreachable.is_down = True
    start = time.monotonic()
    assert lost.wait(20 * LEASE)
    assert time.monotonic() - start < LEASE + 5 * BEAT
  assert 'cannot be renewed (UNAVAILABLE)' in caplog.text
  assert 'is left behind (UNAVAILABLE); it frees itself' in caplog.text


def test_an_unreadable_lock_is_waited_for(store, monkeypatch):
  monkeypatch.setattr(lease_module, 'LEASE_SECONDS', LEASE)
  store.write(KEY, b'?').result()
  with hold(store):
    assert content(store)['process'] == os.getpid()
