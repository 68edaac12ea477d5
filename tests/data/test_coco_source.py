import json

import numpy as np
import pytest
from coco_files import (
  CATEGORIES,
  annotation,
  disc,
  noise,
  runs,
  save_json,
  write_dataset,
)
from PIL import Image
from pycocotools import mask as coco_mask
from shared_data import SHARED

from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.data.source import open_source
from embedmask_jax.errors import UserError
from embedmask_jax.metrics.coco import evaluate_results
from embedmask_jax.metrics.results import ground_truth_as_results

SIZE = (30, 40)
BOX = [10.0, 5.0, 11.0, 12.0]
POLYGON = [[10.0, 5.0, 20.0, 5.0, 20.0, 16.0, 10.0, 16.0]]
MASK = disc(SIZE, 11, 15, 5)


def image(identity, name):
  return {'id': identity, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]}


def save_image(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(noise(np.random.default_rng(0), SIZE)).save(path)


def make(folder, annotations, images=None, categories=CATEGORIES, **options):
  images = images or [image(1, 'a.png'), image(2, 'b.png')]
  for entry in images:
    save_image(folder / 'images' / entry['file_name'])
  path = save_json(folder / 'gt.json', images, annotations, categories)
  return CocoSource(path, folder / 'images', **options)


def pixels(segmentation, size=SIZE):
  if isinstance(segmentation, bytes):
    runs_ = {'size': list(size), 'counts': segmentation}
  else:
    parts = [np.asarray(part, np.float64) for part in segmentation]
    runs_ = coco_mask.merge(coco_mask.frPyObjects(parts, *size))
  return coco_mask.decode(runs_).astype(bool)


def test_records(tmp_path):
  source = make(
    tmp_path,
    [
      annotation(8, 2, BOX, runs(MASK, compressed=True), category_id=7),
      annotation(4, 1, BOX, POLYGON),
      annotation(9, 2, BOX, runs(MASK, compressed=False)),
    ],
    images=[image(2, 'b.png'), image(5, 'empty.png'), image(1, 'a.png')],
  )
  assert len(source) == 3
  assert source.image_ids == (2, 5, 1)
  assert source.sizes.tolist() == [[30, 40]] * 3
  assert source.instance_counts.tolist() == [2, 0, 1]
  assert source.category_ids == (3, 7)
  assert source.class_names == ('cat', 'dog')
  record = source[0]
  assert record.encoded == (tmp_path / 'images' / 'b.png').read_bytes()
  assert (record.image_id, record.file_name) == (2, 'b.png')
  assert (record.height, record.width) == SIZE
  assert record.annotation_ids.tolist() == [8, 9]
  assert record.labels.tolist() == [1, 0]
  assert record.boxes.tolist() == [[10, 5, 20, 16]] * 2
  for segmentation in record.segmentations:
    np.testing.assert_array_equal(pixels(segmentation), MASK)
  assert source[1].boxes.shape == (0, 4)
  assert source[1].segmentations == ()
  (polygons,) = source[2].segmentations
  assert [polygon.tolist() for polygon in polygons] == POLYGON
  np.testing.assert_array_equal(source.boxes[:2], record.boxes)


def test_boxes_are_clipped(tmp_path):
  boxes = [[-5, -5, 15, 10], [30, 20, 100, 100], [10.5, 4.25, 5.5, 6.0]]
  source = make(tmp_path, [annotation(i, 1, b, POLYGON) for i, b in enumerate(boxes)])
  want = [[0, 0, 9, 4], [30, 20, 39, 29], [10.5, 4.25, 15, 9.25]]
  assert source[0].boxes.tolist() == want


LEFT_OUT = [
  ('crowd', {'iscrowd': 1, 'segmentation': runs(MASK, compressed=False)}),
  ('without a bbox', {'bbox': None}),
  ('without a bbox', {'bbox': [1, 2, 3]}),
  ('without a bbox', {'bbox': [1, 2, float('nan'), 3]}),
  ('without a bbox', {'bbox': [1, 2, 10**400, 3]}),
  ('without a bbox', {'bbox': ['20', '10', '11', '11']}),
  ('without a bbox', {'bbox': '1234'}),
  ('without a bbox', {'bbox': {'1': 0, '2': 0, '3': 0, '4': 0}}),
  ('without a segmentation', {'segmentation': None}),
  ('malformed', {'segmentation': 'nonsense'}),
  ('malformed', {'segmentation': [[1, 2, 3, 4, 5, 6, 7]]}),
  ('malformed', {'segmentation': [['a', 2, 3, 4, 5, 6]]}),
  ('malformed', {'segmentation': [['1', '2', '9', '4', '5', '9']]}),
  ('malformed', {'segmentation': {'size': ['30', 40], 'counts': [600, 600]}}),
  ('malformed', {'segmentation': {'size': [30, 40], 'counts': [600.5, 600]}}),
  ('malformed', {'segmentation': {'size': [30, 40], 'counts': 'hb0hbPPPP0'}}),
  ('malformed', {'segmentation': {'size': [3, 3], 'counts': [9]}}),
  ('malformed', {'segmentation': {'size': [30, 40], 'counts': [9, 9]}}),
  ('malformed', {'segmentation': {'size': [30, 40], 'counts': '~~'}}),
  ('malformed', {'segmentation': {'counts': [1200]}}),
  ('is empty', {'segmentation': []}),
  ('is empty', {'segmentation': [[1, 2, 3, 4]]}),
  ('is empty', {'segmentation': {'size': [30, 40], 'counts': [1200]}}),
  ('is empty', {'segmentation': runs(np.zeros(SIZE, bool), compressed=True)}),
  ('no area', {'bbox': [5, 5, 0, 4]}),
  ('no area', {'bbox': [5, 5, 4, -1]}),
  ('outside', {'bbox': [40, 5, 4, 4]}),
  ('outside', {'bbox': [5, -9, 4, 9]}),
  ('too small', {'bbox': [5, 5, 1, 4]}),
  ('too small', {'bbox': [5, 29, 9, 6]}),
]


@pytest.mark.parametrize(('words', 'change'), LEFT_OUT)
def test_what_cannot_be_used_is_named(tmp_path, words, change):
  bad = {**annotation(77, 1, BOX, POLYGON), **change}
  source = make(tmp_path, [annotation(4, 1, BOX, POLYGON), bad])
  report = source.report
  assert report.num_annotations == 2
  assert report.num_instances == 1
  ((reason, ids),) = report.left_out.items()
  assert words in reason
  assert ids == (77,)
  assert '77' in str(report)
  assert source[0].annotation_ids.tolist() == [4]


def test_what_is_left_of_an_evaluation_can_be_scored(tmp_path):
  annotations = [
    {**annotation(100 + i, 1, BOX, POLYGON), **change}
    for i, (_, change) in enumerate([*LEFT_OUT, ('', {'area': 10**400})])
  ]
  source = make(tmp_path, annotations)
  truth = source.ground_truth()
  assert evaluate_results(truth, ground_truth_as_results(truth))['segm/AP'] > 0
  scored = {entry['id'] for entry in truth['annotations']}
  unusable = tuple(a['id'] for a in annotations if a['id'] not in scored)
  assert source.report.not_scored == unusable
  told = source.report.of_evaluation()
  assert f'{len(annotations)} annotations, {len(scored)} used' in told
  assert f'left out of the scores: {len(unusable)} without' in told
  assert f'annotation ids {unusable[0]}, {unusable[1]}' in told


def test_what_is_too_small_to_be_trained_on_is_scored_nevertheless(tmp_path):
  source = make(tmp_path, [annotation(4, 1, [5, 5, 1, 1], POLYGON)])
  assert source.report.num_instances == 0
  assert source.report.of_evaluation().endswith('1 annotations, 1 used')


def test_missing_fields_are_left_out_too(tmp_path):
  bare = {'id': 6, 'image_id': 1, 'category_id': 3}
  source = make(tmp_path, [bare, annotation(7, 1, BOX, POLYGON)])
  assert source.report.num_instances == 1


def test_smallest_side_is_a_setting(tmp_path):
  boxes = [[5, 5, 1, 1], [5, 5, 0.5, 4], [5, 5, 2, 2], [5, 5, 9, 9]]
  annotations = [annotation(i, 1, box, POLYGON) for i, box in enumerate(boxes)]
  for least, kept in [(0, 4), (1, 2), (2, 1), (8.5, 1), (9, 0)]:
    source = make(tmp_path, annotations, min_box_side=least)
    assert source.report.num_instances == kept


def test_short_polygons_beside_others(tmp_path):
  mixed = [[1.0, 2.0, 3.0, 4.0], *POLYGON]
  source = make(tmp_path, [annotation(4, 1, BOX, mixed)])
  assert source.report.short_polygons == (4,)
  assert len(source[0].segmentations[0]) == 1
  (entry,) = source.ground_truth()['annotations']
  assert entry['segmentation'] == POLYGON


def test_report_counts_add_up(tmp_path):
  annotations = [
    {**annotation(100 + i, 1, BOX, POLYGON), **change}
    for i, (_, change) in enumerate(LEFT_OUT)
  ]
  source = make(tmp_path, [*annotations, annotation(3, 2, BOX, POLYGON)])
  report = source.report
  lost = [i for ids in report.left_out.values() for i in ids]
  assert sorted(lost) == list(range(100, 100 + len(LEFT_OUT)))
  assert report.num_instances + len(lost) == report.num_annotations
  assert report.num_images_without_instances == 1
  assert len(str(report).splitlines()) == 1 + len(report.left_out)


@pytest.mark.parametrize('value', [0, 1, False, True, None])
def test_crowds_are_told_by_numbers_or_truth_values(tmp_path, value):
  entry = annotation(1, 1, BOX, runs(MASK, compressed=False), iscrowd=value)
  [found] = make(tmp_path, [entry]).ground_truth()['annotations']
  assert found['iscrowd'] == bool(value)


def test_ground_truth_keeps_what_can_be_evaluated(tmp_path):
  crowd = annotation(1, 1, BOX, runs(MASK, compressed=False), iscrowd=1)
  tiny = annotation(2, 1, [5, 5, 1, 4], POLYGON)
  no_mask = annotation(3, 1, BOX, None)
  no_area = annotation(4, 2, BOX, runs(MASK, compressed=True))
  del no_area['area'], no_area['iscrowd']
  source = make(tmp_path, [crowd, tiny, no_mask, no_area])
  truth = source.ground_truth()
  assert [a['id'] for a in truth['annotations']] == [1, 2, 4]
  assert truth['annotations'][0] == crowd
  assert truth['annotations'][2]['area'] == MASK.sum()
  assert truth['annotations'][2]['iscrowd'] == 0
  assert [entry['id'] for entry in truth['images']] == [1, 2]
  assert truth['categories'] == CATEGORIES
  json.dumps(truth)


def test_ground_truth_loads_into_pycocotools(tmp_path):
  from pycocotools.coco import COCO

  annotations, images = write_dataset(tmp_path, [SIZE] * 6)
  truth = CocoSource(annotations, images).ground_truth()
  coco = COCO()
  coco.dataset = truth
  coco.createIndex()
  for entry in truth['annotations']:
    assert coco.annToMask(entry).sum() == pytest.approx(entry['area'], rel=0.2)


def test_several_folders_and_subfolders(tmp_path):
  save_image(tmp_path / 'one' / 'deep' / 'a.png')
  save_image(tmp_path / 'two' / 'b.png')
  path = save_json(
    tmp_path / 'gt.json', [image(1, 'deep/a.png'), image(2, 'b.png')], []
  )
  source = CocoSource(path, f'{tmp_path}/one, {tmp_path}/two')
  assert source[0].encoded == (tmp_path / 'one/deep/a.png').read_bytes()
  assert source[1].encoded == (tmp_path / 'two/b.png').read_bytes()
  save_image(tmp_path / 'one' / 'b.png')
  with pytest.raises(UserError, match=r"'b\.png'.*several folders"):
    CocoSource(path, f'{tmp_path}/one,{tmp_path}/two')


def test_class_list_of_a_checkpoint(tmp_path):
  known = [(7, 'dog'), (3, 'cat'), (9, 'bird')]
  source = make(tmp_path, [annotation(1, 1, BOX, POLYGON)], categories=CATEGORIES)
  path = str(tmp_path / 'gt.json')
  source = CocoSource(path, tmp_path / 'images', categories=known)
  assert source.category_ids == (7, 3, 9)
  assert source[0].labels.tolist() == [1]
  for wrong in ([(3, 'cat')], [(3, 'dog'), (7, 'cat')]):
    with pytest.raises(UserError, match=r'gt\.json.*categories are unknown.*7 .dog'):
      CocoSource(path, tmp_path / 'images', categories=wrong)


GOOD = {
  'images': [image(1, 'a.png')],
  'annotations': [annotation(1, 1, BOX, POLYGON)],
  'categories': CATEGORIES,
}


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{"images": [', 'not JSON'),
    (b'\xff\xfe\x00', 'not JSON'),
    ('[1, 2]', 'is a list, not an object with images, annotations, categories'),
    ({'info': 1, 'shapes': []}, r"no list 'images'; found 'info', 'shapes'"),
    ({**GOOD, 'annotations': None}, "no list 'annotations'"),
    ({**GOOD, 'images': []}, r"empty data set: 'images'"),
    ({**GOOD, 'categories': []}, r"empty data set: 'categories'"),
    (
      {**GOOD, 'images': [{'id': 1, 'width': 3}]},
      r"images\[0\] has no 'file_name'.*'width'",
    ),
    (
      {**GOOD, 'images': [image('x', 'a.png')]},
      r"images\[0\]\['id'\] is 'x', not an int",
    ),
    (
      {**GOOD, 'annotations': [annotation(2**64 + 5, 1, BOX, POLYGON)]},
      r"annotations\[0\]\['id'\] is 18446744073709551621, which does not fit into 64",
    ),
    ({**GOOD, 'images': [image(2**63, 'a.png')]}, r"images\[0\]\['id'\] is 92233720"),
    (
      {**GOOD, 'categories': [{'id': 2**63, 'name': 'cat'}]},
      r"categories\[0\]\['id'\] is 9223372036854775808",
    ),
    (
      {**GOOD, 'images': [{**image(1, 'a'), 'height': 2**31}]},
      r"images\[0\]\['height'\] is 2147483648, which does not fit into 32 bits",
    ),
    ({**GOOD, 'images': [3]}, r'images\[0\] is not an object'),
    (
      {**GOOD, 'images': [image(1, 'a.png')] * 2},
      r"ids in 'images' are not unique: 1 ",
    ),
    (
      {**GOOD, 'images': [{**image(1, 'a'), 'width': 0}]},
      r'image 1 \(a\) has height 30',
    ),
    (
      {**GOOD, 'annotations': [annotation(6, 99, BOX, POLYGON)]},
      r"image_id that is not in 'images': annotation 6 names 99",
    ),
    (
      {**GOOD, 'annotations': [annotation(6, 1, BOX, POLYGON, category_id=8)]},
      r"category_id that is not in 'categories': annotation 6 names 8",
    ),
    (
      {**GOOD, 'annotations': [annotation(6, 1, BOX, POLYGON)] * 2},
      r"ids in 'annotations' are not unique: 6",
    ),
  ],
)
def test_what_is_not_coco_is_refused(tmp_path, content, message):
  path = tmp_path / 'gt.json'
  if isinstance(content, dict):
    content = json.dumps(content)
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  save_image(tmp_path / 'a.png')
  with pytest.raises(UserError, match=message) as caught:
    CocoSource(path, tmp_path)
  assert 'gt.json' in str(caught.value)
  assert '\n' not in str(caught.value)


def test_missing_files(tmp_path):
  images = [image(i, f'{i}.png') for i in range(8)]
  path = save_json(tmp_path / 'gt.json', images, [])
  save_image(tmp_path / '0.png')
  with pytest.raises(
    UserError, match=r'7 of 8 images.*1\.png.*5\.png, \.\.\.;.*check-data names'
  ):
    CocoSource(path, tmp_path)
  with pytest.raises(UserError, match=r"folder '.*nowhere' does not exist"):
    CocoSource(path, tmp_path / 'nowhere')
  with pytest.raises(UserError, match=r'absent\.json'):
    CocoSource(tmp_path / 'absent.json', tmp_path)
  with pytest.raises(UserError, match='annotations'):
    open_source('', tmp_path)


def test_an_image_that_goes_away_is_named(tmp_path):
  source = make(tmp_path, [])
  (tmp_path / 'images' / 'b.png').unlink()
  with pytest.raises(UserError, match=r'b\.png.*cannot be read'):
    source[1]


DATA = SHARED / 'data'


@pytest.mark.skipif(not DATA.is_dir(), reason='no ../shared')
@pytest.mark.parametrize(
  ('annotations', 'images', 'crowds'),
  [
    ('coco_subset/annotations/instances_train2017.json', 'coco_subset/train2017', 24),
    ('coco_subset/annotations/instances_val2017.json', 'coco_subset/val2017', 4),
    ('nuclei/annotations/instances_train.json', 'nuclei/images', 0),
    ('nuclei/annotations/instances_val.json', 'nuclei/images', 0),
  ],
)
def test_real_data(annotations, images, crowds):
  content = json.loads((DATA / annotations).read_text())
  source = open_source(DATA / annotations, DATA / images)
  report = source.report
  left_out = {words: len(ids) for words, ids in report.left_out.items()}
  assert len(source) == len(content['images'])
  assert report.num_annotations == len(content['annotations'])
  assert report.num_instances + sum(left_out.values()) == report.num_annotations
  assert left_out.get('crowd regions', 0) == crowds
  assert source.instance_counts.sum() == report.num_instances
  assert len(source.ground_truth()['annotations']) == report.num_annotations
