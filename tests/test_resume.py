"""A run that is killed or stopped at any moment ends as if nothing had happened."""

import errno
import random
import signal
import time

import pytest
from toy_run import finish, seen_batches, start, stored_checksums

from embedmask_jax.checkpoint import list_steps
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import INTERRUPTED, RETRY
from embedmask_jax.work_folder_lock import work_folder_lock

SLOW_STEPS = {'TOY_STEP_SECONDS': '0.2'}


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('straight')
  finish([start(workdir)], workdir)
  return workdir


def assert_as_if_nothing_had_happened(workdir, straight):
  assert list_steps(workdir / 'checkpoints')[-1] == 20
  assert stored_checksums(workdir, 20) == stored_checksums(straight, 20)
  assert seen_batches(workdir) == seen_batches(straight)
  assert sorted(seen_batches(workdir)) == list(range(20))


def wait_for_step(process, workdir, step):
  """Waits until the batch of `step` was handed out."""
  while process.poll() is None:
    time.sleep(0.02)
    if (workdir / 'seen.0.jsonl').exists() and step in seen_batches(workdir):
      return
  raise AssertionError((workdir / 'output.0').read_text())


@pytest.mark.parametrize(
  ('number', 'status'), [(signal.SIGTERM, RETRY), (signal.SIGINT, INTERRUPTED)]
)
def test_asked_to_stop_it_saves_at_the_next_step(straight, tmp_path, number, status):
  process = start(tmp_path, **SLOW_STEPS)
  wait_for_step(process, tmp_path, 4)
  # Of a run that lives, a second one keeps away.
  with (
    pytest.raises(UserError, match=f'in use by process {process.pid} on .* wait for'),
    work_folder_lock(tmp_path),
  ):
    pass
  process.send_signal(number)
  seen = max(seen_batches(tmp_path))
  finish([process], tmp_path, status=status)
  [*_, saved] = list_steps(tmp_path / 'checkpoints')
  assert seen < saved <= seen + 2
  message = f'asked to stop: saved at step {saved} of 20; run the same command again'
  assert message in (tmp_path / 'output.0').read_text()

  finish([start(tmp_path)], tmp_path)
  assert_as_if_nothing_had_happened(tmp_path, straight)


def test_a_folder_that_cannot_be_locked_is_told(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr('fcntl.lockf', fail)
  with (
    pytest.raises(UserError, match=r'cannot be locked \(No locks available\)'),
    work_folder_lock(tmp_path),
  ):
    pass
  monkeypatch.undo()
  (tmp_path / 'running.lock').unlink()
  (tmp_path / 'running.lock').mkdir()
  with (
    pytest.raises(UserError, match=r'running\.lock cannot be locked'),
    work_folder_lock(tmp_path),
  ):
    pass


@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, 1])
def test_killed_at_random_moments(straight, tmp_path, seed):
  moments = random.Random(seed)
  for step in sorted(moments.sample(range(1, 19), 3)):
    process = start(tmp_path, **SLOW_STEPS)
    wait_for_step(process, tmp_path, step)
    time.sleep(moments.uniform(0, 0.3))
    # Restarted at once: nothing is left that a new run would wait for.
    process.kill()
    process.wait()
  finish([start(tmp_path)], tmp_path)
  assert_as_if_nothing_had_happened(tmp_path, straight)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_checkpoint(straight, tmp_path):
  finish([start(tmp_path, TOY_DIE_IN_WRITE='2')], tmp_path, status=-signal.SIGKILL)
  assert list_steps(tmp_path / 'checkpoints') == [3]
  unfinished = list((tmp_path / 'checkpoints').glob('6.*'))
  assert unfinished
  finish([start(tmp_path)], tmp_path)
  assert_as_if_nothing_had_happened(tmp_path, straight)
  assert not any(path.exists() for path in unfinished)
