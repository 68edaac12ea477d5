"""`embedmask check-data`: every kind of finding, made on purpose, is named."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from coco_files import annotation, disc, noise, runs, save_json
from PIL import Image

from configs import small
from embedmask_jax import command_line
from embedmask_jax.check import objects, step_size
from embedmask_jax.check.assignment import read_back, weights_to_image
from embedmask_jax.check.findings import Finding
from embedmask_jax.data.sampler import BatchPlan
from embedmask_jax.data.source import open_source
from embedmask_jax.data.views import whole_view
from embedmask_jax.metrics.ground_truth import encode_segmentation

step_bytes = step_size.step_bytes
ROOT = Path(__file__).resolve().parents[1]
SIZE = (128, 160)
CATEGORIES = [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}]
NETWORK = [
  f'--config={ROOT}/configs/small.py',
  '--config.data.short_sides=128',
  '--config.data.eval_short_side=128',
  '--config.data.long_side=160',
  '--config.train.batch_size=2',
]


@pytest.fixture(scope='module', autouse=True)
def no_tracing():
  """Tracing a network is most of the work; what it counts has a test of its own."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(step_size, 'step_bytes', lambda *_: {'together': 0})
    yield


def instance(identity, image_id, y, x, radius, **changes):
  mask = disc(SIZE, y, x, radius)
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
  entry = annotation(
    identity,
    image_id,
    [float(side) for side in box],
    runs(mask, compressed=True),
    category_id=1,
    area=float(mask.sum()),
  )
  return entry | changes


def picture(identity, name):
  return {'id': identity, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]}


def save_picture(path, **options):
  path.parent.mkdir(exist_ok=True)
  Image.fromarray(noise(np.random.default_rng(0), SIZE)).save(path, **options)


def places(folder):
  return [f'--annotations={folder}/a.json', f'--images={folder}/images']


def check(capsys, folder, *arguments):
  """Status and JSON of the command; later arguments count."""
  capsys.readouterr()
  status = command_line.run(
    ['check-data', *NETWORK, *places(folder), '--json', '--quiet', *arguments]
  )
  captured = capsys.readouterr()
  return status, json.loads(captured.out), captured.err


@pytest.fixture
def clean(tmp_path):
  images = [picture(1, 'a.png'), picture(2, 'b.png')]
  for image in images:
    save_picture(tmp_path / 'images' / image['file_name'])
  objects = [
    instance(1, 1, 60, 60, 30),
    instance(2, 1, 60, 130, 20),
    instance(3, 2, 60, 60, 40, category_id=2),
  ]
  save_json(tmp_path / 'a.json', images, objects, CATEGORIES)
  return tmp_path


def test_nothing_is_lost_of_a_clean_data_set(clean, capsys):
  status, report, _ = check(capsys, clean, f'--output={clean}/out')
  assert status == 0
  assert not report['losses']
  assert {f['kind'] for f in report['findings']} == {'rare_category'}
  facts = report['facts']
  assert facts['Ground truth scored as predictions'] == {'segm AP': 1, 'bbox AP': 1}
  as_targets = facts['Objects as targets, at the size of evaluation']
  assert as_targets['instances with a positive location'] == 3
  assert as_targets['bound on bbox']['AP'] == pytest.approx(1)
  assert 0.8 < as_targets['bound on segm']['AP'] < 1
  assert facts['Training steps']['batches by padded instances'] == {'8': 1}
  assert json.loads((clean / 'out' / 'report.json').read_text()) == report
  for sheet in ('annotated.jpg', 'network.jpg'):
    with Image.open(clean / 'out' / sheet) as image:
      assert np.asarray(image).std() > 20


def test_sheets_go_into_a_file_system(clean, capsys):
  arguments = ['check-data', *NETWORK, *places(clean), '--output=gs://bucket/x']
  assert command_line.run([*arguments, '--quiet']) == 2
  assert 'is no folder of a file system' in capsys.readouterr().err


