import json
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from embedmask_jax.data import scene_drawing, scene_shapes, scenes
from embedmask_jax.data.scenes import CLASS_NAMES, generate_scenes
from embedmask_jax.errors import UserError
from embedmask_jax.storage import default_folder


def load(paths):
  annotations, images = paths
  return json.loads(Path(annotations).read_text()), Path(images)


def scene(k, image_size=128):
  rng = np.random.default_rng([11, k])
  return scenes.make_scene(rng, image_size)


@pytest.fixture(scope='module')
def some_scenes():
  return [scene(k, 192) for k in range(60)]


def test_files_are_coco_json_whose_boxes_and_areas_are_those_of_the_masks(tmp_path):
  content, images = load(generate_scenes(tmp_path, num_images=6, image_size=96))
  assert [category['name'] for category in content['categories']] == list(CLASS_NAMES)
  assert len(CLASS_NAMES) >= 5
  assert [image['id'] for image in content['images']] == [1, 2, 3, 4, 5, 6]
  for image in content['images']:
    with Image.open(images / image['file_name']) as picture:
      assert picture.mode == 'RGB'
      assert picture.size == (image['width'], image['height']) == (96, 96)
  ids = [annotation['id'] for annotation in content['annotations']]
  assert ids == list(range(1, len(ids) + 1))
  for annotation in content['annotations']:
    assert isinstance(annotation['segmentation']['counts'], str)
    mask = rle.decode(annotation['segmentation']).astype(bool)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert annotation['bbox'] == [columns[0], rows[0], width, height]
    assert annotation['area'] == mask.sum() >= scenes.MIN_VISIBLE_AREA
    assert annotation['iscrowd'] == 0
    assert 1 <= annotation['category_id'] <= len(CLASS_NAMES)


def test_a_larger_data_set_begins_with_the_smaller_one(tmp_path):
  few, few_images = load(generate_scenes(tmp_path, num_images=2, image_size=64))
  more, more_images = load(generate_scenes(tmp_path, num_images=4, image_size=64))
  assert few_images != more_images
  for image in few['images']:
    name = image['file_name']
    assert (few_images / name).read_bytes() == (more_images / name).read_bytes()
  first = [entry for entry in more['annotations'] if entry['image_id'] <= 2]
  assert first == few['annotations']


def test_seed_decides(tmp_path):
  def first_image(folder, seed):
    paths = generate_scenes(tmp_path / folder, num_images=1, image_size=64, seed=seed)
    return (Path(paths[1]) / '000000.png').read_bytes()

  assert first_image('a', 0) == first_image('b', 0)
  assert first_image('a', 0) != first_image('a', 1)


def test_masks_are_what_the_painted_objects_show(monkeypatch):
  painted = []
  add_object = scene_drawing.add_object

  def record(picture, sprite, left, top, *rest):
    painted.append((sprite, left, top))
    add_object(picture, sprite, left, top, *rest)

  monkeypatch.setattr(scene_drawing, 'add_object', record)
  for k in range(12):
    painted.clear()
    drawn = scene(k)
    owner = np.full((128, 128), -1)
    for index, (sprite, left, top) in enumerate(painted):
      for row, column in np.argwhere(sprite.mask) + np.array([top, left]):
        if 0 <= row < 128 and 0 <= column < 128:
          owner[row, column] = index
    assert len(painted) == len(drawn.masks) == len(drawn.labels)
    for index, (sprite, _, _) in enumerate(painted):
      np.testing.assert_array_equal(drawn.masks[index], owner == index)
      visible = drawn.masks[index].sum()
      assert visible >= scenes.MIN_VISIBLE_AREA
      assert visible >= scenes.MIN_VISIBLE_SHARE * sprite.mask.sum()


def test_the_picture_changes_where_the_mask_is():
  shape = scene_shapes.SHAPES['star'](np.random.default_rng(0))
  sprite = scene_drawing.make_sprite(shape, 60.0, 0.4, False)
  picture = np.full((100, 100, 3), 0.5, np.float32)
  grey = np.full(3, 0.5, np.float32)
  rng = np.random.default_rng(1)
  scene_drawing.add_object(picture, sprite, 10, -20, (0.0, -1.0), rng, grey)
  side = sprite.mask.shape[0]
  touched = np.pad(sprite.coverage > 0, ((0, 120 - side), (10, 90 - side)))[20:]
  mask = np.pad(sprite.mask, ((0, 120 - side), (10, 90 - side)))[20:]
  # The shadow keeps the background grey; the object is coloured.
  is_coloured = np.ptp(picture, axis=-1) > 0.02
  assert not is_coloured[~touched].any()
  assert (is_coloured & mask).sum() > 0.97 * mask.sum() > 0


def test_sizes_classes_and_overlaps_vary(some_scenes):
  masks = [mask for drawn in some_scenes for mask in drawn.masks]
  sides = [max(np.ptp(np.argwhere(mask), axis=0)) + 1 for mask in masks]
  assert min(sides) < 18
  assert 0.4 * 192 < max(sides) < 0.6 * 192
  classes = Counter(label for drawn in some_scenes for label in drawn.labels)
  assert set(classes) == set(range(len(CLASS_NAMES)))
  assert max(classes.values()) < 2 * min(classes.values())
  counts = [len(drawn.masks) for drawn in some_scenes]
  assert 1 <= min(counts) < max(counts) <= scenes.MAX_OBJECTS
  assert np.mean(counts) > 3


