"""embedmask split: one COCO JSON becomes two."""

import json
from pathlib import Path

import pytest
from coco_files import annotation, save_json

from embedmask_jax import command_line
from embedmask_jax.data.coco_json import load_json
from embedmask_jax.errors import UserError
from embedmask_jax.prepare import split

BOX = [10.0, 5.0, 11.0, 12.0]
POLYGON = [[10.0, 5.0, 20.0, 5.0, 20.0, 16.0, 10.0, 16.0]]


def image(identity, name):
  return {'id': identity, 'file_name': name, 'height': 30, 'width': 40}


def make(folder, count=20):
  images = [image(i, f'{i}.png') for i in range(count)]
  # Two of each image, and of category 7 one crowd alone.
  entries = [annotation(i, i // 2, BOX, POLYGON) for i in range(2 * count)]
  entries.append(annotation(2 * count, 0, BOX, POLYGON, category_id=7, iscrowd=1))
  return save_json(folder / 'all.json', images, entries)


def run(folder, *arguments):
  call = ['split', f'--annotations={folder / "all.json"}', f'--output={folder}/out']
  return command_line.run([*call, *arguments])


def parts(folder):
  return [load_json(str(folder / 'out' / f'{name}.json')) for name in ('train', 'val')]


def test_images_with_their_annotations_are_in_one_of_two(tmp_path, capsys):
  whole = json.loads(Path(make(tmp_path)).read_text())
  assert run(tmp_path, '--fraction=0.2') == 0
  train, val = parts(tmp_path)
  assert (len(train['images']), len(val['images'])) == (16, 4)
  for part in ('images', 'annotations'):
    found = sorted([*train[part], *val[part]], key=lambda entry: entry['id'])
    assert found == whole[part]
  assert train['categories'] == val['categories'] == whole['categories']
  for content in (train, val):
    ids = {entry['id'] for entry in content['images']}
    assert {entry['image_id'] for entry in content['annotations']} == ids
  printed = capsys.readouterr().out
  assert f'{tmp_path}/out/val.json: 4 images, ' in printed
  # A crowd is no instance.
  assert printed.count('without an instance: dog\n') == 2


def test_the_same_seed_draws_the_same_whatever_the_order(tmp_path):
  drawn = []
  for number, (seed, is_turned) in enumerate([(0, False), (0, True), (1, False)]):
    folder = tmp_path / str(number)
    folder.mkdir()
    path = Path(make(folder))
    content = json.loads(path.read_text())
    if is_turned:
      content['images'].reverse()
    path.write_text(json.dumps({**content, 'info': {'year': 2026}}))
    assert run(folder, f'--seed={seed}', '--fraction=0.5') == 0
    train, val = parts(folder)
    assert train['info'] == val['info'] == {'year': 2026}
    drawn.append({entry['file_name'] for entry in val['images']})
  assert drawn[0] == drawn[1] != drawn[2]


def test_entries_of_one_file_stay_together_and_neither_part_is_empty(tmp_path):
  images = [image(i, 'a.png' if i < 9 else 'b.png') for i in range(10)]
  path = save_json(tmp_path / 'all.json', images, [])
  for fraction in (0.001, 0.999):
    train, val = split.split_coco(path, tmp_path / f'{fraction}', fraction=fraction)
    assert {train.num_images, val.num_images} == {1, 9}


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--fraction=0'], '--fraction=0.0 is not a number between 0 and 1'),
    (['--fraction=nan'], '--fraction=nan is not'),
    (['--fraction=10'], '--fraction=10.0 is not'),
    (['--annotations=none.json'], 'none.json: cannot be read'),
  ],
)
def test_mistakes_are_told(tmp_path, capsys, arguments, message):
  make(tmp_path)
  assert run(tmp_path, *arguments) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_one_image_cannot_be_split(tmp_path, capsys):
  make(tmp_path, count=1)
  assert run(tmp_path) == 2
  assert 'names one image file' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['train', 'val'])
def test_nothing_is_replaced(tmp_path, capsys, name):
  make(tmp_path)
  (tmp_path / 'out').mkdir()
  there = tmp_path / 'out' / f'{name}.json'
  there.write_text('mine')
  assert run(tmp_path) == 2
  assert f'{name}.json exists; remove it' in capsys.readouterr().err
  assert there.read_text() == 'mine'
  assert len(list((tmp_path / 'out').iterdir())) == 1


def test_both_are_written_or_none(tmp_path, monkeypatch):
  path = make(tmp_path)
  write = split.write_json

  def full(target, content):
    if target.name == 'val.json':
      raise UserError('no room')
    write(target, content)

  monkeypatch.setattr(split, 'write_json', full)
  with pytest.raises(UserError, match='no room'):
    split.split_coco(path, tmp_path / 'out')
  assert not list((tmp_path / 'out').iterdir())
