import contextlib
import copy
import io
import json
import re

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from shared_data import SHARED

from embedmask_jax.data.masks import encode_mask
from embedmask_jax.errors import UserError
from embedmask_jax.metrics import coco
from embedmask_jax.metrics.coco import evaluate_results, format_table
from embedmask_jax.metrics.results import (
  detections_to_results,
  ground_truth_as_results,
  unpack_masks,
)

CROSSCHECK = SHARED / 'data' / 'coco_eval_crosscheck'
TRUTH = CROSSCHECK / 'instances_val2014_100.json'
needs_crosscheck = pytest.mark.skipif(not CROSSCHECK.exists(), reason='no shared data')

# In the order of COCOeval.summarize.
KEYS = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')
KEYS += ('AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')


def mask_of(x, y, width, height, side=64):
  mask = np.zeros((side, side), bool)
  mask[y : y + height, x : x + width] = True
  return mask


def truth_of(boxes, side=64):
  """Ground truth of rectangles, (image, category, (x, y, w, h)), over 2 classes."""
  images = sorted({image for image, _, _ in boxes} | {1})
  return {
    'images': [{'id': i, 'height': side, 'width': side} for i in images],
    'categories': [{'id': 3, 'name': 'cup'}, {'id': 7, 'name': 'plate'}],
    'annotations': [
      {
        'id': number,
        'image_id': image,
        'category_id': category,
        'bbox': list(box),
        'area': box[2] * box[3],
        'iscrowd': 0,
        'segmentation': encode_mask(mask_of(*box, side)),
      }
      for number, (image, category, box) in enumerate(boxes)
    ],
  }


def result_of(image, category, box, score, side=64):
  return {
    'image_id': image,
    'category_id': category,
    'score': score,
    'segmentation': encode_mask(mask_of(*box, side)),
  }


TWO = truth_of([(1, 3, (4, 6, 20, 10)), (2, 7, (10, 10, 40, 40))])


def random_case(seed):
  """Noisy predictions of random rectangles, with crowds, misses and extras."""
  rng = np.random.default_rng(seed)
  boxes, results = [], []
  for image in range(1, 9):
    for _ in range(rng.integers(0, 9)):
      x, y = rng.integers(0, 100, 2)
      width, height = rng.integers(4, 120, 2)
      box = (int(x), int(y), int(min(width, 160 - x)), int(min(height, 160 - y)))
      category = int(rng.choice([3, 7]))
      boxes.append((image, category, box))
      for _ in range(rng.integers(0, 4)):
        shift = rng.integers(-6, 7, 2)
        moved = (max(0, box[0] + shift[0]), max(0, box[1] + shift[1]), *box[2:])
        results.append(result_of(image, category, moved, float(rng.random()), 160))
  truth = truth_of(boxes, 160)
  for annotation in truth['annotations']:
    annotation['id'] += 1
    annotation['iscrowd'] = int(rng.random() < 0.15)
  return truth, results


def summarized(truth, results, iou_type):
  """The twelve numbers of COCOeval.summarize at its own caps."""
  with contextlib.redirect_stdout(io.StringIO()):
    gt = COCO()
    gt.dataset = copy.deepcopy(truth)
    gt.createIndex()
    evaluator = COCOeval(gt, gt.loadRes(copy.deepcopy(results)), iou_type)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
  return [None if value == -1 else value for value in evaluator.stats]


def twelve(metrics, iou_type):
  return [metrics[f'{iou_type}/{key}'] for key in KEYS]


@needs_crosscheck
@pytest.mark.parametrize('iou_type', ['segm', 'bbox'])
def test_published_numbers(iou_type):
  text = (CROSSCHECK / 'val2014_fake_eval_res.txt').read_text()
  section = text.split(f'type={iou_type}')[1].split('type=')[0]
  published = [float(number) for number in re.findall(r'= (0\.\d+)$', section, re.M)]
  results = CROSSCHECK / f'instances_val2014_fake{iou_type}100_results.json'
  metrics = evaluate_results(TRUTH, json.loads(results.read_text()))
  assert len(published) == 12
  assert [round(value, 3) for value in twelve(metrics, iou_type)] == published