def test_colours_do_not_tell_the_class(some_scenes):
  """Mean hues of the classes spread no more than those of shuffled labels would."""
  colours, labels = [], []
  for drawn in some_scenes:
    for mask, label in zip(drawn.masks, drawn.labels, strict=True):
      colours.append(drawn.image[mask].mean(axis=0))
      labels.append(label)
  labels = np.array(labels)
  colours = np.array(colours)

  def spread(labels):
    means = [colours[labels == label].mean(axis=0) for label in range(6)]
    return np.std(means, axis=0).mean()

  rng = np.random.default_rng(0)
  by_chance = [spread(rng.permutation(labels)) for _ in range(200)]
  assert spread(labels) < 1.7 * np.quantile(by_chance, 0.95)


@pytest.mark.parametrize('name', ['button', 'key', 'mug'])
def test_holes_show_what_lies_behind(name):
  shape = scene_shapes.SHAPES[name](np.random.default_rng(3))
  mask = scene_drawing.make_sprite(shape, 80.0, 1.0, True).mask
  outside = np.zeros_like(mask)
  outside[0] = outside[-1] = outside[:, 0] = outside[:, -1] = True
  for _ in range(mask.size):
    grown = outside.copy()
    grown[1:] |= outside[:-1]
    grown[:-1] |= outside[1:]
    grown[:, 1:] |= outside[:, :-1]
    grown[:, :-1] |= outside[:, 1:]
    grown &= ~mask
    if (grown == outside).all():
      break
    outside = grown
  assert (~mask & ~outside).sum() > 30


@pytest.mark.parametrize('name', CLASS_NAMES)
def test_shapes_fill_their_unit_frame(name):
  for seed in range(5):
    shape = scene_shapes.SHAPES[name](np.random.default_rng(seed))
    solid = np.concatenate([polygon for polygon, is_solid in shape.silhouette])
    low, high = solid.min(axis=0), solid.max(axis=0)
    np.testing.assert_allclose(low, -high, atol=1e-9)
    assert max(high - low) == pytest.approx(1)


def test_the_smallest_scene_has_an_object():
  for k in range(20):
    assert len(scene(k, scenes.MIN_IMAGE_SIZE).masks) >= 1


def test_found_again_without_drawing(tmp_path, monkeypatch):
  first = generate_scenes(tmp_path, num_images=1, image_size=64)
  monkeypatch.setattr(scenes, '_write', None)
  assert generate_scenes(tmp_path, num_images=1, image_size=64) == first


@pytest.mark.parametrize(
  'change',
  [{'seed': 1}, {'image_size': 65}],
)
def test_other_parameters_are_another_data_set(tmp_path, change):
  first = generate_scenes(tmp_path, num_images=1, **{'image_size': 64})
  other = generate_scenes(tmp_path, num_images=1, **{'image_size': 64, **change})
  assert first != other


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
  def interrupted(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(scenes.json, 'dumps', interrupted)
    patch.setattr(scenes, '_fingerprint', lambda _: 'hash')
    with pytest.raises(KeyboardInterrupt):
      generate_scenes(tmp_path, num_images=1, image_size=64)
  assert not list(tmp_path.iterdir())
  generate_scenes(tmp_path, num_images=1, image_size=64)


def test_concurrent_calls_give_one_whole_data_set(tmp_path, monkeypatch):
  both_are_drawing = threading.Barrier(2)
  write = scenes._write

  def together(*arguments):
    both_are_drawing.wait(timeout=30)
    write(*arguments)

  monkeypatch.setattr(scenes, '_write', together)
  found = []
  threads = [
    threading.Thread(
      target=lambda: found.append(
        generate_scenes(tmp_path, num_images=2, image_size=64)
      )
    )
    for _ in range(2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 2
  assert found[0] == found[1]
  assert [path.name for path in tmp_path.iterdir()] == [Path(found[0][0]).parent.name]
  assert len(load(found[0])[0]['images']) == 2


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'num_images': 0}, 'num_images 0'),
    ({'image_size': 32}, 'image_size 32'),
    ({'seed': -1}, 'seed -1'),
  ],
)
def test_values_out_of_range_are_named(tmp_path, arguments, message):
  with pytest.raises(UserError, match=message):
    generate_scenes(tmp_path, **{'num_images': 1, 'image_size': 64, **arguments})


def test_unwritable_folder_is_named_with_the_remedy(tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('')
  with pytest.raises(UserError, match=rf'{blocked}.*EMBEDMASK_CACHE'):
    generate_scenes(blocked / 'cache', num_images=1, image_size=64)


def test_default_folder_follows_the_environment(tmp_path, monkeypatch):
  monkeypatch.setenv('EMBEDMASK_CACHE', str(tmp_path))
  annotations, _ = generate_scenes(num_images=1, image_size=64)
  assert Path(annotations).is_relative_to(tmp_path)
  monkeypatch.delenv('EMBEDMASK_CACHE')
  monkeypatch.setenv('HOME', '/home/someone')
  assert default_folder() == Path('/home/someone/.cache/embedmask_jax')
