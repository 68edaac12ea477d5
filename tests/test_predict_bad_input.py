"""What users get wrong with predict and eval: one line, status 2, nothing lost."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image
from toy_checkpoint import save_toy_checkpoint

from embedmask_jax import command_line
from embedmask_jax.predict import files, predictor


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  return save_toy_checkpoint(tmp_path_factory.mktemp('run'))


@pytest.fixture
def place(tmp_path, monkeypatch, checkpoint):
  """A folder with images that are well and others that are not."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setattr(predictor, 'load_model', lambda *_: (None, {}))
  monkeypatch.setattr(predictor, 'make_inference', lambda *_: None)
  (tmp_path / 'run').symlink_to(checkpoint)
  (tmp_path / 'images').mkdir()
  image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
  image.save('images/good.png')
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'texts').mkdir()
  (tmp_path / 'texts' / 'a.txt').touch()
  (tmp_path / 'file').touch()
  (tmp_path / 'not.json').write_text('{')
  (tmp_path / 'clip.mp4').write_bytes(b'no video')
  return tmp_path


def one_line(capsys, arguments):
  assert command_line.run(arguments) == 2
  lines = capsys.readouterr().err.strip().splitlines()
  assert len(lines) == 1, lines
  return lines[0]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('', 'IMAGES is missing'),
    ('nowhere.png', 'error: nowhere.png: no such file or folder'),
    ('images --images=nowhere', 'error: nowhere: no such file or folder'),
    ('empty', 'no image in this folder'),
    ('texts', 'no image in this folder'),
    ('images/*.tif', 'no image has such a name'),
    ('images --score-threshold=2', '--score-threshold=2.0 is not a number 0 to 1'),
    ('images --score-threshold=nan', 'is not a number 0 to 1'),
    ('images --score-threshold=high', "invalid float value: 'high'"),
    ('images --class-threshold=0.5', '0.5 is not a class and a score'),
    ('images --class-threshold=a=x', 'a=x is not a class and a score'),
    ('images --class-threshold=cow=0.5', "no class 'cow'; the classes are a, b"),
    ('images --class-threshold=a=7', 'a is 7.0; must be 0 to 1'),
    ('images --max-detections=0', '--max-detections=0 is not a number 1 to 1000'),
    ('images --max-detections=1001', '--max-detections=1001 is not a number'),
    ('images --tile=10', 'tile is 10; must be 0, or 32'),
    ('images --tile=-5', 'tile is -5'),
    ('images --tile=64 --overlap=50', 'overlap is 50; must be 0 to 32'),
    ('images --overlap=9', 'overlap is 9, but there are no tiles'),
    ('images --save=svg', '--save=svg: there are overlay, label-map'),
    ('images --polygon-tolerance=-1', 'polygon_tolerance is -1.0'),
    ('images --polygon-tolerance=nan', 'polygon_tolerance is nan'),
    ('images --output=images', 'is the folder of the images'),
    ('images --output=~/images', 'is the folder of the images'),
    ('images --output=file/out', 'cannot be written'),
    ('images --output=gs://bucket/x', 'is no folder of a file system'),
    ('images --checkpoint=empty', 'holds no checkpoint'),
    ('images --checkpoint=nowhere', 'no such folder'),
    ('images --config.eval.max_detection=5', 'max_detection'),
    ('images --wrong', 'unrecognized arguments: --wrong'),
  ],
)
def test_predict(place, capsys, arguments, message):
  words = arguments.split()
  defaults = {'--output': 'out', '--checkpoint': 'run'}
  for option, value in defaults.items():
    if not any(word.startswith(option) for word in words):
      words.append(f'{option}={value}')
  assert message in one_line(capsys, ['predict', *words])
  # Nothing is left behind that looks like a result.
  assert not list(place.glob('**/predictions.json'))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'standard input lists no files'),
    (b'\n \n', 'standard input lists no files'),
    (b'images/good.png\ngone.png\n', "1 of 2 files are not there, such as 'gone.png'"),
    (b'x' * 300 + b'\n', "1 of 1 files are not there, such as 'xxx"),
    (b'\x89PNG\r\n\xff', 'standard input is not a list of files'),
  ],
)
def test_standard_input(place, capsys, monkeypatch, content, message):
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(content)))
  arguments = ['predict', '-', '--output=out', '--checkpoint=run']
  assert message in one_line(capsys, arguments)


def test_a_video_without_pyav(place, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, 'av', None)
  arguments = ['predict', 'images', 'clip.mp4', '--output=out', '--checkpoint=run']
  assert 'embedmask-jax[video]' in one_line(capsys, arguments)
  assert not (place / 'out').exists()


def test_unreadable_images_are_named_and_the_others_done(place, capsys, monkeypatch):
  noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
  Image.fromarray(noise).save(place / 'torn.png')
  whole = (place / 'torn.png').read_bytes()
  (place / 'images' / 'torn.png').write_bytes(whole[: len(whole) // 2])
  (place / 'images' / 'void.jpg').touch()
  (place / 'images' / 'text.gif').write_text('not an image')
  (place / 'images' / 'lost.png').symlink_to('nowhere.png')

  class Nothing:
    def __init__(self, *_, **__):
      self.max_detections = 3

    def prepare(self, image, key):
      row = {'image_size': np.asarray([image.shape[:2]])}
      tile = predictor.plan_tiles(image.shape, 0, 0)
      return predictor.PreparedImage(key, image, tile, [row], [])

    def detect(self, images):
      return (predictor.RawImage(image, []) for image in images)

    def finish(self, raw):
      none = np.zeros(0)
      return predictor.Prediction(
        none.reshape(0, 4), none, none, (), (), (), raw.prepared.image
      )

  monkeypatch.setattr(files, 'Predictor', Nothing)
  arguments = ['predict', 'images', '--output=out', '--checkpoint=run', '--save=coco']
  assert command_line.run(arguments) == 2
  said = capsys.readouterr().err
  assert '4 of 5 images could not be read' in said
  for name in ('torn.png', 'void.jpg', 'text.gif', 'lost.png'):
    assert name in said
  content = json.loads((place / 'out' / 'instances.json').read_text())
  # An image in which nothing is found is there all the same.
  assert [image['file_name'] for image in content['images']] == ['good.png']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ('', '--checkpoint is missing'),
    ('--checkpoint=nowhere', 'no such folder'),
    ('--checkpoint=empty', 'holds no checkpoint'),
    ('--checkpoint=run', 'nothing to evaluate: set config.data.eval.annotations'),
    ('--checkpoint=run --config.data.eval.annotations=gone.json', 'gone.json'),
    ('--checkpoint=run --config.data.eval.annotations=not.json', 'not.json'),
    ('--checkpoint=run --config.eval.batch_size=0', 'batch_size'),
    ('--checkpoint=run --config.eval.wrong=0', 'wrong'),
    ('--checkpoint=run --config=gone.py', '--config=gone.py: no such file'),
    ('run', 'unrecognized arguments: run'),
  ],
)
def test_eval(place, capsys, arguments, message):
  if 'annotations=' in arguments:
    arguments += ' --config.data.eval.images=images'
  assert message in one_line(capsys, ['eval', *arguments.split()])
