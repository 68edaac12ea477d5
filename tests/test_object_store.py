"""Runs whose work folder and data are in a bucket, of a server on this machine."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip('gcsfs', reason='needs the extra gcs')

from fake_gcs import Refused, fake_gcs
from test_main import run
from toy_run import finish, seen_batches, start, stored_checksums

from embedmask_jax.checkpoint import list_steps, open_checkpoint
from embedmask_jax.data import record_source
from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.data.record_source import RecordSource
from embedmask_jax.data.scenes import generate_scenes
from embedmask_jax.data.source import open_source
from embedmask_jax.errors import UserError
from embedmask_jax.storage import located

RUN = 'gs://bucket/run'
EIGHT_STEPS = '--config.train.steps=8'


@pytest.fixture(scope='module')
def gcs():
  with pytest.MonkeyPatch.context() as patch, fake_gcs() as server:
    for name, value in server.environment().items():
      patch.setenv(name, value)
    yield server


@pytest.fixture
def bucket(gcs):
  """The same, without a run in it."""
  yield gcs
  gcs.refuse = lambda name: None
  for name in [name for name in gcs.objects if not name.startswith('data/')]:
    del gcs.objects[name]


@pytest.fixture(scope='module')
def data(gcs):
  """(annotations, images) in the bucket, and where they were copied from."""
  annotations, images = generate_scenes(num_images=9, image_size=64, seed=0)
  annotations, images = Path(annotations), Path(images)
  for path in [annotations, *images.iterdir()]:
    folder = 'images' if path.parent == images else '.'
    name = os.path.normpath(f'data/{folder}/{path.name}')
    gcs.write(name, path.read_bytes(), {})
  there = f'gs://bucket/data/{annotations.name}', 'gs://bucket/data/images'
  return there, (annotations, images)


@pytest.fixture
def flags(data):
  (annotations, images), _ = data
  return [
    EIGHT_STEPS,
    '--config.data.generated.enabled=False',
    f'--config.data.train.annotations={annotations}',
    f'--config.data.train.images={images}',
  ]


def logged_steps(gcs):
  lines = gcs.objects['run/metrics.jsonl'].content.decode().splitlines()
  return [json.loads(line)['step'] for line in lines]


def test_killed_in_the_middle_of_a_checkpoint(bucket, data, flags, tmp_path):
  """Ends as a run of a file system's folder that was never killed."""
  process = None

  def kill(name):
    if name == 'run/checkpoints/6/commit_success.txt':
      process.send_signal(signal.SIGKILL)
      process.wait()
      raise Refused(503)

  bucket.refuse = kill
  in_bucket, straight = tmp_path / 'bucket', tmp_path / 'straight'
  process = start(in_bucket, *flags, TOY_WORKDIR=RUN)
  finish([process], in_bucket, status=-signal.SIGKILL)
  bucket.refuse = lambda name: None
  assert list_steps(located(RUN) / 'checkpoints') == [3]
  assert any(name.startswith('run/checkpoints/6/') for name in bucket.objects)
  assert 'run/running.lock' in bucket.objects
  assert logged_steps(bucket)[:6] == [1, 2, 3, 4, 5, 6]

  begin = time.monotonic()
  finish([start(in_bucket, *flags, TOY_WORKDIR=RUN)], in_bucket)
  # The lock of a process that has died on this machine is free at once.
  assert time.monotonic() - begin < 60 or 'sign of life' not in output(in_bucket)
  _, (annotations, images) = data
  local = [
    *flags,
    f'--config.data.train.annotations={annotations}',
    f'--config.data.train.images={images}',
  ]
  finish([start(straight, *local)], straight)
  stored = bucket.objects['run/checkpoints/8/metadata/metadata.json'].content
  assert json.loads(stored)['checksums'] == stored_checksums(straight, 8)
  assert seen_batches(in_bucket) == seen_batches(straight)
  assert logged_steps(bucket) == list(range(1, 9))
  assert any(name.startswith('run/tensorboard/') for name in bucket.objects)
  assert 'run/running.lock' not in bucket.objects
  assert not [name for name in bucket.objects if 'writable' in name]


def output(folder):
  return (folder / 'output.0').read_text()