@pytest.mark.parametrize('iou_type', ['segm', 'bbox'])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_equals_summarize_at_the_default_caps(seed, iou_type):
  truth, results = random_case(seed)
  expected = summarized(truth, results, iou_type)
  metrics = evaluate_results(truth, results)
  assert 0.05 < metrics[f'{iou_type}/AP'] < 0.95
  if iou_type == 'bbox':
    # loadRes takes the area of results without a box from the mask, we from the box.
    boxed = [{**result, 'bbox': box_of(result)} for result in results]
    expected = summarized(truth, boxed, iou_type)
  assert twelve(metrics, iou_type) == pytest.approx(expected)


def box_of(result):
  return rle.toBbox(result['segmentation']).tolist()


def test_areas_of_masks_decide_their_size_whatever_the_box():
  truth, results = random_case(3)
  boxed = [{**result, 'bbox': [0, 0, 160, 160]} for result in results]
  expected = evaluate_results(truth, results, iou_types=['segm'])
  assert evaluate_results(truth, boxed, iou_types=['segm']) == expected


def test_caps_above_a_hundred_count_all_and_say_what_smaller_ones_leave_out():
  boxes = [(1, 3, (3 * (i % 20), 3 * (i // 20), 2, 2)) for i in range(150)]
  truth = truth_of(boxes)
  results = ground_truth_as_results(truth)
  capped = evaluate_results(truth, results)
  assert capped['segm/AR100'] == pytest.approx(100 / 150)
  assert capped['segm/AP'] < 0.7
  assert capped['count/instances_over_cap'] == 50
  assert capped['count/results_over_cap'] == 50
  assert '50 instances are beyond the cap' in format_table(capped)
  whole = evaluate_results(truth, results, max_dets=(500, 1, 10))
  assert whole['segm/AP'] == pytest.approx(1)
  assert whole['bbox/AP75'] == pytest.approx(1)
  assert whole['segm/APs'] == pytest.approx(1)
  assert whole['segm/AR10'] == pytest.approx(10 / 150)
  assert whole['segm/AR500'] == pytest.approx(1)
  assert 'segm/AR100' not in whole
  assert whole['count/instances_over_cap'] == 0
  assert 'beyond the cap' not in format_table(whole)


def test_without_results_the_score_is_zero():
  metrics = evaluate_results(TWO, [])
  assert metrics['segm/AP'] == metrics['bbox/AP'] == metrics['segm/AR100'] == 0
  assert metrics['segm/AP/cup'] == 0
  assert metrics['count/results'] == 0


def test_what_is_undefined_is_none_and_prints_as_not_available():
  truth = truth_of([(1, 3, (4, 6, 20, 10))])
  metrics = evaluate_results(truth, [result_of(1, 3, (4, 6, 20, 10), 0.5)])
  assert metrics['segm/AP/plate'] is None
  assert metrics['segm/APl'] is None
  assert metrics['segm/AP'] == pytest.approx(1)
  json.dumps(metrics, allow_nan=False)
  plate = next(
    line for line in format_table(metrics).splitlines() if line.startswith('plate')
  )
  assert plate.split() == ['plate', 'n/a', 'n/a', '0']


def test_a_ground_truth_without_annotations_has_no_score():
  truth = {**TWO, 'annotations': []}
  metrics = evaluate_results(truth, [result_of(1, 3, (4, 6, 20, 10), 0.5)])
  assert metrics['segm/AP'] is None
  assert 'n/a' in format_table(metrics)


def test_annotation_id_zero_counts():
  assert TWO['annotations'][0]['id'] == 0
  metrics = evaluate_results(TWO, ground_truth_as_results(TWO))
  assert metrics['segm/AP/cup'] == pytest.approx(1)


def test_masks_alone_give_boxes_and_boxes_alone_give_no_masks():
  masks = ground_truth_as_results(TWO)
  for result in masks:
    del result['bbox']
  assert evaluate_results(TWO, masks)['bbox/AP'] == pytest.approx(1)
  boxes = ground_truth_as_results(TWO)
  for result in boxes:
    del result['segmentation']
  metrics = evaluate_results(TWO, boxes)
  assert metrics['bbox/AP'] == pytest.approx(1)
  assert 'segm/AP' not in metrics
  assert 'segm' not in format_table(metrics)


def test_images_without_results_and_without_annotations_count():
  truth = copy.deepcopy(TWO)
  truth['images'].append({'id': 9, 'height': 64, 'width': 64})
  right = [{**result, 'score': 0.4} for result in ground_truth_as_results(truth)]
  wrong = result_of(9, 3, (0, 0, 9, 9), 0.9)
  assert evaluate_results(truth, [wrong, *right])['segm/AP/cup'] == pytest.approx(0.5)
  assert evaluate_results(truth, right)['count/images'] == 3


def test_crowds_are_neither_missed_nor_false():
  truth = truth_of([(1, 3, (4, 6, 20, 10)), (1, 3, (30, 30, 30, 30))])
  truth['annotations'][1]['iscrowd'] = 1
  inside = result_of(1, 3, (35, 35, 5, 5), 0.9)
  right = ground_truth_as_results(truth)
  assert len(right) == 1
  assert evaluate_results(truth, [inside, *right])['segm/AP'] == pytest.approx(1)


def test_segmentations_of_every_kind_score_alike():
  polygon = [10, 10, 50, 10, 50, 50, 10, 50]
  counts = [10 * 64 + 10] + [40, 24] * 39 + [40, 14 + 64 * 14]
  kinds = ([polygon], [[1, 2, 3, 4], polygon], {'size': [64, 64], 'counts': counts})
  for segmentation in kinds:
    truth = copy.deepcopy(TWO)
    truth['annotations'][1]['segmentation'] = segmentation
    metrics = evaluate_results(truth, [result_of(2, 7, (10, 10, 40, 40), 1.0)])
    assert metrics['segm/AP/plate'] == pytest.approx(1)


def test_what_annotations_lack_comes_from_the_mask():
  truth = copy.deepcopy(TWO)
  for annotation in truth['annotations']:
    for field in ('bbox', 'area', 'iscrowd'):
      del annotation[field]
  results = ground_truth_as_results(TWO)
  expected = evaluate_results(TWO, results)
  assert evaluate_results(truth, results) == expected
  for annotation in truth['annotations']:
    annotation |= {'area': None, 'iscrowd': None}
  assert evaluate_results(truth, results) == expected


def test_equal_names_are_told_apart():
  categories = [{**entry, 'name': 'a/b'} for entry in TWO['categories']]
  truth = {**TWO, 'categories': categories}
  metrics = evaluate_results(truth, ground_truth_as_results(TWO))
  assert {'segm/AP/a/b (3)', 'segm/AP/a/b (7)'} <= set(metrics)
  assert 'a/b (3)' in format_table(metrics)


def test_arguments_are_not_changed():
  truth, results = copy.deepcopy(TWO), ground_truth_as_results(TWO)
  before = copy.deepcopy(results)
  evaluate_results(truth, results)
  assert truth == TWO
  assert results == before


GOOD = result_of(1, 3, (4, 6, 20, 10), 0.5)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'image_id': 5}, 'result 1: image_id 5 is not in the ground truth'),
    ({'image_id': [1]}, r'result 1: image_id \[1\]'),
    ({'category_id': 1}, 'result 1: category_id 1 is not in'),
    ({'category_id': None}, 'result 1: category_id None'),
    ({'score': float('nan')}, 'result 1: score nan'),
    ({'score': '0.5'}, "result 1: score '0.5' is not a finite"),
    ({'segmentation': encode_mask(np.ones((8, 9)))}, r'result 1: RLE size \[8, 9\]'),
    ({'segmentation': 'abc'}, 'result 1: segmentation is neither'),
    ({'segmentation': [1, 2]}, 'result 1: segmentation is a list, but not of poly'),
    ({'segmentation': [[1, 2, 3, 4, 5, 6, 7]]}, 'result 1: a polygon has an odd'),
    ({'segmentation': {'size': [64, 64], 'counts': [9]}}, 'add up to 4096 pixels'),
    (
      {'segmentation': {'size': [64, 64], 'counts': [9.5, 4086.5]}},
      'not integers from 0',
    ),
    ({'segmentation': {'size': [64, 64], 'counts': [-4, 4100]}}, 'not integers from 0'),
    (
      {'segmentation': {'size': [64, 64], 'counts': [None, 4096]}},
      'not integers from 0',
    ),
    ({'score': 10**400}, 'result 1: score 1000.* is not a finite number'),
    ({'bbox': [1, 2, 3]}, r'result 1: bbox is \[1, 2, 3\], not four finite numbers'),
    ({'bbox': None}, 'result 1: bbox is None, not four'),
    ({'bbox': 5}, 'result 1: bbox is 5, not four'),
    ({'bbox': '1234'}, "result 1: bbox is '1234', not four"),
    ({'bbox': [1, 2, 3, float('inf')]}, 'result 1: bbox'),
  ],
)
def test_unusable_results_are_named(change, message):
  with pytest.raises(UserError, match=message):
    evaluate_results(TWO, [GOOD, {**GOOD, **change}])


