import io
import json
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from embedmask_jax.errors import UserError
from embedmask_jax.metrics.writer import MetricWriter


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  assert text.endswith('\n')
  return [json.loads(line) for line in text.splitlines()]


def events(workdir):
  """Events of all TensorBoard files: records of length, checksum, data, checksum."""
  from tensorboardX.proto import event_pb2

  found = []
  for path in sorted((workdir / 'tensorboard').iterdir()):
    content, start = path.read_bytes(), 0
    while start < len(content):
      (length,) = struct.unpack_from('<Q', content, start)
      data = content[start + 12 : start + 12 + length]
      found.append(event_pb2.Event.FromString(data))
      start += length + 16
  return found


def test_lines_have_step_time_and_values(tmp_path):
  before = time.time()
  with MetricWriter(tmp_path / 'new' / 'run') as writer:
    writer.scalars(20, {'loss': 1.5, 'loss/mask': np.float32(0.25)})
    writer.scalars(np.int32(40), {'count': np.array(3), 'rate': np.ones(())})
    first, second = lines(tmp_path / 'new' / 'run')
  assert before - 1 < first.pop('wall_time') <= second.pop('wall_time') < before + 60
  assert first == {'step': 20, 'loss': 1.5, 'loss/mask': 0.25}
  assert second == {'step': 40, 'count': 3, 'rate': 1}


def test_what_is_not_finite_or_not_defined_is_null(tmp_path):
  values = {'a': float('nan'), 'b': np.float32('inf'), 'c': None, 'd': 1.0}
  with MetricWriter(tmp_path) as writer:
    writer.scalars(1, values)
  text = (tmp_path / 'metrics.jsonl').read_text()
  json.loads(text, parse_constant=pytest.fail)
  (line,) = lines(tmp_path)
  assert [line[name] for name in 'abcd'] == [None, None, None, 1]


def test_a_line_is_on_disk_when_its_call_returns(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.scalars(1, {'loss': 1.0})
    assert len(lines(tmp_path)) == 1


def test_resuming_drops_what_lies_beyond_the_restored_step(tmp_path):
  with MetricWriter(tmp_path, restored_step=0) as writer:
    for step in (10, 20, 30, 40):
      writer.scalars(step, {'loss': float(step)})
  kept = (tmp_path / 'metrics.jsonl').read_text().splitlines()[:2]
  with MetricWriter(tmp_path, restored_step=20) as writer:
    writer.scalars(30, {'loss': -1.0})
  text = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert text[:2] == kept
  assert [(line['step'], line['loss']) for line in lines(tmp_path)] == [
    (10, 10),
    (20, 20),
    (30, -1),
  ]
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    'metrics.jsonl',
    'tensorboard',
    'training_curves.svg',
  ]
  with MetricWriter(tmp_path, restored_step=0):
    pass
  assert (tmp_path / 'metrics.jsonl').read_text() == ''


def test_without_a_restored_step_everything_stays(tmp_path):
  for step in (30, 10):
    with MetricWriter(tmp_path) as writer:
      writer.scalars(step, {'segm/AP': 0.5})
  assert [line['step'] for line in lines(tmp_path)] == [30, 10]


@pytest.mark.parametrize('restored_step', [None, 10])
def test_the_torn_line_of_a_killed_run_is_dropped(tmp_path, restored_step):
  with MetricWriter(tmp_path) as writer:
    writer.scalars(10, {'loss': 1.0})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 5, "lo')
  with MetricWriter(tmp_path, restored_step=restored_step) as writer:
    writer.scalars(20, {'loss': 2.0})
  assert [line['step'] for line in lines(tmp_path)] == [10, 20]


def test_tensorboard_has_scalars_and_pictures(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
  with MetricWriter(tmp_path, restored_step=6) as writer:
    writer.scalars(7, {'segm/AP': np.float32(0.5), 'undefined': None})
    writer.image(8, 'scene', picture)
  found = events(tmp_path)
  values = {
    value.tag: (event.step, value) for event in found for value in event.summary.value
  }
  assert set(values) == {'segm/AP', 'scene'}
  step, value = values['segm/AP']
  assert (step, value.simple_value) == (7, 0.5)
  step, value = values['scene']
  assert step == 8
  with Image.open(io.BytesIO(value.image.encoded_image_string)) as shown:
    np.testing.assert_array_equal(np.asarray(shown.convert('RGB')), picture)
  # TensorBoard hides what earlier files have from this step on.
  starts = [event for event in found if event.HasField('session_log')]
  assert [event.step for event in starts] == [7]


def test_an_unwritable_folder_is_named(tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('')
  with pytest.raises(UserError, match=f'cannot write logs into {blocked}'):
    MetricWriter(blocked)


def test_importing_the_writer_is_light():
  code = (
    'import sys, embedmask_jax.metrics.writer; '
    'print([m for m in ("jax", "tensorboardX", "tensorflow") if m in sys.modules])'
  )
  output = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert output.stdout.strip() == '[]'
