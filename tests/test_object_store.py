"""Runs whose work folder and data are in a bucket, of a server on this machine."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

# Read when gcsfs is imported; see `FakeGcs.environment`.
os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
pytest.importorskip('gcsfs', reason='needs the extra gcs')

from commands import run_main as run
from fake_gcs import Refused, fake_gcs
from toy_run import finish, seen_batches, start, stored_checksums

from embedmask_jax.checkpoint import list_steps
from embedmask_jax.data import record_source
from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.data.record_source import RecordSource
from embedmask_jax.data.scenes import generate_scenes
from embedmask_jax.data.source import open_source
from embedmask_jax.data.tfds_builder import prepare_records
from embedmask_jax.errors import UserError
from embedmask_jax.exit_status import RETRY
from embedmask_jax.storage import located
from embedmask_jax.work_folder_lock import work_folder_lock

ROOT = Path(__file__).resolve().parents[1]
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


@pytest.mark.slow
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

  finish([start(in_bucket, *flags, TOY_WORKDIR=RUN)], in_bucket)
  # The lock of a process that has died on this machine is not waited for.
  assert 'sign of life' not in output(in_bucket)
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


@pytest.mark.slow
def test_a_run_that_lives_keeps_others_away_and_leaves_at_once(bucket, flags, tmp_path):
  slow = {'TOY_WORKDIR': RUN, 'TOY_STEP_SECONDS': '0.5'}
  process = start(tmp_path, *flags, **slow)
  while 4 not in seen_batches(tmp_path):
    assert process.poll() is None, output(tmp_path)
    time.sleep(0.05)
  message = f'--workdir={RUN} is in use by process {process.pid} on '
  with pytest.raises(UserError, match=message), work_folder_lock(located(RUN)):
    pass
  process.send_signal(signal.SIGTERM)
  finish([process], tmp_path, status=RETRY)
  assert 'run/running.lock' not in bucket.objects
  saved = list_steps(located(RUN) / 'checkpoints')[-1]
  assert logged_steps(bucket) == list(range(1, saved + 1))
  # What does not fit its checksum is put aside, and its steps are done again.
  spoil(bucket, f'run/checkpoints/{saved}/metadata/metadata.json')
  finish([start(tmp_path, *flags, TOY_WORKDIR=RUN)], tmp_path)
  assert list_steps(located(RUN) / 'checkpoints')[-1] == 8
  assert f'it is renamed to {saved}.corrupt' in output(tmp_path)
  assert f'run/checkpoints/{saved}.corrupt/metadata/metadata.json' in bucket.objects
  assert logged_steps(bucket) == list(range(1, 9))


def spoil(gcs, name):
  gcs.write(name, gcs.objects[name].content[:-9], {})


def test_data_in_a_bucket_are_those_of_a_folder(data):
  (annotations, images), (local_annotations, local_images) = data
  there = open_source(annotations, images)
  here = CocoSource(local_annotations, local_images)
  assert there.image_ids == here.image_ids
  np.testing.assert_array_equal(there.boxes, here.boxes)
  assert [there[i].encoded for i in range(9)] == [here[i].encoded for i in range(9)]
  with pytest.raises(
    UserError, match='9 of 9 images of gs://.* are not in gs://bucket'
  ):
    CocoSource(annotations, 'gs://bucket/data')
  with pytest.raises(UserError, match="folder 'gs://bucket/no' does not exist"):
    CocoSource(annotations, 'gs://bucket/no')
  with pytest.raises(UserError, match='gs://bucket/no.json.*cannot be read'):
    open_source('gs://bucket/no.json', images)


def test_records_in_a_bucket_are_read_from_a_copy(bucket, data, tmp_path, monkeypatch):
  monkeypatch.setenv('EMBEDMASK_CACHE', str(tmp_path / 'cache'))
  (annotations, images), local = data

  for i, refused in enumerate(('index.npz', 'array_record')):

    def refuse(name, refused=refused):
      if refused in name:
        raise Refused(403)

    bucket.refuse = refuse
    incomplete = f'gs://bucket/records{i}'
    with pytest.raises(UserError, match=f'{incomplete}: cannot be written'):
      prepare_records(annotations, images, incomplete)
    with pytest.raises(UserError, match='not a folder of records'):
      open_source(incomplete)
  bucket.refuse = lambda name: None
  assert str(prepare_records(annotations, images, 'gs://bucket/whole')) == (
    'gs://bucket/whole'
  )
  there, here = open_source('gs://bucket/whole'), CocoSource(*local)
  assert [there[i].encoded for i in range(9)] == [here[i].encoded for i in range(9)]
  [copy] = (tmp_path / 'cache' / 'records').iterdir()
  assert copy.name.startswith('whole-')
  # Where it is, it is not fetched again.
  monkeypatch.setattr(record_source, 'copy_files', None)
  assert RecordSource('gs://bucket/whole')[3].encoded == here[3].encoded


def test_a_bucket_that_cannot_be_written_is_told(bucket, flags, capsys):
  def refuse(name):
    raise Refused(403)

  bucket.refuse = refuse
  assert run(f'--config={ROOT}/configs/quickstart.py', f'--workdir={RUN}') == 2
  assert f'error: --workdir={RUN} cannot be written' in capsys.readouterr().err
  assert not any(name.startswith('run') for name in bucket.objects)


@pytest.mark.parametrize('size', [0, 3, 2**20])
def test_a_write_that_failed_does_no_harm_later(bucket, size):
  """Python 3.12.0 and 3.12.1 would crash in the collection; see `storage.py`."""

  def refuse(name):
    raise Refused(403)

  bucket.refuse = refuse
  content = bytes(range(256)) * (size // 256) + b'end' * (size % 256 // 3)
  with contextlib.suppress(OSError):
    located('gs://bucket/written').write_bytes(content)
  gc.collect()
  bucket.refuse = lambda name: None
  located('gs://bucket/written').write_bytes(content)
  assert bucket.objects['written'].content == content


@pytest.mark.slow
def test_the_commands_with_a_network(bucket, data, tmp_path, monkeypatch):
  """Training, killed after its first checkpoint; evaluation; prediction."""
  (annotations, images), (_, local_images) = data
  prepare_records(annotations, images, 'gs://bucket/records')
  arguments = [
    f'--config={ROOT}/configs/quickstart.py',
    f'--workdir={RUN}',
    '--config.data.generated.enabled=False',
    '--config.data.train.annotations=gs://bucket/records',
    f'--config.data.eval.annotations={annotations}',
    f'--config.data.eval.images={images}',
    '--config.data.short_sides=64',
    '--config.data.long_side=64',
    '--config.data.eval_short_side=64',
    '--config.model.backbone=resnet18',
    '--config.model.backbone_width=8',
    '--config.model.fpn_channels=16',
    '--config.model.head_channels=16',
    '--config.model.head_depth=1',
    '--config.optim.reference_batch_size=0',
    '--config.optim.warmup_steps=1',
    '--config.train.batch_size=2',
    '--config.train.steps=4',
    '--config.train.eval_every=0',
    '--config.train.checkpoint_every=2',
    '--config.train.log_every=1',
    '--config.eval.output_ladder=((64,64),)',
  ]
  command = [sys.executable, '-m', 'embedmask_jax.main', '--nodistributed']
  environment = os.environ | {'EMBEDMASK_CACHE': str(tmp_path)}
  process = subprocess.Popen([*command, *arguments], env=environment, cwd=ROOT)
  while 'run/checkpoints/2/commit_success.txt' not in bucket.objects:
    assert process.poll() is None
    time.sleep(0.02)
  process.kill()
  process.wait()
  monkeypatch.setenv('EMBEDMASK_CACHE', str(tmp_path))
  assert run(*arguments) == 0
  assert logged_steps(bucket) == [1, 2, 3, 4, 4]
  assert run('--mode=eval', f'--checkpoint={RUN}', '--workdir=gs://bucket/again') == 0
  scores = [
    bucket.objects[f'{name}/eval/4/metrics.json'].content for name in ('run', 'again')
  ]
  assert scores[0] == scores[1]
  assert any(name.startswith('run/eval/4/overlays/') for name in bucket.objects)
  predict = f'--images={local_images}', f'--output={tmp_path / "found"}'
  assert run('--mode=predict', f'--checkpoint={RUN}', *predict) == 0
  assert (tmp_path / 'found' / 'predictions.json').exists()