# The last has a number of seven digits, of which pycocotools makes another.
@pytest.mark.parametrize(
  'counts', ['abc', '', 'PPPP', 'z' * 14, 'é', 'P4P', '`n1Xo0X9hiooooO']
)
def test_compressed_runs_must_cover_the_image(counts):
  segmentation = {'size': [64, 64], 'counts': counts}
  bad = {**GOOD, 'segmentation': segmentation}
  with pytest.raises(UserError, match='result 1: RLE counts .* do not cover the image'):
    evaluate_results(TWO, [GOOD, bad])
  truth = copy.deepcopy(TWO)
  truth['annotations'][1]['segmentation'] = segmentation
  with pytest.raises(UserError, match='ground truth: annotation 1: RLE counts'):
    evaluate_results(truth, [GOOD])


def test_a_result_needs_a_mask_or_a_box():
  bare = {key: value for key, value in GOOD.items() if key != 'segmentation'}
  with pytest.raises(UserError, match='result 0 has neither a segmentation nor a bbox'):
    evaluate_results(TWO, [bare])


def test_results_with_and_without_masks_do_not_mix():
  bare = {**GOOD, 'bbox': [4, 6, 20, 10]}
  del bare['segmentation']
  with pytest.raises(UserError, match='1 of 2 entries of the results have no mask'):
    evaluate_results(TWO, [GOOD, bare])
  assert 'segm/AP' not in evaluate_results(TWO, [GOOD, bare], iou_types=['bbox'])
  with pytest.raises(UserError, match='masks cannot be scored'):
    evaluate_results(TWO, [bare], iou_types=['segm'])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda truth: truth.pop('images'), 'not COCO instances JSON'),
    (lambda truth: truth['images'][0].pop('height'), 'images has no height'),
    (lambda truth: truth['images'].append(truth['images'][0]), 'the same id'),
    (lambda truth: truth['annotations'][1].update(image_id=8), 'unknown image 8'),
    (lambda truth: truth['annotations'][1].update(category_id=8), 'unknown category 8'),
    (
      lambda truth: truth['annotations'][1].update(segmentation=3),
      'annotation 1: segmentation is neither',
    ),
    (lambda truth: truth['annotations'][1].pop('id'), 'annotations has no id'),
    (lambda truth: truth.update(images=[1]), r'images\[0\] is 1, not an object'),
    (lambda truth: truth['categories'][0].update(id='a'), 'some ids of categories are'),
    *(
      (
        lambda truth, part=part, key=key, value=value: truth[part][1].update(
          {key: value}
        ),
        rf'the ground truth: {part}\[1\]: {key} is .*, not ',
      )
      for part, key, value in (
        ('images', 'id', [1]),
        ('images', 'id', 2**64),
        ('images', 'height', '64'),
        ('images', 'width', None),
        ('categories', 'name', ['cup']),
        ('annotations', 'id', None),
        ('annotations', 'image_id', [1]),
        ('annotations', 'category_id', {}),
      )
    ),
    (lambda truth: truth['images'][0].update(height=2**31), 'more than 4294967295 pix'),
    *(
      (
        lambda truth, key=key, value=value: truth['annotations'][1].update(
          {key: value}
        ),
        f'annotation 1: {key} is .*, n',
      )
      for key, value in (
        ('iscrowd', '1'),
        ('iscrowd', []),
        ('area', '9'),
        ('area', float('nan')),
        ('bbox', None),
        ('bbox', ['10', '10', '40', '40']),
        ('bbox', [10, 10, 40, float('nan')]),
      )
    ),
  ],
)
def test_unusable_ground_truth_is_named(change, message):
  truth = copy.deepcopy(TWO)
  change(truth)
  with pytest.raises(UserError, match=message):
    evaluate_results(truth, [])


