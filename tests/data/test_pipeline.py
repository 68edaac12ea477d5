import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from coco_files import write_dataset

from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.data.pipeline import eval_batches, train_batches, train_plan
from embedmask_jax.data.record_source import RecordSource
from embedmask_jax.data.tfds_builder import prepare_records
from embedmask_jax.errors import UserError
from embedmask_jax.structures import Batch

SIZES = [(48, 64), (64, 48), (40, 40), (50, 70), (33, 65), (64, 64), (30, 50), (64, 48)]
TRAIN = {
  'seed': 3,
  'batch_size': 4,
  'short_sides': (32, 64),
  'long_side': 96,
  'flip_probability': 0.5,
  'instance_ladder': (2, 4, 8),
}
CROPS = {'crop_size': (40, 40)}
PASTES = {**CROPS, 'scale_jitter': (0.5, 2.0), 'copy_paste_probability': 0.8}
EVAL = {'batch_size': 3, 'short_side': 64, 'long_side': 96}


@pytest.fixture(scope='module')
def data_set(tmp_path_factory):
  folder = tmp_path_factory.mktemp('pipeline')
  annotations, images = write_dataset(folder, SIZES)
  records = prepare_records(annotations, images, folder / 'records')
  return CocoSource(annotations, images), RecordSource(records)


def take(batches, count):
  taken = list(itertools.islice(batches, count))
  batches.close()
  return taken


def assert_same(left, right):
  assert [step for step, _ in left] == [step for step, _ in right]
  for (_, one), (_, other) in zip(left, right, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      assert one[name].dtype == other[name].dtype
      np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize('augmentation', [{}, CROPS, PASTES])
def test_batches_do_not_depend_on_who_makes_them(data_set, augmentation):
  coco, records = data_set
  options = {**TRAIN, **augmentation}
  want = take(train_batches(coco, **options), 12)
  for source, workers, prefetch in [(coco, 2, 2), (records, 0, 2), (records, 2, 3)]:
    batches = train_batches(source, workers=workers, prefetch=prefetch, **options)
    assert_same(take(batches, 12), want)


@pytest.mark.parametrize('augmentation', [{}, PASTES])
def test_any_step_can_be_the_first(data_set, augmentation):
  coco, _ = data_set
  options = {**TRAIN, **augmentation}
  want = take(train_batches(coco, prefetch=0, **options), 9)
  assert [step for step, _ in want] == list(range(9))
  assert_same(take(train_batches(coco, start_step=5, **options), 4), want[5:])


@pytest.mark.parametrize('augmentation', [{}, PASTES])
def test_processes_share_a_batch(data_set, augmentation):
  coco, _ = data_set
  options = {**TRAIN, **augmentation}
  whole = take(train_batches(coco, **options), 6)
  parts = [
    take(train_batches(coco, process_index=i, process_count=2, **options), 6)
    for i in range(2)
  ]
  joined = [
    (step, {name: np.concatenate([one[name], other[name]]) for name in one})
    for (step, one), (_, other) in zip(*parts, strict=True)
  ]
  assert_same(joined, whole)


def test_rows_are_what_the_source_says(data_set):
  coco, _ = data_set
  for _, arrays in take(train_batches(coco, **TRAIN), 10):
    batch = Batch(**arrays)
    rows, height, width, _ = batch.images.shape
    assert rows == 4
    assert height % 32 == width % 32 == 0
    assert batch.example_valid.all()
    for row in range(4):
      index = int(batch.image_index[row])
      count = coco.instance_counts[index]
      assert batch.instance_valid[row].sum() == count
      assert sorted(batch.labels[row, :count]) == sorted(coco[index].labels)
      assert batch.original_size[row].tolist() == coco.sizes[index].tolist()
      assert (batch.boxes[row, :count, 2:] < batch.image_size[row, ::-1]).all()


def test_rows_with_pastes_are_what_the_plan_says(data_set):
  coco, _ = data_set
  options = {**TRAIN, 'copy_paste_probability': 0.9}
  plan = train_plan(coco, **options)
  plain = take(train_batches(coco, **TRAIN), 10)
  pasted = 0
  for (step, arrays), (_, before) in zip(
    take(train_batches(coco, **options), 10), plain, strict=True
  ):
    for row, planned in enumerate(plan[step].rows):
      labels = arrays['labels'][row][arrays['instance_valid'][row]]
      if planned.paste is None:
        np.testing.assert_array_equal(arrays['images'][row], before['images'][row])
        assert len(labels) == coco.instance_counts[planned.index]
        continue
      pasted += 1
      # Discs that are small beside their images: few are covered.
      added = coco[planned.paste.index].labels[list(planned.paste.chosen)]
      assert labels[-len(added) :].tolist() == added.tolist()
      is_changed = (arrays['images'][row] != before['images'][row]).any()
      assert is_changed
      assert arrays['mask_area'][row][: len(labels)].min() > 0
  assert pasted > 10


def collect(batches):
  return [(step, arrays) for step, arrays in enumerate(batches)]


@pytest.mark.parametrize('batch_size', [1, 3])
def test_evaluation_sees_every_image_once(data_set, batch_size):
  coco, _ = data_set
  seen = []
  for arrays in eval_batches(coco, **{**EVAL, 'batch_size': batch_size}):
    batch = Batch(**arrays)
    seen += batch.image_index[batch.example_valid].tolist()
    assert len(batch.images) == batch_size
    assert batch.boxes.shape == (batch_size, 1, 4)
    assert not batch.instance_valid.any()
    filling = ~batch.example_valid
    assert (batch.image_index[filling] == -1).all()
    assert not batch.images[filling].any()
    assert batch.images[batch.example_valid].any(axis=(1, 2, 3)).all()
  assert sorted(seen) == list(range(len(SIZES)))


def test_evaluation_does_not_depend_on_who_makes_it(data_set):
  coco, records = data_set
  options = {**EVAL, 'output_ladder': ((60, 64), (100, 100))}
  want = collect(eval_batches(coco, prefetch=0, **options))
  assert_same(collect(eval_batches(records, workers=2, **options)), want)


@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, workers):
  annotations, images = write_dataset(tmp_path, SIZES)
  source = CocoSource(annotations, images)
  with open(os.path.join(images, '003.png'), 'r+b') as file:
    file.truncate(100)
  with pytest.raises(UserError, match=r'003\.png'):
    take(train_batches(source, workers=workers, **TRAIN), 20)
  with pytest.raises(UserError, match=r'003\.png'):
    list(eval_batches(source, workers=workers, **EVAL))


