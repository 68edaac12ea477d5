"""The files that predictions become hold the same masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from handmade_prediction import SIZE, fill, masks, prediction
from PIL import Image
from pycocotools import mask as rle

from embedmask_jax.errors import UserError
from embedmask_jax.output_kinds import OUTPUT_KINDS
from embedmask_jax.predict.outputs import OutputFiles, coco_data_set


@pytest.fixture
def folder(tmp_path):
  source = tmp_path / 'in' / 'x.png'
  output = tmp_path / 'out'
  output.mkdir()
  OutputFiles(output, list(OUTPUT_KINDS)).write(prediction(), 'x', source)
  return output


def test_every_kind_is_written(folder):
  assert sorted(
    str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()
  ) == [
    'crops/x/001-a_b.png',
    'crops/x/002-box.png',
    'crops/x/003-a_b.png',
    'geojson/x.geojson',
    'instances/x/001-a_b.png',
    'instances/x/002-box.png',
    'instances/x/003-a_b.png',
    'label-map/x.png',
    'labelme/x.json',
    'x.png',
  ]


def test_pictures(folder):
  for number, name in enumerate(('001-a_b', '002-box', '003-a_b')):
    with Image.open(folder / 'instances' / 'x' / f'{name}.png') as image:
      np.testing.assert_array_equal(np.asarray(image), masks()[number])
  with Image.open(folder / 'label-map' / 'x.png') as image:
    np.testing.assert_array_equal(np.asarray(image), prediction().label_map())
  with Image.open(folder / 'crops' / 'x' / '001-a_b.png') as image:
    assert (image.mode, image.size) == ('RGBA', (30, 26))


def test_geojson(folder):
  content = json.loads((folder / 'geojson' / 'x.geojson').read_text())
  ring, squares, nothing = content['features']
  assert ring['geometry']['type'] == 'Polygon'
  assert squares['geometry']['type'] == 'MultiPolygon'
  assert nothing['geometry'] is None
  assert ring['properties'] == {
    'instance': 1,
    'class': 'a/b',
    'category_id': 8,
    'score': pytest.approx(0.9),
  }
  rings = ring['geometry']['coordinates']
  assert all(one[0] == one[-1] for one in rings)
  np.testing.assert_array_equal(
    fill([np.asarray(r[:-1]) for r in rings], SIZE), masks()[0]
  )


def test_labelme_without_holes_is_the_same_mask(folder):
  content = json.loads((folder / 'labelme' / 'x.json').read_text())
  assert (folder / 'labelme' / content['imagePath']).resolve().name == 'x.png'
  assert content['imagePath'] == '../../in/x.png'
  assert (content['imageHeight'], content['imageWidth']) == SIZE
  for number, mask in enumerate(masks()[:2]):
    own = [s for s in content['shapes'] if s['group_id'] == number + 1]
    assert all(shape['shape_type'] == 'polygon' for shape in own)
    rings = [np.asarray(shape['points']) for shape in own]
    np.testing.assert_array_equal(fill(rings, SIZE), mask)
  # An instance without a mask is not lost: pixels 1 to 3 and 2 to 4.
  [box] = [shape for shape in content['shapes'] if shape['group_id'] == 3]
  assert (box['shape_type'], box['points']) == ('rectangle', [[1, 2], [4, 5]])


def test_the_coco_data_set_can_be_scored_against_itself():
  found = prediction()
  results = [*found.to_coco(image_id=1), *found.to_coco(image_id=2)]
  images = [
    {'id': i, 'file_name': f'{i}.png', 'height': 40, 'width': 60} for i in (1, 2)
  ]
  data = coco_data_set(images, results, [(3, 'box'), (8, 'a/b')])
  assert [entry['id'] for entry in data['annotations']] == list(range(1, 7))
  assert data['annotations'][0]['area'] == masks()[0].sum()
  assert rle.area(data['annotations'][3]['segmentation']) == masks()[0].sum()
  assert data['categories'][0] == {'id': 3, 'name': 'box'}


def test_what_cannot_be_written_is_told(tmp_path):
  files = OutputFiles(tmp_path, ['geojson'])
  (tmp_path / 'geojson').touch()
  with pytest.raises(UserError, match=r'cannot write the results of x\.png'):
    files.write(prediction(), 'x', Path('x.png'))
  with pytest.raises(UserError, match="cannot save 'svg'"):
    OutputFiles(tmp_path, ['svg'])
  with pytest.raises(UserError, match='polygon_tolerance is -1'):
    OutputFiles(tmp_path, [], polygon_tolerance=-1)