@pytest.mark.parametrize('caps', [(), (0, 10), (1, 2.5)])
def test_caps_must_be_positive_integers(caps):
  with pytest.raises(UserError, match='max_dets must be positive integers'):
    evaluate_results(TWO, [], max_dets=caps)


@pytest.mark.parametrize(
  ('folder', 'file', 'max_dets'),
  [
    ('nuclei', 'instances_val.json', (1, 10, 500)),
    ('coco_subset', 'instances_val2017.json', (1, 10, 100)),
    ('coco_subset', 'instances_train2017.json', (1, 10, 100)),
  ],
)
def test_real_ground_truth_as_predicted_scores_one(folder, file, max_dets):
  path = SHARED / 'data' / folder / 'annotations' / file
  if not path.exists():
    pytest.skip('no shared data')
  results = ground_truth_as_results(path)
  metrics = evaluate_results(path, results, max_dets=max_dets)
  assert metrics['segm/AP'] == pytest.approx(1)
  assert metrics['bbox/AP'] == pytest.approx(1)
  assert metrics[f'segm/AR{max_dets[-1]}'] == pytest.approx(1)
  assert metrics['count/instances_over_cap'] == 0
  crowds = metrics['count/crowds']
  assert (crowds > 0) == (folder == 'coco_subset')
  assert len(results) == metrics['count/instances']