@pytest.fixture(scope='module')
def broken(tmp_path_factory):
  """Status, JSON and text of a data set with one of every defect."""
  folder = tmp_path_factory.mktemp('broken')
  images = [picture(i, f'{i}.jpg') for i in range(1, 7)]
  for image in images[:4]:
    save_picture(folder / 'images' / image['file_name'])
  (folder / 'images' / '4.jpg').write_bytes(
    (folder / 'images' / '3.jpg').read_bytes()[:-900]
  )
  turned = Image.Exif()
  turned[0x0112] = 3
  save_picture(folder / 'images' / '5.jpg', exif=turned)
  save_picture(folder / 'images' / 'stray.png')
  (folder / 'images' / '._1.jpg').write_bytes(b'of a Mac')
  pages = [Image.new('RGB', SIZE[::-1], colour) for colour in ('red', 'blue')]
  pages[0].save(folder / 'images' / '8.tif', save_all=True, append_images=pages[1:])
  images.append(picture(8, '8.tif'))
  images.append(picture(7, '1.jpg'))
  objects = [
    instance(1, 1, 60, 60, 30),
    instance(2, 1, 60, 60, 30),  # twice
    instance(3, 1, 60, 61, 36, category_id=9),  # over both
    instance(4, 2, 24, 24, 2),  # between the locations
    instance(5, 2, 80, 80, 30, bbox=[50.0, 50.0, 110.0, 110.0]),
    instance(6, 2, 80, 30, 12, area=9.0),
    instance(7, 3, 60, 60, 30, bbox=[30.0, 30.0, 0.0, 61.0]),
    instance(8, 3, 60, 120, 20, iscrowd=1),
    instance(9, 4, 60, 60, 30),
    instance(10, 6, 60, 60, 30),  # its image is missing
  ]
  categories = [*CATEGORIES, {'id': 9, 'name': 'dog'}]
  save_json(folder / 'a.json', images, objects, categories)
  text = io.StringIO()
  output = folder / 'out'
  with contextlib.redirect_stdout(text):
    status = command_line.run(
      ['check-data', *NETWORK, *places(folder), f'--output={output}', '--quiet']
    )
  report = json.loads((output / 'report.json').read_text())
  return status, report, text.getvalue()


def test_every_finding_is_named(broken):
  status, report, _ = broken
  assert status == 1
  found = {f['kind']: (f['loses'], f['items']) for f in report['findings']}
  message = found.pop('unreadable_file')[1]
  assert len(message) == 1
  assert message[0].startswith('4.jpg: cannot be decoded')
  assert found == {
    'missing_file': (True, ['6.jpg']),
    'file_twice': (True, ['1.jpg']),
    'exif_ignored': (False, ['5.jpg']),
    'several_frames': (False, ['8.tif']),
    'unlisted_file': (False, ['stray.png']),
    'crowd': (False, [8]),
    'left_out': (True, [7]),
    'beyond_image': (False, [5]),
    'wrong_box': (True, [5, 7]),
    'wrong_area': (False, [6]),
    'duplicate': (True, ['1+2']),
    'overlap': (False, ['1+3', '2+3']),
    'category_gap': (False, [3, 4, 5, 6, 7, 8]),
    'category_without_instance': (False, ['dog']),
    'rare_category': (False, ['cat', 'dog']),
    'category_name_twice': (False, ['dog']),
    'no_location': (True, [4]),
    'taken_location': (True, [2, 3]),
    'no_area': (True, [7]),
  }


def test_a_finding_of_no_kind_is_refused():
  """It would count as no loss."""
  with pytest.raises(ValueError, match="'lost' is no kind"):
    Finding('lost', 1, 'objects are lost')


def test_masks_are_made_once(tmp_path, monkeypatch):
  save_picture(tmp_path / 'a.png')
  square, triangle = [4, 4, 40, 4, 40, 40, 4, 40], [60, 60, 90, 60, 90, 90]
  annotations = [
    annotation(number, 1, [4.0, 4.0, 36.0, 36.0], [polygon], category_id=1)
    for number, polygon in enumerate((square, triangle, square), start=1)
  ]
  save_json(tmp_path / 'a.json', [picture(1, 'a.png')], annotations, CATEGORIES)
  source = open_source(tmp_path / 'a.json', tmp_path)
  made = []

  def counted(*arguments):
    made.append(arguments)
    return encode_segmentation(*arguments)

  monkeypatch.setattr(objects, 'encode_segmentation', counted)
  section = objects.check_objects(source, source.ground_truth(), nms_threshold=0.6)
  found = {finding.kind: finding.items for finding in section.findings}
  assert found['wrong_box'] == (2,)
  assert found['duplicate'] == ('1+3',)
  assert len(made) == 3


def test_the_text_names_what_the_json_has(broken):
  _, report, text = broken
  assert 'LOST  1 files are missing: files 6.jpg' in text
  assert 'LOST  1 pairs are the same object of the same category twice' in text
  assert text.splitlines()[-1] == f'lost or wrong: {", ".join(report["losses"])}'


def test_allowed_kinds_do_not_fail(clean, capsys):
  cap = '--config.eval.max_detections=1'
  assert check(capsys, clean, cap)[0] == 1
  assert check(capsys, clean, cap, '--allow=duplicate')[0] == 1
  assert check(capsys, clean, cap, '--allow=duplicate, over_max_detections')[0] == 0
  assert command_line.run(['check-data', *places(clean), '--allow=typo']) == 2
  assert 'no kind typo; those that lead to status 1:' in capsys.readouterr().err


def test_bound_counts_what_has_no_location(clean, capsys):
  content = json.loads((clean / 'a.json').read_text())
  # Of the two cats one is too small: it is found up to a recall of one half.
  content['annotations'][1] = instance(2, 1, 24, 24, 2)
  (clean / 'a.json').write_text(json.dumps(content))
  _, report, _ = check(capsys, clean)
  facts = report['facts']['Objects as targets, at the size of evaluation']
  assert facts['bound on bbox']['AP'] == pytest.approx((51 / 101 + 1) / 2)
  assert facts['share'] == pytest.approx(2 / 3)


