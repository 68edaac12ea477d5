"""What users get wrong, kind by kind: one line that names it, or a named finding.

No case ends in a traceback (`command_line.run` would raise), and none loses an image
or an object without a word. Commands and their options are in test_command_line.py.
"""

import json
import shutil
from pathlib import Path

import commands
import numpy as np
import pytest
import test_prepare as formats
from coco_files import annotation, disc, noise, runs
from PIL import Image

from embedmask_jax import command_line

ROOT = Path(__file__).resolve().parents[1]
SIZE = (64, 96)
MASK = disc(SIZE, 30, 40, 20)
BOX = [20.0, 10.0, 41.0, 41.0]
RUNS = runs(MASK, compressed=True)
SMALL = [
  f'--config={ROOT}/configs/small.py',
  '--config.data.short_sides=64',
  '--config.data.eval_short_side=64',
  '--config.data.long_side=96',
]


def refused(capsys, *arguments):
  return commands.refused(capsys, *arguments, '--quiet')


def picture(identity, name, size=SIZE):
  return {'id': identity, 'file_name': name, 'height': size[0], 'width': size[1]}


def save_picture(path, size=SIZE):
  Image.fromarray(noise(np.random.default_rng(0), size)).save(path)


def good():
  return {
    'images': [picture(1, 'a.png')],
    'annotations': [annotation(5, 1, BOX, RUNS)],
    'categories': [{'id': 3, 'name': 'cat'}],
  }


def changed(part, **fields):
  """The good data set, its first entry of a part changed."""
  content = good()
  content[part][0] |= fields
  return content


def without(part, field):
  content = good()
  del content[part][0][field]
  return content


def doubled(part):
  content = good()
  content[part] *= 2
  return content


# What the file of annotations holds -> what the line says.
ANNOTATIONS = {
  'empty file': (b'', 'not JSON'),
  'cut short': (json.dumps(good())[:-9].encode(), 'not JSON'),
  'an image instead': (b'\x89PNG\r\n\x1a\n\0\0', 'not JSON'),
  'list': ([], 'is a list, not an object'),
  'text': ('data', 'is a str, not an object'),
  'results': ([{'image_id': 1, 'score': 1}], 'is a list, not an object'),
  'labelme': ({'shapes': [], 'imagePath': 'a.png'}, "no list 'images'"),
  'no annotations': ({**good(), 'annotations': None}, "no list 'annotations'"),
  'no images': ({**good(), 'images': []}, "'images' has no entries"),
  'no categories': ({**good(), 'categories': []}, "'categories' has no entries"),
  'image without name': (without('images', 'file_name'), "has no 'file_name'"),
  'image without width': (without('images', 'width'), "has no 'width'"),
  'image of no width': (changed('images', width=0), 'both must be at least 1'),
  'width as text': (changed('images', width='96'), "is '96', not an integer"),
  'id as text': (changed('images', id='1'), "is '1', not an integer"),
  'name as number': (changed('images', file_name=7), 'is 7, not a string'),
  'image twice': (doubled('images'), "ids in 'images' are not unique: 1 (2 times)"),
  'object twice': (doubled('annotations'), "ids in 'annotations' are not unique"),
  'category twice': (doubled('categories'), "ids in 'categories' are not unique"),
  'unknown image': (changed('annotations', image_id=9), 'annotation 5 names 9'),
  'unknown category': (changed('annotations', category_id=9), 'annotation 5 names 9'),
  'no category': (without('annotations', 'category_id'), "has no 'category_id'"),
  'crowd as text': (changed('annotations', iscrowd='0'), "iscrowd: 5 ('0')"),
  'crowd of two': (changed('annotations', iscrowd=2), 'iscrowd: 5 (2)'),
  'crowd as list': (changed('annotations', iscrowd=[]), 'iscrowd: 5 ([])'),
  'other image': (changed('images', file_name='b.png'), '1 of 1 images'),
}