def test_detections_become_results():
  rng = np.random.default_rng(0)
  masks = rng.random((4, 32, 48)) < 0.5
  masks[:, 21:] = masks[:, :, 37:] = False
  results = detections_to_results(
    boxes=np.array([[0, 0, 36, 20], [3.25, 4, 9.5, 8], [0] * 4, [0] * 4], np.float32),
    scores=np.array([0.75, 0.5, 0, 0], np.float32),
    labels=np.array([1, 0, 0, 0], np.int32),
    masks=np.packbits(masks, axis=-1),
    valid=np.array([True, True, False, False]),
    original_size=np.array([21, 37], np.int32),
    image_id=17,
    category_ids=(3, 7),
  )
  assert json.loads(json.dumps(results)) == results
  assert [result['category_id'] for result in results] == [7, 3]
  assert [result['image_id'] for result in results] == [17, 17]
  assert [result['score'] for result in results] == [0.75, 0.5]
  assert [result['bbox'] for result in results] == [[0, 0, 37, 21], [3.25, 4, 7.25, 5]]
  for result, mask in zip(results, masks, strict=False):
    assert result['segmentation']['size'] == [21, 37]
    decoded = rle.decode(result['segmentation'])
    np.testing.assert_array_equal(decoded, mask[:21, :37])


