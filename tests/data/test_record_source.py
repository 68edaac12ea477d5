import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from coco_files import annotation, save_json, write_dataset

from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.data.record_source import INDEX_FILE, RecordSource
from embedmask_jax.data.source import open_source
from embedmask_jax.data.tfds_builder import prepare_records
from embedmask_jax.errors import UserError

SIZES = [(48, 64), (64, 48), (40, 40), (50, 70), (33, 65), (64, 64), (30, 50)]


@pytest.fixture(scope='module')
def data_set(tmp_path_factory):
  folder = tmp_path_factory.mktemp('records')
  annotations, images = write_dataset(folder, SIZES)
  # Something of everything that is left out or kept for evaluation only.
  content = json.loads(Path(annotations).read_text())
  first = content['images'][0]['id']
  polygon = [[1.25, 2.1, 9.3, 2.0, 5.0, 9.7]]
  content['annotations'] += [
    annotation(900, first, [1, 2, 8, 8], polygon, iscrowd=1),
    annotation(901, first, [1, 2, 1, 8], polygon, note='kept'),
    annotation(902, first, None, None),
    annotation(903, first, [1.1, 2, 8, 8], [[1.0, 2.0], *polygon]),
  ]
  save_json(folder / 'all.json', content['images'], content['annotations'])
  records = prepare_records(folder / 'all.json', images, folder / 'out', 'train')
  return folder, CocoSource(folder / 'all.json', images), records


def assert_same(left, right):
  assert left.encoded == right.encoded
  assert (left.image_id, left.file_name) == (right.image_id, right.file_name)
  assert (left.height, left.width) == (right.height, right.width)
  for name in ('annotation_ids', 'labels', 'boxes'):
    np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
  assert len(left.segmentations) == len(right.segmentations)
  for one, other in zip(left.segmentations, right.segmentations, strict=True):
    assert type(one) is type(other)
    assert len(one) == len(other)
    if isinstance(one, bytes):
      assert one == other
    else:
      for part, twin in zip(one, other, strict=True):
        np.testing.assert_array_equal(part, twin)


def test_same_as_the_json(data_set):
  _, coco, folder = data_set
  records = open_source(folder)
  assert isinstance(records, RecordSource)
  assert len(records) == len(coco) == len(SIZES)
  for index in range(len(coco)):
    assert_same(coco[index], records[index])
  assert records.image_ids == coco.image_ids
  assert records.categories == coco.categories
  assert records.report == coco.report
  for name in ('sizes', 'boxes', 'instance_counts'):
    np.testing.assert_array_equal(getattr(records, name), getattr(coco, name))
  assert sum(records.report.left_out.values(), ()) == (900, 902, 901)


def test_same_ground_truth(data_set):
  _, coco, folder = data_set
  left, right = coco.ground_truth(), RecordSource(folder).ground_truth()
  for truth in (left, right):
    truth['annotations'].sort(key=lambda entry: entry['id'])
  assert left == right
  assert {'note': 'kept'}.items() <= left['annotations'][-2].items()


def test_options_apply_to_records(data_set):
  _, coco, records = data_set
  loose = RecordSource(records, min_box_side=0)
  assert loose.report.num_instances == coco.report.num_instances + 1
  turned = RecordSource(records, categories=coco.categories[::-1])
  np.testing.assert_array_equal(turned[3].labels, 1 - coco[3].labels)
  with pytest.raises(UserError, match='unknown to the model'):
    RecordSource(records, categories=[(3, 'cat')])


def test_sources_travel_to_other_processes(data_set):
  _, coco, folder = data_set
  records = RecordSource(folder)
  records[0]
  for source in (coco, records):
    assert_same(pickle.loads(pickle.dumps(source))[3], coco[3])


def test_records_are_opened_once_by_however_many_threads(data_set, monkeypatch):
  """Threads that import TFDS at the same time can wait for each other for ever."""
  _, coco, folder = data_set
  opened = []
  open_builder = tfds.builder_from_directory

  def slowly(path):
    opened.append(path)
    time.sleep(0.2)
    return open_builder(path)

  monkeypatch.setattr(tfds, 'builder_from_directory', slowly)
  records = open_source(folder)
  with ThreadPoolExecutor(4) as threads:
    found = list(threads.map(records.__getitem__, range(4)))
  assert len(opened) == 1
  for index, image in enumerate(found):
    assert_same(coco[index], image)


def test_tfds_reads_it_without_us(data_set):
  import tensorflow_datasets as tfds

  _, coco, folder = data_set
  examples = tfds.builder_from_directory(folder).as_data_source('train')
  assert len(examples) == len(coco)
  assert [int(example['image_id']) for example in examples] == list(coco.image_ids)
  assert examples[2]['image'] == coco[2].encoded
  first = json.loads(examples[0]['annotations'])
  assert [a['id'] for a in first] == [900, 901, 902, 903]


def test_nothing_is_left_of_a_failure(tmp_path):
  annotations, images = write_dataset(tmp_path, SIZES)
  victim = os.path.join(images, '005.png')
  with open(victim, 'r+b') as file:
    file.truncate(200)
  with pytest.raises(UserError, match=r'005\.png'):
    prepare_records(annotations, images, tmp_path / 'out')
  assert sorted(os.listdir(tmp_path)) == ['images', 'instances.json']


def test_output_is_not_overwritten(data_set, tmp_path):
  folder, coco, records = data_set
  before = sorted(os.listdir(records))
  with pytest.raises(UserError, match=r'out exists; remove it'):
    prepare_records(folder / 'all.json', folder / 'images', records)
  assert sorted(os.listdir(records)) == before
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot be written'):
    prepare_records(folder / 'all.json', folder / 'images', tmp_path / 'file' / 'x')
  empty = tmp_path / 'empty'
  empty.mkdir()
  prepare_records(folder / 'all.json', folder / 'images', empty, 'val')
  assert len(RecordSource(empty)) == len(coco)
  with pytest.raises(UserError, match="split 'a b'"):
    prepare_records(folder / 'all.json', folder / 'images', tmp_path / 'z', 'a b')


def test_folders_without_records_are_refused(data_set, tmp_path):
  with pytest.raises(UserError, match='written by `embedmask prepare --from=coco`'):
    open_source(tmp_path)
  (tmp_path / INDEX_FILE).write_bytes(b'nonsense')
  with pytest.raises(UserError, match='not a folder of records'):
    open_source(tmp_path)
  _, _, records = data_set
  index = (records / INDEX_FILE).read_bytes()
  (tmp_path / INDEX_FILE).write_bytes(index[:-400])
  with pytest.raises(UserError, match='not a folder of records'):
    open_source(tmp_path)
  (tmp_path / INDEX_FILE).write_bytes(index)
  with pytest.raises(UserError, match='record 0 cannot be read'):
    open_source(tmp_path)[0]


def test_records_are_written_without_tensorflow(tmp_path):
  annotations, images = write_dataset(tmp_path, SIZES[:2])
  output = tmp_path / 'out'
  arguments = [f'--annotations={annotations}', f'--images={images}']
  code = (
    'import sys\n'
    'from embedmask_jax import command_line\n'
    'assert command_line.run(["prepare", "--from=coco", *sys.argv[1:]]) == 0\n'
    'assert "tensorflow" not in sys.modules'
  )
  subprocess.run(
    [sys.executable, '-c', code, *arguments, f'--output={output}'],
    check=True,
    cwd=Path(__file__).resolve().parents[2],
  )
  assert len(RecordSource(output)) == 2
