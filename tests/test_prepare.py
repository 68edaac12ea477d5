"""`embedmask prepare`: the same masks in every format come out as the same masks."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from coco_files import disc, noise, write_dataset
from handmade_prediction import prediction
from PIL import Image, ImageDraw

from embedmask_jax import command_line
from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.data.masks import decode_mask
from embedmask_jax.data.record_source import RecordSource
from embedmask_jax.predict.outputs import OutputFiles
from embedmask_jax.prepare import coco_writer
from embedmask_jax.prepare.yolo import YoloLabels

SIZE = (40, 56)
# Image -> the polygons of its objects, with their category.
SCENES = {
  'a': [
    ('cat', [(4, 4), (20, 4), (20, 20), (4, 20)]),
    ('dog', [(30, 8), (50, 8), (40, 30)]),
  ],
  'b': [('dog', [(10, 10), (40, 12), (36, 34), (8, 30)])],
  'c': [],
}
NAMES = ('cat', 'dog')


def raster(polygon):
  mask = Image.new('L', SIZE[::-1])
  ImageDraw.Draw(mask).polygon(polygon, fill=1)
  return np.asarray(mask) > 0


def polygon_mask(polygon):
  return decode_mask((np.asarray(polygon, np.float64).ravel(),), SIZE)


def save_images(folder, suffix='.png', ending=''):
  for name in SCENES:
    path = folder / f'{name}{ending}{suffix}'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(np.random.default_rng(0), SIZE)).save(path)


def write_labelme(root):
  save_images(root)
  for name, objects in SCENES.items():
    shapes = [
      {'label': label, 'points': points, 'shape_type': 'polygon', 'group_id': None}
      for label, points in objects
    ]
    write_json(
      root / f'{name}.json',
      imagePath=f'{name}.png',
      imageHeight=SIZE[0],
      imageWidth=SIZE[1],
      shapes=shapes,
    )
  return [f'--labels={root}'], polygon_mask


def write_yolo(root):
  save_images(root / 'images', '.jpg')
  (root / 'labels').mkdir()
  (root / 'data.yaml').write_text('names:\n  0: cat\n  1: dog\n')
  for name, objects in SCENES.items():
    lines = [
      ' '.join(
        [str(NAMES.index(label))]
        + [
          f'{side / SIZE[1 - i]:.9f}'
          for point in points
          for i, side in enumerate(point)
        ]
      )
      for label, points in objects
    ]
    if lines:
      (root / 'labels' / f'{name}.txt').write_text('\n'.join(lines) + '\n\n')
  folders = [f'--labels={root}/labels', f'--images={root}/images']
  return [*folders, f'--names={root}/data.yaml'], polygon_mask


def write_instance_ids(root):
  save_images(root / 'images', '.jpg')
  (root / 'labels').mkdir()
  for name, objects in SCENES.items():
    values = np.zeros(SIZE, np.uint16)
    for number, (_, points) in enumerate(objects):
      values[raster(points)] = 300 + 7 * number
    Image.fromarray(values).save(root / 'labels' / f'{name}.png')
  return [f'--labels={root}/labels', f'--images={root}/images'], raster


def write_mask_folders(root):
  save_images(root / 'images')
  for name, objects in SCENES.items():
    folder = root / 'labels' / name / 'masks'
    folder.mkdir(parents=True)
    for number, (_, points) in enumerate(objects):
      image = Image.fromarray(np.where(raster(points), 255, 0).astype(np.uint8))
      (image.convert('RGBA') if number else image).save(folder / f'{number}.png')
  return [f'--labels={root}/labels', f'--images={root}/images'], raster


CITY = {'cat': ('car', 26), 'dog': ('person', 24)}


def write_cityscapes(root, with_ids=True):
  save_images(root / 'left' / 'town', ending='_000_leftImg8bit')
  (root / 'fine' / 'town').mkdir(parents=True)
  for name, objects in SCENES.items():
    stem = root / 'fine' / 'town' / f'{name}_000_gtFine_'
    values = np.full(SIZE, 7, np.uint16)  # road
    entries = [{'label': 'road', 'polygon': [[0, 0], [55, 0], [55, 39], [0, 39]]}]
    for number, (label, points) in enumerate(objects):
      city, identity = CITY[label]
      values[raster(points)] = 1000 * identity + number
      entries.append({'label': city, 'polygon': points})
    write_json(
      Path(f'{stem}polygons.json'),
      imgHeight=SIZE[0],
      imgWidth=SIZE[1],
      objects=entries,
    )
    if with_ids:
      Image.fromarray(values).save(f'{stem}instanceIds.png')
  return [f'--labels={root}/fine', f'--images={root}/left'], raster


def write_city_polygons(root):
  return write_cityscapes(root, with_ids=False)


def write_json(path, **content):
  path.write_text(json.dumps(content))


FORMATS = {
  'labelme': write_labelme,
  'yolo': write_yolo,
  'instance-ids': write_instance_ids,
  'mask-folders': write_mask_folders,
  'cityscapes': write_cityscapes,
  'cityscapes polygons': write_city_polygons,
}


def prepare(root, name, arguments):
  output = root / 'out.json'
  status = command_line.run(
    [
      'prepare',
      f'--from={name.split()[0]}',
      *arguments,
      f'--output={output}',
      '--quiet',
    ]
  )
  return status, output


def image_folder(arguments):
  named = [a.split('=')[1] for a in arguments if a.startswith('--images')]
  return named[0] if named else arguments[0].split('=')[1]


@pytest.mark.parametrize('name', FORMATS)
def test_masks_come_through(tmp_path, name, capsys):
  arguments, rasterise = FORMATS[name](tmp_path)
  status, output = prepare(tmp_path, name, arguments)
  assert status == 0
  told = capsys.readouterr().out
  assert 'images: 3 in, 3 out' in told
  assert 'entries: 3 in, 3 out, in 3 objects' in told
  source = CocoSource(output, image_folder(arguments))
  assert source.report.num_instances == source.report.num_annotations == 3
  assert [Path(n).name[0] for n in source.file_names] == ['a', 'b', 'c']
  for index, objects in enumerate(SCENES.values()):
    record = source[index]
    assert (record.height, record.width) == SIZE
    found = {}
    for label, segmentation in zip(record.labels, record.segmentations, strict=True):
      mask = decode_mask(segmentation, SIZE)
      found[mask.tobytes()] = source.class_names[label]
    wanted = {rasterise(points).tobytes(): label for label, points in objects}
    assert set(found) == set(wanted)
    if name in ('labelme', 'yolo'):
      assert found == wanted
    elif name.startswith('cityscapes'):
      assert found == {mask: CITY[label][0] for mask, label in wanted.items()}
  assert not list(tmp_path.glob('*.partial'))


def test_boxes_and_areas_are_those_of_the_masks(tmp_path):
  arguments, _ = write_instance_ids(tmp_path)
  _, output = prepare(tmp_path, 'instance-ids', [*arguments, '--category=cell'])
  content = json.loads(output.read_text())
  assert content['categories'] == [{'id': 1, 'name': 'cell'}]
  first = content['annotations'][0]
  assert first['bbox'] == [4, 4, 17, 17]
  assert first['area'] == 17 * 17


def labelme_with(root, shapes):
  save_images(root)
  for name in SCENES:
    write_json(
      root / f'{name}.json',
      imagePath=f'sub\\..\\{name}.png' if name == 'a' else f'{name}.png',
      imageHeight=SIZE[0],
      imageWidth=SIZE[1],
      shapes=shapes if name == 'a' else [],
    )
  (root / 'sub').mkdir()


def test_names_fix_the_classes_of_labelme(tmp_path, capsys):
  arguments, _ = write_labelme(tmp_path)
  (tmp_path / 'names.txt').write_text('dog\nbird\ncat\n')
  named = [*arguments, f'--names={tmp_path}/names.txt']
  status, output = prepare(tmp_path, 'labelme', named)
  assert status == 0
  assert CocoSource(output, tmp_path).class_names == ('dog', 'bird', 'cat')
  output.unlink()
  capsys.readouterr()
  (tmp_path / 'names.txt').write_text('dog\nbird\n')
  assert prepare(tmp_path, 'labelme', named)[0] == 2
  error = capsys.readouterr().err
  assert "a.json shapes[0]: label 'cat'; --names has dog, bird" in error


def test_predictions_for_labelme_are_a_data_set(tmp_path, capsys):
  source, found = tmp_path / 'new_images' / 'x.png', tmp_path / 'found'
  for folder in (source.parent, found):
    folder.mkdir()
  Image.fromarray(noise(np.random.default_rng(0), prediction().size)).save(source)
  OutputFiles(found, ['labelme']).write(prediction(), 'x', source)
  labels = f'--labels={found}/labelme'
  assert prepare(tmp_path, 'labelme', [labels])[0] == 2
  assert 'folder of images with --images' in capsys.readouterr().err
  named = [labels, f'--images={source.parent}']
  status, output = prepare(tmp_path, 'labelme', named)
  assert status == 0
  content = json.loads(output.read_text())
  assert [image['file_name'] for image in content['images']] == ['x.png']
  assert len(content['annotations']) == 3


def test_names_of_labels_in_capitals(tmp_path):
  arguments, _ = write_instance_ids(tmp_path)
  path = tmp_path / 'labels' / 'a.png'
  path.rename(path.with_suffix('.PNG'))
  status, output = prepare(tmp_path, 'instance-ids', arguments)
  assert status == 0
  assert len(json.loads(output.read_text())['annotations']) == 3


def test_values_that_are_no_object(tmp_path, capsys):
  arguments, _ = write_instance_ids(tmp_path)
  status, output = prepare(tmp_path, 'instance-ids', [*arguments, '--ignore=307,255'])
  assert status == 0
  assert 'no objects by --ignore: 255, 307' in capsys.readouterr().out
  assert len(json.loads(output.read_text())['annotations']) == 2
  output.unlink()
  assert prepare(tmp_path, 'instance-ids', [*arguments, '--ignore=void'])[0] == 2
  assert '--ignore=void: must be whole numbers' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('name', 'option'),
  [
    ('labelme', '--category=cat'),
    ('labelme', '--ignore=255'),
    ('yolo', '--category=object'),
    ('instance-ids', '--names=names.txt'),
    ('instance-ids', '--split=train'),
    ('mask-folders', '--ignore=255'),
    ('cityscapes', '--annotations=a.json'),
    ('coco', '--labels=labels'),
  ],
)
def test_options_of_other_formats_are_refused(tmp_path, capsys, name, option):
  arguments, _ = FORMATS[name](tmp_path) if name in FORMATS else ([], None)
  assert prepare(tmp_path, name, [*arguments, option])[0] == 2
  error = capsys.readouterr().err
  assert f'{option.split("=")[0]} is not for --from={name}, which takes --' in error


def test_shapes_of_labelme(tmp_path, capsys):
  part = disc(SIZE, 5, 6, 4)[:12, :14]
  buffer = io.BytesIO()
  Image.fromarray(part).save(buffer, 'PNG')
  square = [[2, 2], [9, 2], [9, 9], [2, 9]]
  labelme_with(
    tmp_path,
    [
      {'label': 'x', 'points': [[30, 9], [20, 2]], 'shape_type': 'rectangle'},
      {'label': 'x', 'points': [[40, 20], [45, 20]], 'shape_type': 'circle'},
      {
        'label': 'y',
        'points': [[20, 25], [33, 36]],
        'shape_type': 'mask',
        'mask': base64.b64encode(buffer.getvalue()).decode(),
      },
      {'label': 'z', 'points': square, 'group_id': 3},
      {'label': 'z', 'points': [[2, 20], [9, 20], [9, 30]], 'group_id': 3},
      {'label': 'y', 'points': square, 'group_id': 3},
      {'label': 'w', 'points': [[2, 20]], 'shape_type': 'point'},
    ],
  )
  status, output = prepare(tmp_path, 'labelme', [f'--labels={tmp_path}'])
  told = capsys.readouterr().out
  assert status == 1  # a point was left out
  assert 'entries: 7 in, 6 out, in 5 objects' in told
  assert 'shapes[6]: a point has no area' in told
  source = CocoSource(output, tmp_path)
  assert source.class_names == ('x', 'y', 'z')
  record = source[0]
  masks = [decode_mask(item, SIZE) for item in record.segmentations]
  rectangle, circle, placed, joined, _ = masks
  assert rectangle.sum() == 70
  assert (circle != disc(SIZE, 19.5, 39.5, 5)).sum() < 8
  want = np.zeros(SIZE, bool)
  want[25:37, 20:34] = part
  np.testing.assert_array_equal(placed, want)
  assert joined[3, 3]
  assert joined[22, 8]
  assert record.labels.tolist() == [0, 0, 1, 2, 1]


def test_boxes_end_where_the_image_does(tmp_path):
  labelme_with(
    tmp_path,
    [
      {'label': 'x', 'points': [[3, 20], [3, 30]], 'shape_type': 'circle'},
      {'label': 'x', 'points': [[50, 35], [60, 45]], 'shape_type': 'rectangle'},
    ],
  )
  _, output = prepare(tmp_path, 'labelme', [f'--labels={tmp_path}'])
  circle, rectangle = json.loads(output.read_text())['annotations']
  assert circle['bbox'] == pytest.approx([0, 10, 13, 20])
  assert rectangle['bbox'] == [50, 35, 6, 5]
  assert rectangle['area'] == 30


def test_a_rectangle_of_labelme_may_have_four_corners(tmp_path):
  corners = [[20, 2], [30, 2], [30, 9], [20, 9]]
  labelme_with(tmp_path, [{'label': 'x', 'points': corners, 'shape_type': 'rectangle'}])
  status, output = prepare(tmp_path, 'labelme', [f'--labels={tmp_path}'])
  assert status == 0
  [entry] = json.loads(output.read_text())['annotations']
  assert (entry['bbox'], entry['area']) == ([20, 2, 10, 7], 70)


def test_cityscapes_groups_and_covered_objects(tmp_path, capsys):
  square = [[2, 2], [20, 2], [20, 20], [2, 20]]
  save_images(tmp_path / 'left', ending='_leftImg8bit')
  (tmp_path / 'fine').mkdir()
  for name in SCENES:
    write_json(
      tmp_path / 'fine' / f'{name}_gtFine_polygons.json',
      imgHeight=SIZE[0],
      imgWidth=SIZE[1],
      objects=[
        {'label': 'car', 'polygon': [[5, 5], [9, 5], [9, 9]]},
        {'label': 'person', 'polygon': square},
        {'label': 'cargroup', 'polygon': [[12, 12], [30, 12], [30, 30]]},
        {'label': 'car', 'polygon': square, 'deleted': 1},
        {'label': 'pole', 'polygon': [[2, 2], [4, 2], [4, 39], [2, 39]]},
      ],
    )
  arguments = [f'--labels={tmp_path}/fine', f'--images={tmp_path}/left']
  status, output = prepare(tmp_path, 'cityscapes', arguments)
  assert status == 1
  assert 'object 1 (car) is covered by others' in capsys.readouterr().out
  source = CocoSource(output, tmp_path / 'left')
  assert source.report.num_annotations == 6
  assert source.report.num_instances == 3
  mask = decode_mask(source[0].segmentations[0], SIZE)
  assert mask[10, 10]
  assert not mask[10, 3]  # the pole is in front
  assert not mask[15, 18]  # and the group


@pytest.mark.parametrize('name', FORMATS)
def test_what_a_mac_adds_to_archives_is_left_alone(tmp_path, name, capsys):
  root = tmp_path / 'data'
  arguments, _ = FORMATS[name](root)
  for path in [*root.rglob('*')]:
    aside = path.parent / '__MACOSX'
    aside.mkdir(exist_ok=True)
    if path.is_file():
      for twin in (aside / path.name, path.with_name(f'._{path.name}')):
        twin.write_bytes(b'of a Mac')
  assert prepare(tmp_path, name, arguments)[0] == 0
  assert 'images: 3 in, 3 out\nentries: 3 in, 3 out' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['labelme', 'yolo', 'yolo names'])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
  """Editors of Windows put one before UTF-8."""
  arguments, _ = FORMATS[name.split()[0]](tmp_path)
  if name == 'yolo names':
    (tmp_path / 'names.txt').write_text('cat\ndog\n')
    arguments[-1] = f'--names={tmp_path}/names.txt'
  for path in tmp_path.rglob('*'):
    if path.suffix in ('.json', '.yaml', '.txt'):
      path.write_text(path.read_text(), encoding='utf-8-sig')
  status, output = prepare(tmp_path, name, arguments)
  assert status == 0
  names = [entry['name'] for entry in json.loads(output.read_text())['categories']]
  assert names == ['cat', 'dog']


def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch, capsys):
  arguments, _ = write_yolo(tmp_path)
  read, seen = YoloLabels.read, []

  def interrupted(self, key):
    if key == 'b.jpg' and not seen:
      raise KeyboardInterrupt
    return read(self, key)

  monkeypatch.setattr(YoloLabels, 'read', interrupted)
  monkeypatch.setattr(coco_writer, '_GROUP', 1)
  assert prepare(tmp_path, 'yolo', arguments)[0] == 130
  partial = tmp_path / 'out.json.partial'
  assert len(partial.read_text().splitlines()) == 2
  with partial.open('a') as file:
    file.write('["b.jpg", {"torn')  # as by a power cut
  assert not (tmp_path / 'out.json').exists()

  def counted(self, key):
    seen.append(key)
    return read(self, key)

  monkeypatch.setattr(YoloLabels, 'read', counted)
  status, output = prepare(tmp_path, 'yolo', arguments)
  assert (status, seen) == (0, ['b.jpg', 'c.jpg'])
  assert '1 images had been read before' in capsys.readouterr().out
  whole = json.loads(output.read_text())
  output.unlink()
  assert prepare(tmp_path, 'yolo', arguments)[0] == 0
  assert json.loads(output.read_text()) == whole


def test_broken_images_stop_or_are_named(tmp_path, capsys):
  arguments, _ = write_yolo(tmp_path)
  (tmp_path / 'images' / 'b.jpg').write_bytes(b'no image')
  status, output = prepare(tmp_path, 'yolo', arguments)
  assert status == 2
  error = capsys.readouterr().err
  assert '1 of 3 images or their labels cannot be used' in error
  assert 'b.jpg' in error
  assert not output.exists()
  status, output = prepare(tmp_path, 'yolo', [*arguments, '--skip-broken'])
  assert status == 1
  told = capsys.readouterr().out
  assert 'images: 3 in, 2 out' in told
  assert 'left out: image: ' in told
  assert len(json.loads(output.read_text())['images']) == 2


def test_json_report(tmp_path, capsys):
  arguments, _ = write_yolo(tmp_path)
  assert prepare(tmp_path, 'yolo', [*arguments, '--json'])[0] == 0
  report = json.loads(capsys.readouterr().out)
  assert (report['images_in'], report['images_out']) == (3, 3)
  assert report['notes'] == ['1 images have no label file: c.jpg']


def test_a_list_that_is_cut_says_so(tmp_path, capsys):
  arguments, _ = write_yolo(tmp_path)
  for number in range(5):
    image = tmp_path / 'images' / f'd{number}.jpg'
    image.write_bytes((tmp_path / 'images' / 'c.jpg').read_bytes())
  assert prepare(tmp_path, 'yolo', arguments)[0] == 0
  told = '6 images have no label file: c.jpg, d0.jpg, d1.jpg, d2.jpg, d3.jpg, ...\n'
  assert told in capsys.readouterr().out


def test_records_from_coco(tmp_path, capsys):
  annotations, images = write_dataset(tmp_path, [(40, 40), (50, 60), (48, 32)])
  output = tmp_path / 'records'
  status = command_line.run(
    [
      'prepare',
      '--from=coco',
      f'--annotations={annotations}',
      f'--images={images}',
      f'--output={output}',
      '--quiet',
    ]
  )
  assert status == 0
  report = '3 images (1 without instances), 3 annotations, 3 used'
  assert capsys.readouterr().out == f'{output}\n{report}\n'
  assert len(RecordSource(output)) == 3


def read_again(tmp_path, change):
  """Stops at a label that --names lacks; the JSON after a correction."""
  arguments, _ = write_yolo(tmp_path)
  names = tmp_path / 'names.txt'
  names.write_text('cat\ndog\n')
  arguments[-1] = f'--names={names}'
  with (tmp_path / 'labels' / 'b.txt').open('a') as file:
    file.write('2 0 0 0.5 0 0.5 0.5\n')
  assert prepare(tmp_path, 'yolo', arguments)[0] == 2
  assert (tmp_path / 'out.json.partial').exists()
  change(names)
  status, output = prepare(tmp_path, 'yolo', arguments)
  assert status == 0
  content = json.loads(output.read_text())
  names = {entry['id']: entry['name'] for entry in content['categories']}
  return [names[entry['category_id']] for entry in content['annotations']]


def test_corrected_names_hold_for_what_was_read_before(tmp_path):
  found = read_again(tmp_path, lambda names: names.write_text('bird\ncat\ndog\n'))
  assert found == ['bird', 'cat', 'cat', 'dog']


def test_corrected_labels_are_read_again(tmp_path):
  def correct(names):
    (tmp_path / 'labels' / 'b.txt').write_text('1 0 0 0.5 0 0.5 0.5\n')
    (tmp_path / 'labels' / 'a.txt').write_text('1 0.2 0.2 0.5 0 0.5 0.5\n')
    (tmp_path / 'labels' / 'c.txt').write_text('0 0 0 0.5 0 0.5 0.5\n')

  assert read_again(tmp_path, correct) == ['dog', 'dog', 'cat']


def test_an_image_of_another_size_is_read_again(tmp_path):
  def correct(names):
    (tmp_path / 'labels' / 'b.txt').write_text('1 0 0 0.5 0 0.5 0.5\n')
    larger = noise(np.random.default_rng(0), (80, 112))
    Image.fromarray(larger).save(tmp_path / 'images' / 'a.jpg')

  read_again(tmp_path, correct)
  content = json.loads((tmp_path / 'out.json').read_text())
  assert [content['images'][0][side] for side in ('height', 'width')] == [80, 112]
  assert content['annotations'][0]['bbox'] == pytest.approx([8, 8, 32, 32])


@pytest.mark.parametrize('mode', ['LA', 'RGBA', 'RGB', 'L', '1'])
def test_what_is_opaque_is_no_mask(tmp_path, mode):
  mask = np.zeros(SIZE, bool)
  mask[3:9, 5:20] = True
  image = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert(mode)
  save_images(tmp_path / 'images')
  for name in SCENES:
    (tmp_path / 'labels' / name).mkdir(parents=True)
    image.save(tmp_path / 'labels' / name / '1.png')
  folders = [f'--labels={tmp_path}/labels', f'--images={tmp_path}/images']
  status, output = prepare(tmp_path, 'mask-folders', folders)
  assert status == 0
  record = CocoSource(output, tmp_path / 'images')[0]
  np.testing.assert_array_equal(decode_mask(record.segmentations[0], SIZE), mask)


@pytest.mark.parametrize(
  ('orientation', 'size', 'is_told'),
  [(1, SIZE, False), (3, SIZE, True), (6, SIZE, False), (6, (40, 40), True)],
)
def test_a_turn_that_the_size_does_not_show_is_told(
  tmp_path, capsys, orientation, size, is_told
):
  arguments, _ = write_yolo(tmp_path)
  exif = Image.Exif()
  exif[0x0112] = orientation
  pixels = noise(np.random.default_rng(0), size)
  Image.fromarray(pixels).save(tmp_path / 'images' / 'a.jpg', exif=exif)
  status, output = prepare(tmp_path, 'yolo', arguments)
  assert output.exists() != is_told
  if is_told:
    assert status == 2
    assert f'a.jpg: has the EXIF orientation {orientation}' in capsys.readouterr().err


def test_broken_images_of_coco_are_not_skipped(tmp_path, capsys):
  arguments = ['--annotations=a.json', '--images=b', '--skip-broken']
  assert prepare(tmp_path, 'coco', arguments)[0] == 2
  assert '--skip-broken is not for --from=coco' in capsys.readouterr().err