@pytest.mark.parametrize('command', ['train', 'check-data'])
@pytest.mark.parametrize('case', ANNOTATIONS)
def test_annotations(tmp_path, capsys, command, case):
  content, message = ANNOTATIONS[case]
  path = tmp_path / 'a.json'
  if not isinstance(content, bytes):
    content = json.dumps(content).encode()
  path.write_bytes(content)
  save_picture(tmp_path / 'a.png')
  line = refused(capsys, *data_arguments(command, tmp_path, path, tmp_path))
  assert message in line
  assert 'a.json' in line


def data_arguments(command, folder, annotations, images):
  if command == 'check-data':
    return ['check-data', *SMALL, f'--annotations={annotations}', f'--images={images}']
  return [
    'train',
    *SMALL,
    f'--workdir={folder}/run',
    '--no-distributed',
    '--compilation-cache=off',
    f'--config.data.train.annotations={annotations}',
    f'--config.data.train.images={images}',
  ]


# Annotations and images -> what the line says; a.json and images/a.png are good.
PLACES = {
  'nothing named': ('', 'images', 'annotations'),
  'no such JSON': ('no.json', 'images', 'cannot be read'),
  'folder for JSON': ('images', 'images', 'not a folder of records'),
  'no such folder': ('a.json', 'nowhere', 'does not exist'),
  'file for folder': ('a.json', 'a.json', 'does not exist'),
  'folder without it': ('a.json', 'empty', '1 of 1 images'),
  'in two folders': ('a.json', 'images,more', 'is in several folders'),
}


@pytest.mark.parametrize('command', ['train', 'check-data'])
@pytest.mark.parametrize('case', PLACES)
def test_places(tmp_path, capsys, monkeypatch, command, case):
  annotations, images, message = PLACES[case]
  monkeypatch.chdir(tmp_path)
  for folder in ('images', 'more', 'empty'):
    Path(folder).mkdir()
  for folder in ('images', 'more'):
    save_picture(Path(folder) / 'a.png')
  Path('a.json').write_text(json.dumps(good()))
  line = refused(capsys, *data_arguments(command, tmp_path, annotations, images))
  assert message in line


def write_png(folder, name):
  save_picture(folder / name)
  return (folder / name).read_bytes()