class Deadly:
  """A source that signals the process that reads one of its images, the first times."""

  def __init__(self, source, index, times, folder, number=signal.SIGKILL):
    self._source, self._index, self._times = source, index, times
    self._folder, self._number = folder, number

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return getattr(self._source, name)

  def __len__(self):
    return len(self._source)

  def __getitem__(self, index):
    deaths = len(list(self._folder.iterdir()))
    if index == self._index and deaths < self._times:
      (self._folder / str(deaths)).touch()
      os.kill(os.getpid(), self._number)
    return self._source[index]


def test_a_reading_process_that_dies_is_named_and_replaced(data_set, tmp_path, caplog):
  source, _ = data_set
  options = {**TRAIN, 'workers': 2}
  (tmp_path / 'a').mkdir()
  batches = train_batches(Deadly(source, 3, 1, tmp_path / 'a'), **options)
  with pytest.raises(UserError, match=rf'died on {source.file_names[3]} .* code -9'):
    take(batches, 12)

  (tmp_path / 'b').mkdir()
  batches = train_batches(
    Deadly(source, 3, 2, tmp_path / 'b'), max_worker_deaths=2, **options
  )
  assert_same(take(batches, 12), take(train_batches(source, **TRAIN), 12))
  assert f'died on {source.file_names[3]}' in caplog.text


def test_an_interrupt_is_left_to_the_main_process(data_set, tmp_path):
  source, _ = data_set
  interrupted = Deadly(source, 3, 1, tmp_path, signal.SIGINT)
  batches = train_batches(interrupted, workers=2, **TRAIN)
  assert_same(take(batches, 12), take(train_batches(source, **TRAIN), 12))
  assert list(tmp_path.iterdir())


def test_a_size_that_disagrees_with_the_json_is_named(tmp_path):
  annotations, images = write_dataset(tmp_path, SIZES)
  text = Path(annotations).read_text()
  Path(annotations).write_text(text.replace('"width": 65', '"width": 66'))
  with pytest.raises(UserError, match=r'004\.jpg.*65x33.*66x33'):
    list(eval_batches(CocoSource(annotations, images), **EVAL))


def test_mistakes_are_told_before_the_first_batch(tmp_path, data_set):
  coco, _ = data_set
  with pytest.raises(UserError, match='batch size 4 does not divide over 3.*: 3, 6'):
    train_batches(coco, process_count=3, **TRAIN)
  annotations, images = write_dataset(tmp_path, SIZES[:1])
  with pytest.raises(UserError, match='nothing to train on: 1 images'):
    train_batches(CocoSource(annotations, images), **TRAIN)
