"""Results are written whole or not at all, and failures are told in words."""

import json
import os
from pathlib import Path

import pytest

from embedmask_jax.errors import UserError
from embedmask_jax.folders import local_file
from embedmask_jax.writing import (
  failures_told,
  replaced_file,
  replaced_folder,
  write_json,
)


def test_json_is_there_whole_or_as_it_was(tmp_path):
  path = tmp_path / 'a.json'
  write_json(path, {'a': [1, 2]}, indent=2)
  assert json.loads(path.read_text()) == {'a': [1, 2]}
  assert path.read_text().endswith('}\n')
  with pytest.raises(TypeError):
    write_json(path, {'a': object()})
  assert json.loads(path.read_text()) == {'a': [1, 2]}
  (tmp_path / 'folder.json').mkdir()
  with pytest.raises(UserError, match=r'folder\.json: cannot be written'):
    write_json(tmp_path / 'folder.json', [])
  assert sorted(path.name for path in tmp_path.iterdir()) == ['a.json', 'folder.json']


def test_what_was_begun_does_not_stay(tmp_path):
  def interrupted(file):
    file.touch()
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt), replaced_file(tmp_path / 'a') as beside:
    interrupted(beside)
  with pytest.raises(KeyboardInterrupt), replaced_folder(tmp_path / 'b') as beside:
    interrupted(beside / 'file')
  assert not list(tmp_path.iterdir())


def test_a_folder_that_another_was_faster_with_is_kept_or_an_error(tmp_path):
  path = tmp_path / 'new' / 'folder'

  def fill(name, **options):
    with replaced_folder(path, **options) as beside:
      (beside / name).touch()

  fill('first')
  fill('second', others_will_do=True)
  with pytest.raises(OSError, match='not empty'):
    fill('third')
  assert [found.name for found in path.iterdir()] == ['first']
  assert list(path.parent.iterdir()) == [path]
  # As others see it who share the place.
  assert path.stat().st_mode & 0o777 == 0o755


def test_links_are_followed_and_devices_are_written(tmp_path):
  (tmp_path / 'latest.json').symlink_to(tmp_path / 'a.json')
  write_json(tmp_path / 'latest.json', [1])
  assert (tmp_path / 'latest.json').is_symlink()
  assert (tmp_path / 'a.json').read_text() == '[1]\n'
  write_json(Path(os.devnull), [1])
  assert not Path(os.devnull).is_file()


def test_only_failed_writes_are_told_in_words(tmp_path):
  with (
    pytest.raises(UserError, match=r'x: cannot be written \(No space left\); make'),
    failures_told(tmp_path / 'x'),
  ):
    raise OSError(28, 'No space left')
  with pytest.raises(KeyError), failures_told(tmp_path / 'x'):
    raise KeyError('x')
  with pytest.raises(UserError, match='403'), failures_told('gs://bucket/x'):
    raise RuntimeError('403')
  with pytest.raises(UserError, match='^as it was$'), failures_told(tmp_path / 'x'):
    raise UserError('as it was')


def test_the_folder_of_a_file_is_made_and_home_is_known(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  found = local_file('~/new/x.npz', '--output')
  assert found == tmp_path / 'new' / 'x.npz'
  assert found.parent.is_dir()
  for path in ('gs://bucket/x.npz', 'gs://x.npz'):
    with pytest.raises(UserError, match=f'--output={path} is no file'):
      local_file(path, '--output')


def test_a_relative_file_lies_where_the_command_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert local_file(Path('x.npz'), '--output') == tmp_path / 'x.npz'
