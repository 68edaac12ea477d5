"""Prediction around the network: order, names, and files that cannot be read."""

import io
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from configs import base
from embedmask_jax.checkpoint import Metadata, StoredCheckpoint
from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.errors import UserError
from embedmask_jax.image_files import find_images, output_names
from embedmask_jax.predict import Predictor, predict_files
from embedmask_jax.predict import predictor as predict_module
from embedmask_jax.predict.video import (
  UnreadableVideoError,
  VideoReader,
  VideoWriter,
)
from embedmask_jax.structures import Detections


@pytest.fixture
def config():
  config = base.get_config()
  config.data.eval_short_side = 64
  config.data.long_side = 128
  config.eval.batch_size = 2
  config.eval.max_detections = 3
  config.eval.output_ladder = ((64, 64), (128, 128))
  return config


@pytest.fixture
def stored(config, tmp_path):
  metadata = Metadata(config, (3, 8), ('box', 'bar'))
  return StoredCheckpoint(tmp_path / 'run' / 'checkpoints' / '5', 5, metadata, {})


@pytest.fixture(autouse=True)
def network(monkeypatch):
  """Finds in every image its left half (class 1) and, less surely, its top left pixel.

  The score of the half is the mean of the image, so that images can be told apart.
  """

  def make_inference(model, settings, mesh):
    count = settings.max_detections

    def inference(variables, batch, canvas):
      rows = len(batch.image_index)
      boxes = np.zeros((rows, count, 4), np.float32)
      labels = np.zeros((rows, count), np.int32)
      scores = np.zeros((rows, count), np.float32)
      masks = np.zeros((rows, count, *canvas), bool)
      for row in np.flatnonzero(batch.example_valid):
        height, width = batch.original_size[row]
        seen_height, seen_width = batch.image_size[row]
        boxes[row, 0] = 0, 0, width // 2 - 1, height - 1
        labels[row, 0] = 1
        scores[row, 0] = batch.images[row, :seen_height, :seen_width].mean() / 255
        masks[row, 0, :height, : width // 2] = True
        scores[row, 1] = 0.01
        masks[row, 1, 0, 0] = True
      valid = scores > 0
      return Detections(
        boxes=boxes,
        network_boxes=boxes,
        scores=scores,
        labels=labels,
        valid=valid,
        location=labels,
        masks=np.packbits(masks, axis=-1),
        num_candidates=valid.sum(axis=1),
        num_kept=np.full(rows, 3),
      )

    return inference

  monkeypatch.setattr(predict_module, 'make_inference', make_inference)
  monkeypatch.setattr(predict_module, 'load_model', lambda *_: (None, {}))


def grey(height, width, value):
  return np.full((height, width, 3), value, np.uint8)


def save(path: Path, value: int, size=(40, 60)) -> Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(grey(*size, value)).save(path)
  return path


def test_predictions_come_in_the_order_of_the_images(stored, config, tmp_path):
  sizes = [(40, 60), (60, 40), (50, 50), (100, 30), (40, 60)]
  images = [grey(*size, 100 + 10 * i) for i, size in enumerate(sizes)]
  mixed = [images[0], save(tmp_path / '1.png', 110, sizes[1]), *images[2:4]]
  mixed.append(str(save(tmp_path / '4.png', 140, sizes[4])))
  predictions = Predictor(stored, config)(mixed)
  for i, (height, width) in enumerate(sizes):
    found = predictions[i]
    assert found.scores == pytest.approx([(100 + 10 * i) / 255])
    assert found.labels.tolist() == [1]
    assert found.class_names == ('bar',)
    assert found.category_ids == (8,)
    assert found.masks.shape == (1, height, width)
    assert found.masks.dtype == bool
    assert found.masks[0, :, : width // 2].all()
    assert not found.masks[0, :, width // 2 :].any()
    np.testing.assert_array_equal(found.boxes, [[0, 0, width // 2 - 1, height - 1]])
  assert Predictor(stored, config)([]) == []


def test_threshold_and_cap(stored, config):
  image = grey(40, 60, 128)
  for threshold, expected in ((0.0, 2), (0.3, 1), (0.6, 0)):
    [found] = Predictor(stored, config, score_threshold=threshold)([image])
    assert len(found.scores) == len(found.masks) == len(found.class_names) == expected
  with pytest.raises(UserError, match=r'score_threshold is 1\.5'):
    Predictor(stored, config, score_threshold=1.5)
  with pytest.raises(UserError, match='max_detections is 0'):
    Predictor(stored, config, max_detections=0)


@pytest.mark.parametrize(
  'image',
  [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_arrays_that_are_no_images_are_told(stored, config, image):
  with pytest.raises(UserError, match='image 1 is .*must be uint8'):
    Predictor(stored, config)([grey(4, 4, 0), image])


def run(stored, config, images, output, score_threshold=0.3, **options):
  return predict_files(
    stored,
    config,
    images=[str(images)],
    output=str(output),
    score_threshold=score_threshold,
    **options,
  )


def test_a_folder_becomes_overlays_and_coco_results(stored, config, tmp_path, caplog):
  caplog.set_level('INFO')
  folder = tmp_path / 'in'
  for number in range(20):
    save(folder / f'{number:02d}.png', 100 + number)
  (folder / 'broken.jpg').write_bytes(b'nothing')
  (folder / 'notes.txt').write_text('x')
  assert run(stored, config, folder, tmp_path / 'out') == ['broken.jpg']
  overlays = sorted(path.name for path in (tmp_path / 'out').glob('*.png'))
  assert overlays == [f'{number:02d}.png' for number in range(20)]
  results = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [entry['file_name'] for entry in results] == overlays
  assert [entry['image_id'] for entry in results] == list(range(1, 21))
  assert results[3]['score'] == pytest.approx(103 / 255)
  assert results[3]['category_id'] == 8
  assert results[3]['category_name'] == 'bar'
  assert results[3]['bbox'] == [0, 0, 30, 40]
  assert rle.area(results[3]['segmentation']) == 30 * 40
  assert '1 of 21 images could not be read' in caplog.text
  assert 'broken.jpg' in caplog.text
  assert '1 files are no images by their suffix: notes.txt' in caplog.text


def test_turned_images_whose_size_hides_it_are_not_in_the_data_set(
  stored, config, tmp_path, caplog
):
  caplog.set_level('INFO')
  images, output = tmp_path / 'in', tmp_path / 'out'
  for name, orientation, size in (
    ('flipped', 3, (40, 60)),
    ('plain', 1, (40, 60)),
    ('square', 6, (50, 50)),
    ('turned', 6, (40, 60)),
  ):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(images / f'{name}.png', 200, size)
    with Image.open(path) as image:
      image.save(path, exif=exif)
  said = 'EXIF without another size: flipped.png, square.png'
  run(stored, config, images, output)
  assert said in caplog.text
  assert 'instances.json' not in caplog.text
  caplog.clear()
  run(stored, config, images, output, save=('coco',))
  assert said in caplog.text
  assert '2 images are not in instances.json' in caplog.text
  # What is written is read in the frame that the masks are in.
  source = CocoSource(output / 'instances.json', images)
  assert source.file_names == ('plain.png', 'turned.png')
  assert [source[i].boxes.tolist() for i in (0, 1)] == [
    [[0, 0, 29, 39]],
    [[0, 0, 19, 59]],
  ]
  results = json.loads((output / 'predictions.json').read_text())
  assert [entry['image_id'] for entry in results] == [1, 2, 3, 4]


def test_a_single_file(stored, config, tmp_path):
  path = save(tmp_path / 'in' / 'one.jpg', 200)
  assert run(stored, config, path, tmp_path / 'out') == []
  assert (tmp_path / 'out' / 'one.png').exists()


def test_equal_stems_get_overlays_of_their_own(stored, config, tmp_path):
  folder = tmp_path / 'in'
  for name in ('a.png', 'a.jpg', 'b.png'):
    save(folder / name, 200)
  run(stored, config, folder, tmp_path / 'out')
  names = sorted(path.name for path in (tmp_path / 'out').glob('*.png'))
  assert names == ['a.jpg.png', 'a.png.png', 'b.png']


def test_no_two_overlays_share_a_name():
  names = ['a.png', 'a.jpg', 'A.tif', 'a.jpg.bmp', 'b.png', 'a.jpg.png']
  overlays = output_names([Path('in', name) for name in names])
  assert len(overlays) == len(names)
  assert len({overlay.lower() for overlay in overlays.values()}) == len(names)
  assert overlays[Path('in/b.png')] == 'b'


def test_the_cap_is_told(stored, config, tmp_path, caplog):
  config.eval.max_detections = 2
  save(tmp_path / 'in' / 'x.png', 200)
  run(stored, config, tmp_path / 'in', tmp_path / 'out', score_threshold=0.0)
  assert 'the cap of 2 detections is reached in 1 images (x.png)' in caplog.text


def test_mistakes_are_told(stored, config, tmp_path):
  folder = tmp_path / 'in'
  save(folder / 'x.png', 200)
  with pytest.raises(UserError, match='no such file or folder'):
    run(stored, config, tmp_path / 'nowhere', tmp_path / 'out')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='no image in this folder'):
    run(stored, config, tmp_path / 'empty', tmp_path / 'out')
  with pytest.raises(UserError, match='is the folder of the images'):
    run(stored, config, folder, folder)
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='cannot be written'):
    run(stored, config, folder, tmp_path / 'file' / 'out')


def test_thresholds_of_single_classes(stored, config):
  image = grey(40, 60, 128)
  # The network finds a bar at 0.5 and a box at 0.01.
  for thresholds, expected in (
    ({'bar': 0.6}, []),
    ({'box': 0.0}, ['bar', 'box']),
    ({'bar': 0.6, 'box': 0.005}, ['box']),
  ):
    predictor = Predictor(stored, config, class_thresholds=thresholds)
    [found] = predictor(image)
    assert list(found.class_names) == expected
  with pytest.raises(UserError, match="no class 'bra'; the classes are box, bar"):
    Predictor(stored, config, class_thresholds={'bra': 0.1})


def test_tiles_of_a_large_image_are_put_together(stored, config):
  [found] = Predictor(stored, config, tile=64, overlap=16)([grey(64, 150, 128)])
  # The network finds the left half of everything: of each of three tiles.
  assert len(found) == 3
  assert sorted(window.left for window in found.windows) == [0, 43, 86]
  for wrong in ({'tile': 20}, {'tile': 64, 'overlap': 40}, {'tile': -1}):
    with pytest.raises(UserError, match='tile is|overlap is'):
      Predictor(stored, config, **wrong)


@pytest.mark.parametrize('threads', [0, 2])
def test_everything_at_once_or_in_turn_gives_the_same(
  stored, config, tmp_path, threads
):
  for number in range(7):
    save(tmp_path / 'in' / f'{number}.png', 90 + number, (40 + 20 * (number % 3), 60))
  run(stored, config, tmp_path / 'in', tmp_path / 'out', threads=threads)
  results = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [entry['image_id'] for entry in results] == list(range(1, 8))
  assert [round(entry['score'] * 255) for entry in results] == list(range(90, 97))


def test_a_video_becomes_a_video(stored, config, tmp_path):
  pytest.importorskip('av')
  with VideoWriter(tmp_path / 'in.mp4', Fraction(5)) as writer:
    for number in range(5):
      writer.write(number / 5, grey(40, 60, 100 + 20 * number))
  (tmp_path / 'bad.mp4').write_bytes(b'nothing')
  image = save(tmp_path / 'a.png', 90)
  unreadable = predict_files(
    stored,
    config,
    images=[str(tmp_path / 'bad.mp4'), str(tmp_path / 'in.mp4'), str(image)],
    output=str(tmp_path / 'out'),
  )
  assert unreadable == ['bad.mp4']
  with VideoReader(tmp_path / 'out' / 'in.mp4') as reader:
    assert len(list(reader.frames())) == 5
  assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
    'a.png',
    'in.mp4',
    'predictions.json',
  ]
  results = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [entry.get('frame') for entry in results] == [0, 1, 2, 3, 4, None]
  # The file that cannot be read has a number, too.
  assert [entry['image_id'] for entry in results] == [2, 3, 4, 5, 6, 7]
  assert results[1]['seconds'] == pytest.approx(0.2)


@pytest.mark.parametrize('count', [3, 20])
def test_all_frames_before_a_damaged_one_are_kept(
  stored, config, tmp_path, monkeypatch, count
):
  pytest.importorskip('av')
  with VideoWriter(tmp_path / 'in.mp4', Fraction(5)) as writer:
    for number in range(count + 1):
      writer.write(number / 5, grey(40, 60, 100))
  frames = VideoReader.frames

  def damaged(self):
    for number, found in enumerate(frames(self)):
      if number == count:
        raise UnreadableVideoError(f'in.mp4: cannot be decoded after frame {count}')
      yield found

  monkeypatch.setattr(VideoReader, 'frames', damaged)
  unreadable = run(stored, config, tmp_path / 'in.mp4', tmp_path / 'out')
  assert unreadable == ['in.mp4']
  monkeypatch.setattr(VideoReader, 'frames', frames)
  with VideoReader(tmp_path / 'out' / 'in.mp4') as reader:
    assert len(list(reader.frames())) == count
  results = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [entry['frame'] for entry in results] == list(range(count))


def test_images_of_rare_sizes_do_not_wait_for_the_end(stored, config, monkeypatch):
  monkeypatch.setattr(predict_module, '_MOST_WAITING', 0)
  config.eval.batch_size = 4
  predictor = Predictor(stored, config)
  sizes = [(60, 30), (100, 30), *[(30, 60)] * 60]
  asked = []

  def images():
    for number, size in enumerate(sizes):
      asked.append(number)
      yield predictor.prepare(grey(*size, 100), number)

  for raw in predictor.detect(images()):
    if raw.prepared.key == 0:
      break
  assert len(asked) < 40


def test_a_second_run_leaves_no_instances_of_the_first(stored, config, tmp_path):
  image = save(tmp_path / 'a.png', 200)
  output, kinds = tmp_path / 'out', ('instances', 'crops')
  run(stored, config, image, output, 0.0, save=kinds)
  folders = [output / kind / 'a' for kind in kinds]
  for folder in folders:
    assert len(list(folder.iterdir())) == 2
    (folder / 'mine.png').touch()
  run(stored, config, image, output, 0.5, save=kinds)
  for folder in folders:
    assert {path.name for path in folder.iterdir()} == {'001-bar.png', 'mine.png'}


def test_an_interrupted_run_leaves_no_results_of_the_one_before(
  stored, config, tmp_path, monkeypatch
):
  images, output = tmp_path / 'in', tmp_path / 'out'
  for number in range(3):
    save(images / f'{number}.png', 200)
  results = [output / name for name in ('predictions.json', 'instances.json')]
  run(stored, config, images, output, save=('overlay', 'coco'))
  # What is not asked for may be of somebody else.
  with pytest.raises(UserError, match='score_threshold'):
    run(stored, config, images, output, 7.0)
  run(stored, config, images, output)
  assert all(path.is_file() for path in results)

  def interrupted(self, raw):
    raise KeyboardInterrupt

  monkeypatch.setattr(Predictor, 'finish', interrupted)
  with pytest.raises(KeyboardInterrupt):
    run(stored, config, images, output, save=('overlay', 'coco'))
  assert not any(path.exists() for path in results)
  assert (output / '0.png').is_file()


def test_files_are_found_by_name_folder_pattern_and_list(tmp_path, monkeypatch, caplog):
  caplog.set_level('INFO')
  for name in ('b/2.png', 'b/1.jpg', 'b/c/3.png', 'b/notes.txt', 'x.mp4'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  (tmp_path / 'b' / 'c' / '4.png').symlink_to('nowhere')
  (tmp_path / 'b' / '5.png').mkdir()
  monkeypatch.chdir(tmp_path)

  def names(*arguments):
    return [str(path) for path in find_images(arguments)]

  assert names('b') == ['b/1.jpg', 'b/2.png']
  (tmp_path / '~tmp.png').touch()
  assert names('~tmp.png') == ['~tmp.png']
  assert names('x.mp4', 'b/2.png', 'b') == ['x.mp4', 'b/2.png', 'b/1.jpg']
  assert '1 files are named more than once' in caplog.text
  # A link to nowhere is named when it is read.
  assert names('b/**/*.png') == ['b/2.png', 'b/c/3.png', 'b/c/4.png']
  for content in (
    b'b/2.png\nb/1.jpg\n',
    b'b/2.png\0b/1.jpg\0',
    b'\xef\xbb\xbfb/2.png\r\nb/1.jpg',
  ):
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(content)))
    assert names('-') == ['b/2.png', 'b/1.jpg']


def test_images_are_found_by_suffix_in_the_order_of_their_names(tmp_path):
  for name in ('b.PNG', 'a.jpeg', 'c.tiff', '._a.jpeg'):
    (tmp_path / name).touch()
  assert [p.name for p in find_images([tmp_path])] == ['a.jpeg', 'b.PNG', 'c.tiff']
