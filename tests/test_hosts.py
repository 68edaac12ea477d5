"""Several processes on this machine as the hosts of one run."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from toy_run import (
  finish,
  seen_batches,
  start,
  start_hosts,
  stored_checksums,
  toy_variables,
)

from embedmask_jax import hosts
from embedmask_jax.checkpoint import list_steps, open_checkpoint
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import RETRY

ROOT = Path(__file__).resolve().parents[1]
HALF = ('--config.train.steps=12',)
SLOW_STEPS = {'TOY_STEP_SECONDS': '0.3'}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """(hosts, devices of each) -> the work folder; the first two stop halfway."""
  folders = {}
  for count, devices in ((2, 2), (4, 1)):
    workdir = tmp_path_factory.mktemp('hosts')
    started = start_hosts(workdir, *HALF, count=count, devices=devices)
    finish(started, workdir)
    folders[count, devices] = workdir
  workdir = tmp_path_factory.mktemp('alone')
  finish([start(workdir, devices=4)], workdir)
  folders[1, 4] = workdir
  return folders


def weights(workdir, step):
  stored = open_checkpoint(workdir / 'checkpoints' / str(step))
  params = stored.read('variables', toy_variables(None, 0))['params']
  return params['backbone']['stem']['kernel']


@pytest.mark.slow
def test_two_and_four_hosts_give_the_same_bits(runs):
  assert stored_checksums(runs[2, 2], 12) == stored_checksums(runs[4, 1], 12)


@pytest.mark.slow
def test_each_host_reads_its_own_images(runs):
  """The shares of the hosts, one after another, are the batch of a single host."""
  whole = seen_batches(runs[1, 4])
  for count, devices in ((2, 2), (4, 1)):
    shares = [seen_batches(runs[count, devices], host) for host in range(count)]
    for step in range(12):
      (batch,) = map(json.loads, whole[step])
      parts = [json.loads(*share[step]) for share in shares]
      assert [len(rows) for rows, _ in parts] == [4 // count] * count
      assert [row for rows, _ in parts for row in rows] == batch[0]
      assert sum(total for _, total in parts) == batch[1]


@pytest.mark.slow
def test_only_the_first_logs_and_evaluates(runs):
  workdir = runs[2, 2]
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == 12
  assert 'toy_run: mask AP 0.250' in (workdir / 'output.0').read_text()
  others = (workdir / 'output.1').read_text().splitlines()
  # Gloo's threads write into each other's lines.
  assert all('[Gloo]' in line or 'peer ranks' in line for line in others if line)


@pytest.mark.slow
@pytest.mark.parametrize(('count', 'devices'), [(1, 4), (4, 1)])
def test_checkpoints_of_two_hosts_are_read_by_one_and_by_four(
  runs, tmp_path, count, devices
):
  workdir = tmp_path / 'run'
  shutil.copytree(runs[2, 2], workdir)
  if count == 1:
    finish([start(workdir, devices=devices)], workdir)
  else:
    finish(start_hosts(workdir, count=count, devices=devices), workdir)
  expected = weights(runs[1, 4], 20)
  error = np.linalg.norm(weights(workdir, 20) - expected) / np.linalg.norm(expected)
  assert error < 1e-6


@pytest.mark.slow
def test_sigterm_to_one_host_stops_all_at_one_step(tmp_path):
  processes = start_hosts(tmp_path, count=2, devices=1, **SLOW_STEPS)
  wait_for_batch(processes, tmp_path)
  processes[1].send_signal(signal.SIGTERM)
  finish(processes, tmp_path, status=RETRY)
  assert list_steps(tmp_path / 'checkpoints')[-1] < 20


@pytest.mark.slow
@pytest.mark.parametrize('vanished', [0, 1])
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGSTOP])
def test_a_host_that_vanishes_makes_the_others_exit(tmp_path, vanished, how):
  """Also where its connections stay open, as those of a machine that is cut off do."""
  environment = {**SLOW_STEPS, 'TOY_HEARTBEAT_SECONDS': '10'}
  processes = start_hosts(tmp_path, count=2, devices=1, **environment)
  wait_for_batch(processes, tmp_path)
  processes[vanished].send_signal(how)
  try:
    assert processes[1 - vanished].wait(timeout=60) not in (0, RETRY)
  finally:
    for process in processes:
      process.kill()
      process.wait()


def wait_for_batch(processes, workdir, step=2):
  while all(process.poll() is None for process in processes):
    time.sleep(0.02)
    if (workdir / 'seen.1.jsonl').exists() and step in seen_batches(workdir, 1):
      return
  raise AssertionError([path.read_text() for path in workdir.glob('output.*')])


@pytest.mark.parametrize(
  'environment',
  [
    {'JAX_NUM_PROCESSES': '2'},
    {'JAX_PROCESS_ID': '0', 'JAX_NUM_PROCESSES': '2'},
    {
      'JAX_PROCESS_ID': 'first',
      'JAX_NUM_PROCESSES': '2',
      'JAX_COORDINATOR_ADDRESS': 'localhost:1',
    },
  ],
)
def test_half_an_environment_is_refused(environment):
  with pytest.raises(UserError, match='all three must be set, the last two to numbers'):
    hosts.join(environment)


def test_without_a_cluster_a_host_is_alone():
  """In a process of its own: JAX must not have been used before."""
  code = """
from embedmask_jax import hosts
hosts.join({})
assert hosts.is_first()
assert not hosts.has_others()
assert hosts.from_first({'a': [1.5, None]}) == {'a': [1.5, None]}
"""
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