def test_a_ring_has_its_locations_beside_it(clean, capsys):
  content = json.loads((clean / 'a.json').read_text())
  ring = disc(SIZE, 60, 60, 40) & ~disc(SIZE, 60, 60, 25)
  content['annotations'][2]['segmentation'] = runs(ring, compressed=True)
  (clean / 'a.json').write_text(json.dumps(content))
  _, report, _ = check(capsys, clean)
  found = {f['kind']: f['items'] for f in report['findings']}
  assert found['off_mask'] == [3]
  assert not {'no_location', 'taken_location'} & set(found)


def test_caps_that_cut_are_said(clean, capsys):
  caps = ['--config.eval.max_detections=1', '--config.eval.max_dets=(1,2,3)']
  _, report, _ = check(capsys, clean, *caps, '--config.data.instance_ladder=1')
  found = {f['kind']: f['count'] for f in report['findings']}
  assert found['over_max_detections'] == 1
  assert found['over_ladder'] == 1
  content = json.loads((clean / 'a.json').read_text())
  content['annotations'] += [instance(9 + i, 2, 20 + 30 * i, 120, 12) for i in (0, 1)]
  content['annotations'] += [instance(19 + i, 2, 20 + 30 * i, 140, 9) for i in (0, 1)]
  (clean / 'a.json').write_text(json.dumps(content))
  _, report, _ = check(capsys, clean, *caps)
  found = {f['kind']: f['count'] for f in report['findings']}
  assert found['over_cap'] == 1
  facts = report['facts']['Ground truth scored as predictions']
  assert facts['segm AP'] < 1
  assert facts['segm AP without that cap'] == 1


@pytest.mark.parametrize('scale', [1, 2])
def test_masks_come_back_from_their_cells(scale):
  size = (64, 96)
  view = whole_view((scale * 64, scale * 96), (scale * 64, scale * 96))
  cells = np.zeros((scale * 16, scale * 24), bool)
  cells[4 * scale : 8 * scale, 6 * scale : 12 * scale] = True
  want = np.zeros(size, bool)
  want[16:32, 24:48] = True
  weights = weights_to_image(view, size)
  found = read_back(cells, weights, want)
  # All but the corner pixels, which a bilinear resize rounds off, at most.
  assert (found != want).sum() <= 4
  # Another cut fits a smaller mask better.
  smaller = np.zeros(size, bool)
  smaller[17:31, 25:47] = True
  assert read_back(cells, weights, smaller).sum() < found.sum()
  assert not read_back(np.zeros_like(cells), weights, want).any()


def test_memory_grows_with_what_it_counts():
  config = small.get_config()

  def count(batch_size, canvas, instances):
    return step_bytes(config, 2, BatchPlan(canvas, instances, batch_size, ()))

  one, more = count(1, (64, 64), 8), count(2, (64, 128), 16)
  assert one['state'] == more['state'] > 0
  # The last levels have odd sides, so they do not double with the canvas.
  assert more['activations'] == pytest.approx(4 * one['activations'], rel=0.1)
  assert more['pairs'] == pytest.approx(8 * one['pairs'], rel=0.1)
  assert 4 * one['batch'] < more['batch'] < 8 * one['batch']
  parts = ('state', 'batch', 'activations', 'pairs')
  assert one['together'] == sum(one[part] for part in parts)


def test_home_is_known_and_ids_may_be_far_apart(clean, capsys, monkeypatch):
  monkeypatch.setenv('HOME', str(clean))
  content = json.loads((clean / 'a.json').read_text())
  content['categories'][0]['id'] = 2**62
  for entry in content['annotations']:
    if entry['category_id'] == 1:
      entry['category_id'] = 2**62
  (clean / 'a.json').write_text(json.dumps(content))
  home = ['--annotations=~/a.json', '--images=~/images']
  status, report, _ = check(capsys, clean, *home)
  assert status == 0
  (gap,) = (f for f in report['findings'] if f['kind'] == 'category_gap')
  assert gap['count'] == 2**62 - 3
  assert gap['items'][:2] == [3, 4]
  assert len(gap['items']) == 100


def test_sheets_come_to_an_end_where_a_broken_image_is_in_all(clean, capsys):
  whole = (clean / 'images' / 'a.png').read_bytes()
  (clean / 'images' / 'a.png').write_bytes(whole[: len(whole) // 2])
  content = json.loads((clean / 'a.json').read_text())
  one = content['annotations'][0]
  content['annotations'] += [{**one, 'id': 100 + i} for i in range(40)]
  (clean / 'a.json').write_text(json.dumps(content))
  status, _, _ = check(
    capsys,
    clean,
    f'--output={clean}/out',
    '--config.data.copy_paste_probability=1.0',
    '--config.data.flip_probability=0.0',
  )
  assert status == 1
  assert (clean / 'out' / 'annotated.jpg').exists()
  assert not (clean / 'out' / 'network.jpg').exists()