# File name -> its content, made from that of a good PNG.
FILES = {
  'empty.png': lambda png: b'',
  'text.jpg': lambda png: b'not an image at all',
  'cut.png': lambda png: png[: len(png) // 2],
  'header.png': lambda png: png[:20],
  'flipped.png': lambda png: png[:90] + bytes([png[90] ^ 255]) + png[91:],
  'page.jpg': lambda png: b'<!DOCTYPE html><html>404</html>',
  'script.png': lambda png: b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n',
  'other_size.png': lambda png: png,
  'turned.png': lambda png: png,
  'folder.png': None,
}

# What an annotation is instead of a good one.
OBJECTS = {
  'odd polygon': {'segmentation': [[1, 2, 30, 2, 30, 30, 1]]},
  'polygon of two points': {'segmentation': [[1, 2, 30, 30]]},
  'no polygon': {'segmentation': []},
  'empty polygon': {'segmentation': [[]]},
  'polygon of text': {'segmentation': [['1', 'x', '3', '4', '5', '6']]},
  'nested polygon': {'segmentation': [[[1, 2, 30, 2, 30, 30]]]},
  'polygon not finite': {'segmentation': [[1, 2, 30, float('nan'), 30, 30]]},
  'polygon far outside': {'segmentation': [[1, 2, 1e9, 2, 30, 30]]},
  'segmentation as text': {'segmentation': 'polygon'},
  'segmentation true': {'segmentation': True},
  'no segmentation': {'segmentation': None},
  'runs of another size': {'segmentation': {**RUNS, 'size': [96, 64]}},
  'runs without size': {'segmentation': {'counts': RUNS['counts']}},
  'runs without counts': {'segmentation': {'size': list(SIZE), 'counts': None}},
  'runs too short': {'segmentation': {'size': list(SIZE), 'counts': [5, 5]}},
  'runs negative': {'segmentation': {'size': list(SIZE), 'counts': [6200, -56]}},
  'runs of nothing': {'segmentation': {'size': list(SIZE), 'counts': [64 * 96]}},
  'runs huge': {'segmentation': {'size': list(SIZE), 'counts': [2**70]}},
  'runs cut': {'segmentation': {**RUNS, 'counts': RUNS['counts'][:-3]}},
  'runs of umlauts': {'segmentation': {**RUNS, 'counts': 'äöü'}},
  'no box': {'bbox': None},
  'box of three': {'bbox': [1, 2, 3]},
  'box as text': {'bbox': ['a', 'b', 'c', 'd']},
  'box infinite': {'bbox': [1, 2, float('inf'), 4]},
  'box without area': {'bbox': [30, 30, 0, 20]},
  'box of negative size': {'bbox': [30, 30, -5, 20]},
  'box outside': {'bbox': [200, 30, 20, 20]},
  'box far outside': {'bbox': [1e300, 30, 1e300, 20]},
  'box of a pixel': {'bbox': [30, 30, 1, 1]},
}
HARMLESS = {
  'area as text': {'area': 'big'},
  'area not finite': {'area': float('nan')},
  'no area': {'area': None},
}


@pytest.fixture(scope='module')
def report(tmp_path_factory):
  """Of one data set with all of FILES, OBJECTS and HARMLESS in it."""
  folder = tmp_path_factory.mktemp('bad')
  png = write_png(folder, 'good.png')
  images = [picture(1, 'good.png')]
  annotations = [annotation(1, 1, BOX, RUNS)]
  for number, (name, make) in enumerate(FILES.items(), start=2):
    if make is None:
      (folder / name).mkdir()
    else:
      (folder / name).write_bytes(make(png))
    size = {'other_size.png': (65, 96), 'turned.png': SIZE[::-1]}.get(name, SIZE)
    images.append(picture(number, name, size))
    mask = runs(disc(size, 30, 30, 20), compressed=True)
    annotations.append(annotation(number, number, BOX, mask))
  for number, changes in enumerate([*OBJECTS.values(), *HARMLESS.values()], start=100):
    annotations.append(annotation(number, 1, BOX, RUNS) | changes)
  content = {**good(), 'images': images, 'annotations': annotations}
  (folder / 'a.json').write_text(json.dumps(content))
  output = folder / 'out'
  arguments = data_arguments('check-data', folder, folder / 'a.json', folder)
  assert command_line.run([*arguments, f'--output={output}', '--quiet']) == 1
  return json.loads((output / 'report.json').read_text())


def items(report, kind):
  return [i for f in report['findings'] if f['kind'] == kind for i in f['items']]


@pytest.mark.parametrize('name', FILES)
def test_image_files_are_named(report, name):
  messages = [m for m in items(report, 'unreadable_file') if name in m]
  assert len(messages) == 1


@pytest.mark.parametrize('number', range(len(OBJECTS)), ids=list(OBJECTS))
def test_objects_are_named(report, number):
  assert items(report, 'left_out').count(100 + number) == 1


def test_nothing_else_is_left_out(report):
  assert len(items(report, 'left_out')) == len(OBJECTS)
  assert len(items(report, 'unreadable_file')) == len(FILES)
  facts = report['facts']['Objects']
  assert facts['annotations'] == 1 + len(FILES) + len(OBJECTS) + len(HARMLESS)
  assert facts['used for training'] == 1 + len(FILES) + len(HARMLESS)


def test_data_without_objects(tmp_path, capsys):
  (tmp_path / 'a.json').write_text(json.dumps(changed('annotations', iscrowd=1)))
  save_picture(tmp_path / 'a.png')
  arguments = data_arguments('check-data', tmp_path, tmp_path / 'a.json', tmp_path)
  assert command_line.run([*arguments, '--quiet']) == 1
  assert 'LOST  0 objects can be trained on' in capsys.readouterr().out


def edit_json(name, **changes):
  def edit(root):
    content = json.loads((root / name).read_text()) | changes
    (root / name).write_text(json.dumps(content))

  return edit


def shape(**changes):
  """labelme's file of image a with one changed shape."""
  square = [[4, 4], [20, 4], [20, 20]]
  entry = {'label': 'cat', 'points': square, 'shape_type': 'polygon', **changes}
  return edit_json('a.json', shapes=[entry])


def write(name, content):
  def edit(root):
    data = content if isinstance(content, bytes) else content.encode()
    (root / name).write_bytes(data)

  return edit


def remove(name):
  def edit(root):
    path = root / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()

  return edit


def save(name, array):
  return lambda root: Image.fromarray(array).save(root / name)


def copy(name, new):
  def edit(root):
    (root / new).parent.mkdir(exist_ok=True)
    shutil.copy(root / name, root / new)

  return edit


CITY_JSON = 'fine/town/a_000_gtFine_polygons.json'
CITY_IDS = 'fine/town/a_000_gtFine_instanceIds.png'
LARGE = np.zeros((41, 56), np.uint8)
POINTS = [[4, 4], [20, 4]]
# (format, what is done to a good data set of it, what the line says)
PREPARE = {
  'labelme: not JSON': ('labelme', write('a.json', '{'), 'a.json: not JSON'),
  'labelme: list': ('labelme', write('a.json', '[]'), 'object is needed, not a list'),
  'labelme: COCO': ('labelme', write('a.json', '{"images": []}'), "no list 'shapes'"),
  'labelme: no imagePath': (
    'labelme',
    edit_json('a.json', imagePath=None),
    "no 'imagePath'",
  ),
  'labelme: image gone': ('labelme', remove('a.png'), 'image a.png is not there'),
  'labelme: image elsewhere': (
    'labelme',
    edit_json('a.json', imagePath='../../a.png'),
    'lies outside of',
  ),
  'labelme: other size': (
    'labelme',
    edit_json('a.json', imageHeight=41),
    'its annotations say 56x41',
  ),
  'labelme: no label': ('labelme', shape(label=None), "there is no 'label'"),
  'labelme: two points': ('labelme', shape(points=POINTS), '2 points'),
  'labelme: no points': ('labelme', shape(points=None), 'unusable polygon'),
  'labelme: point not finite': (
    'labelme',
    shape(points=[*POINTS, [float('nan'), 1]]),
    'not finite',
  ),
  'labelme: point far outside': (
    'labelme',
    shape(points=[*POINTS, [1e9, 1]]),
    'far beyond',
  ),
  'labelme: circle of three points': (
    'labelme',
    shape(points=[*POINTS, [5, 5]], shape_type='circle'),
    'unusable circle (3 points; 2 are needed)',
  ),
  'labelme: mask of three points': (
    'labelme',
    shape(points=[*POINTS, [5, 5]], shape_type='mask'),
    'unusable mask (3 points; 2 are needed)',
  ),
  'labelme: unknown shape': ('labelme', shape(shape_type='spline'), "'spline'"),
  'labelme: mask not base64': (
    'labelme',
    shape(points=POINTS, shape_type='mask', mask='###'),
    'not base64',
  ),
  'labelme: no mask': (
    'labelme',
    shape(points=POINTS, shape_type='mask'),
    "unusable mask ('mask')",
  ),
  'labelme: two files': ('labelme', copy('a.json', 'z.json'), 'several label files'),
  'labelme: no files': (
    'labelme',
    lambda root: [path.unlink() for path in root.glob('*.json')],
    'no JSON file',
  ),
  'yolo: odd count': (
    'yolo',
    write('labels/a.txt', '0 .1 .1 .2 .2 .3 .3 .4'),
    'line 1',
  ),
  'yolo: box': ('yolo', write('labels/a.txt', '0 .5 .5 .2 .2'), 'a box, not a polygon'),
  'yolo: class alone': ('yolo', write('labels/a.txt', '0'), '0 coordinates'),
  'yolo: unknown class': (
    'yolo',
    write('labels/a.txt', '2 .1 .1 .2 .2 .3 .3'),
    'class 2; --names has 2',
  ),
  'yolo: class not a number': (
    'yolo',
    write('labels/a.txt', 'nan .1 .1 .2 .2 .3 .3'),
    'line 1: class nan; --names has 2',
  ),
  'yolo: class infinite': (
    'yolo',
    write('labels/a.txt', 'inf .1 .1 .2 .2 .3 .3'),
    'line 1: class inf; --names has 2',
  ),
  'yolo: class by name': (
    'yolo',
    write('labels/a.txt', '\ncat .1 .1 .2 .2 .3 .3'),
    'a.txt line 2',
  ),
  'yolo: pixels': (
    'yolo',
    write('labels/a.txt', '0 10 10 20 20 30 30'),
    'must be fractions',
  ),
  'yolo: not finite': ('yolo', write('labels/a.txt', '0 nan 0 1 1 0 1'), 'fractions'),
  'yolo: not text': ('yolo', write('labels/a.txt', b'\xff\xfe\x00'), 'a.txt'),
  'yolo: labels without image': ('yolo', remove('images/a.jpg'), 'have no image in'),
  'yolo: images alike': ('yolo', copy('images/a.jpg', 'images/a.png'), 'are alike'),
  'yolo: labels alike': (
    'yolo',
    copy('labels/a.txt', 'labels/old/a.txt'),
    'old/a.txt are alike',
  ),
  'yolo: image gone': (
    'yolo',
    lambda root: (root / 'images/d.jpg').symlink_to('nowhere'),
    'd.jpg: cannot be read',
  ),
  'yolo: image cut': (
    'yolo',
    lambda root: write('images/a.jpg', (root / 'images/a.jpg').read_bytes()[:200])(
      root
    ),
    'a.jpg: cannot be decoded',
  ),
  'yolo: names gone': ('yolo', remove('data.yaml'), '--names='),
  'yolo: names empty': ('yolo', write('data.yaml', 'nc: 2'), 'there must be `names`'),
  'yolo: names not YAML': ('yolo', write('data.yaml', 'names: [a'), '--names='),
  'yolo: names with a gap': (
    'yolo',
    write('data.yaml', 'names: {0: a, 2: b}'),
    'from 0',
  ),
  'yolo: names a text': ('yolo', write('data.yaml', 'names: ab'), 'must be `names`'),
  'yolo: names twice': ('yolo', write('data.yaml', 'names: [a, a]'), 'twice'),
  'yolo: no images': (
    'yolo',
    lambda root: [path.unlink() for path in (root / 'images').glob('*')],
    'no image in this folder',
  ),
  'ids: colour': (
    'instance-ids',
    save('labels/a.png', np.zeros((40, 56, 3), np.uint8)),
    '3 channels',
  ),
  'ids: other size': ('instance-ids', save('labels/a.png', LARGE), '56x41 pixels'),
  'ids: not PNG': ('instance-ids', write('labels/a.png', 'text'), 'cannot be read'),
  'ids: labels gone': ('instance-ids', remove('labels/a.png'), 'have no labels in'),
  'ids: labels alike': (
    'instance-ids',
    copy('labels/a.png', 'labels/old/a.png'),
    'old/a.png are alike',
  ),
  'ids: image gone': ('instance-ids', remove('images/a.jpg'), 'have no image in'),
  'masks: other size': (
    'mask-folders',
    save('labels/a/masks/0.png', LARGE),
    '56x41 pixels',
  ),
  'masks: not PNG': ('mask-folders', write('labels/a/masks/0.png', ''), '0.png'),
  'masks: folder gone': ('mask-folders', remove('labels/a'), 'have no labels in'),
  'masks: image gone': ('mask-folders', remove('images/a.png'), 'have no image in'),
  'city: no labels': (
    'cityscapes',
    lambda root: [path.unlink() for path in (root / 'fine/town').glob('*')],
    'no *_gtFine_instanceIds.png',
  ),
  'city: labels alike': (
    'cityscapes',
    copy(CITY_IDS, CITY_IDS.replace('town', 'village')),
    'a_000_gtFine_instanceIds.png are alike',
  ),
  'city: other size': ('cityscapes', save(CITY_IDS, LARGE), '56x41 pixels'),
  'city: image gone': (
    'cityscapes',
    remove('left/town/a_000_leftImg8bit.png'),
    'have no image in',
  ),
  'city: list': ('cityscapes polygons', write(CITY_JSON, '[]'), 'not a list'),
  'city: no objects': (
    'cityscapes polygons',
    write(CITY_JSON, '{"imgHeight": 40, "imgWidth": 56}'),
    'not the polygons of Cityscapes',
  ),
  'city: size of polygons': (
    'cityscapes polygons',
    edit_json(CITY_JSON, imgHeight=41),
    '56x41 pixels',
  ),
  'city: one point': (
    'cityscapes polygons',
    edit_json(CITY_JSON, objects=[{'label': 'car', 'polygon': [[1, 2]]}]),
    'has 1 points',
  ),
  'city: broken polygon': (
    'cityscapes polygons',
    edit_json(CITY_JSON, objects=[{'label': 'car', 'polygon': [1, 2]}]),
    'not the polygons of Cityscapes',
  ),
}


@pytest.mark.parametrize('case', PREPARE)
def test_prepare(tmp_path, capsys, case):
  name, spoil, message = PREPARE[case]
  arguments, _ = formats.FORMATS[name](tmp_path)
  spoil(tmp_path)
  output = tmp_path / 'out.json'
  line = refused(
    capsys, 'prepare', f'--from={name.split()[0]}', *arguments, f'--output={output}'
  )
  assert message in line
  assert not output.exists()


def test_prepare_names_empty_masks(tmp_path, capsys):
  arguments, _ = formats.write_mask_folders(tmp_path)
  save('labels/a/masks/0.png', np.zeros((40, 56), np.uint8))(tmp_path)
  status, output = formats.prepare(tmp_path, 'mask-folders', arguments)
  assert status == 1
  told = capsys.readouterr().out
  assert 'entries: 3 in, 2 out' in told
  assert '0.png: no pixel of the mask is on' in told
  assert len(json.loads(output.read_text())['annotations']) == 2


def test_prepare_takes_masks_of_any_kind_and_names_other_files(tmp_path, capsys):
  arguments, _ = formats.write_mask_folders(tmp_path)
  masks = tmp_path / 'labels' / 'a' / 'masks'
  (masks / '0.png').rename(masks / '0.PNG')
  with Image.open(masks / '1.png') as image:
    image.save(masks / '1.tif')
    image.convert('RGB').save(masks / '2.BMP')
    image.convert('RGB').save(masks / '3.jpg')
  (masks / '1.png').unlink()
  (masks / '.DS_Store').touch()
  status, output = formats.prepare(tmp_path, 'mask-folders', arguments)
  assert status == 1
  told = capsys.readouterr().out
  assert 'entries: 5 in, 4 out' in told
  assert '3.jpg: no mask by its suffix' in told
  assert len(json.loads(output.read_text())['annotations']) == 4


# Arguments of prepare, in a folder with file.txt, full/ and images/ -> the line.
PREPARE_ARGUMENTS = [
  (['--output=o'], '--from is missing'),
  (['--from=voc', '--output=o'], "invalid choice: 'voc'"),
  (['--from=yolo', '--labels=full', '--images=images'], '--output is missing'),
  (['--from=yolo', '--labels=full', '--images=images', '--output=o'], '--names'),
  (['--from=labelme', '--output=o'], '--labels is missing'),
  (['--from=labelme', '--labels=nowhere', '--output=o'], 'no such folder'),
  (['--from=labelme', '--labels=file.txt', '--output=o'], 'is a file, not a folder'),
  (['--from=instance-ids', '--labels=full', '--output=o'], '--images is missing'),
  (
    [
      *('--from=yolo', '--labels=full', '--images=images', '--names=file.txt'),
      '--output=gs://bucket/o',
    ],
    'is no file of a file system',
  ),
  (['--from=coco', '--images=images', '--output=o'], '--annotations is missing'),
  (['--from=coco', '--annotations=a.json', '--output=o'], '--images is missing'),
  (
    ['--from=coco', '--annotations=a.json', '--images=images', '--output=full'],
    'full exists',
  ),
  (
    ['--from=coco', '--annotations=file.txt', '--images=images', '--output=o'],
    'not JSON',
  ),
]


@pytest.mark.parametrize(('arguments', 'message'), PREPARE_ARGUMENTS)
def test_prepare_arguments(tmp_path, monkeypatch, capsys, arguments, message):
  monkeypatch.chdir(tmp_path)
  Path('file.txt').write_text('text')
  for folder in ('full', 'images'):
    Path(folder).mkdir()
    save_picture(Path(folder) / 'a.png')
  Path('a.json').write_text(json.dumps(good()))
  assert message in refused(capsys, 'prepare', *arguments)
  assert not Path('o').exists()
  assert not Path('gs:').exists()


def test_prepare_replaces_nothing(tmp_path, capsys):
  arguments, _ = formats.write_yolo(tmp_path)
  output = tmp_path / 'out.json'
  call = ['prepare', '--from=yolo', *arguments, f'--output={output}']
  output.write_text('mine')
  assert 'exists; remove it' in refused(capsys, *call)
  assert output.read_text() == 'mine'
  output.unlink()
  (tmp_path / 'out.json.partial').write_text('{"format": "labelme"}\n')
  assert 'is of another conversion' in refused(capsys, *call)
  other = ['prepare', '--from=yolo', *arguments, f'--output={tmp_path}/data.yaml/o']
  assert 'cannot be written' in refused(capsys, *other)


CHECKPOINTS = {
  'nothing in it': ({}, 'is not a checkpoint of this program'),
  'not JSON': ({'metadata/metadata.json': '{'}, 'is damaged'),
  'list': ({'metadata/metadata.json': '[1]'}, 'is damaged'),
  'other version': ({'metadata/metadata.json': '{"format_version": 99}'}, 'version 99'),
  'no config': ({'metadata/metadata.json': '{"format_version": 1}'}, "lacks 'config'"),
}


@pytest.mark.parametrize('command', ['info', 'eval', 'predict', 'export'])
@pytest.mark.parametrize('case', CHECKPOINTS)
def test_checkpoints(tmp_path, capsys, command, case):
  files, message = CHECKPOINTS[case]
  checkpoint = tmp_path / '4'
  checkpoint.mkdir()
  for name, content in files.items():
    (checkpoint / name).parent.mkdir()
    (checkpoint / name).write_text(content)
  save_picture(tmp_path / 'a.png')
  arguments = {
    'info': [str(checkpoint)],
    'eval': [f'--checkpoint={checkpoint}'],
    'predict': [
      f'--checkpoint={checkpoint}',
      f'--images={tmp_path}/a.png',
      f'--output={tmp_path}/o',
    ],
    'export': [f'--checkpoint={checkpoint}', f'--output={tmp_path}/o.pth'],
  }[command]
  assert message in refused(capsys, command, *arguments)
  assert not (tmp_path / 'o').exists()