@pytest.mark.parametrize('size', [(21, 37), (16, 24), (1, 5), (9, 1), (32, 48)])
def test_masks_of_results_are_those_of_the_whole_image(size):
  rng = np.random.default_rng(0)
  masks = rng.random((8, 32, 48)) < np.linspace(0, 1, 8)[:, None, None]
  masks[2, :, 7:] = masks[3, 5:] = masks[4, :9] = masks[5, :, :20] = False
  masks[:, size[0] :] = masks[:, :, size[1] :] = False
  assert not masks[0].any()
  assert masks[-1, : size[0], : size[1]].all()
  packed = np.packbits(masks, axis=-1)
  results = detections_to_results(
    boxes=np.zeros((8, 4), np.float32),
    scores=np.zeros(8, np.float32),
    labels=np.zeros(8, np.int32),
    masks=packed,
    valid=np.ones(8, bool),
    original_size=np.asarray(size, np.int32),
    image_id=1,
    category_ids=(3,),
  )
  expected = [encode_mask(unpack_masks(mask, size)) for mask in packed]
  assert [result['segmentation'] for result in results] == expected


def test_masks_unpack_to_the_image():
  masks = np.random.default_rng(1).random((2, 3, 16, 24)) < 0.5
  unpacked = unpack_masks(np.packbits(masks, axis=-1), (11, 19))
  assert unpacked.dtype == bool
  np.testing.assert_array_equal(unpacked, masks[..., :11, :19])


@pytest.fixture
def files(tmp_path):
  truth, results = tmp_path / 'truth.json', tmp_path / 'results.json'
  truth.write_text(json.dumps(TWO))
  results.write_text(json.dumps(ground_truth_as_results(TWO)))
  return truth, results


def test_command_prints_the_table_and_writes_json(files, tmp_path, capsys):
  out = tmp_path / 'metrics.json'
  arguments = [*map(str, files), '--max_dets', '1,200', '--json', str(out)]
  assert coco.main(arguments) == 0
  printed = capsys.readouterr().out
  assert re.search(r'^AP +1\.000 +1\.000$', printed, re.M)
  assert re.search(r'^AR200 +1\.000 +1\.000$', printed, re.M)
  assert re.search(r'^cup +1\.000 +1\.000 +1$', printed, re.M)
  assert 'DONE' not in printed
  assert json.loads(out.read_text())['segm/AP'] == pytest.approx(1)


def test_command_scores_one_type_on_request(files, capsys):
  assert coco.main([*map(str, files), '--iou_type', 'bbox']) == 0
  assert 'segm' not in capsys.readouterr().out


@pytest.mark.parametrize(
  ('truth', 'results', 'options', 'message'),
  [
    (None, '[]', [], 'truth.json: cannot be read'),
    ('{}', '[]', [], 'not COCO instances JSON'),
    (json.dumps(TWO), '[{', [], 'results.json: not JSON'),
    ('[' * 100_000, '[]', [], 'truth.json: not JSON'),
    (json.dumps(TWO), '{}', [], 'results.json: COCO results must be a list'),
    (json.dumps(TWO), json.dumps([{}]), [], 'results.json: result 0: image_id None'),
    (json.dumps(TWO), '[]', ['--max_dets', 'many'], '--max_dets=many'),
    (
      json.dumps(TWO),
      '[]',
      ['--json', '/nowhere/m.json'],
      '/nowhere/m.json: cannot be',
    ),
  ],
)
def test_command_says_mistakes_in_one_line(
  tmp_path, capsys, truth, results, options, message
):
  paths = tmp_path / 'truth.json', tmp_path / 'results.json'
  for path, text in zip(paths, (truth, results), strict=True):
    if text is not None:
      path.write_text(text)
  assert coco.main([*map(str, paths), *options]) == 2
  captured = capsys.readouterr()
  assert captured.out == ''
  assert len(captured.err.splitlines()) == 1
  assert message in captured.err
