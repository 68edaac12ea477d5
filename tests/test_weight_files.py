"""Weight files are read without running what is in them."""

import os
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from embedmask_jax.errors import UserError
from embedmask_jax.weights.files import read_weights, write_torch


@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize('wrap', [lambda d: d, lambda d: {'blobs': d}])
def test_pickles_of_arrays_are_read(tmp_path, protocol, wrap):
  arrays = {'conv1_w': np.arange(6, dtype=np.float32).reshape(2, 3)}
  path = tmp_path / 'R-50.pkl'
  content = {**arrays, 'weight_order': ['conv1_w'], 'lr': np.float64(0.1)}
  path.write_bytes(pickle.dumps(wrap(content), protocol=protocol))
  found = read_weights(path)
  assert found.keys() == arrays.keys()
  np.testing.assert_array_equal(found['conv1_w'], arrays['conv1_w'])


def test_pickle_of_python_2_is_read(tmp_path):
  # What Python 2.7 with NumPy 1.x writes for {'blobs': {'b': array([1., 2.], '<f4')}}
  # at protocol 2: byte strings for names and data, numpy.core for the module.
  content = (
    b'\x80\x02}q\x00U\x05blobsq\x01}q\x02U\x01bq\x03cnumpy.core.multiarray\n'
    b'_reconstruct\nq\x04cnumpy\nndarray\nq\x05K\x00\x85q\x06U\x01bq\x07\x87q\x08R'
    b'q\x09(K\x01K\x02\x85q\x0acnumpy\ndtype\nq\x0bU\x02f4q\x0cK\x00K\x01\x87q\x0d'
    b'Rq\x0e(K\x03U\x01<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x10b\x89'
    b'U\x08\x00\x00\x80?\x00\x00\x00@q\x11tq\x12bss.'
  )
  path = tmp_path / 'R-50.pkl'
  path.write_bytes(content)
  found = read_weights(path)
  np.testing.assert_array_equal(found['b'], np.array([1, 2], np.float32))


class Bomb:
  """Creates a file when unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_pickle_with_code_is_refused_and_not_run(tmp_path):
  path, trace = tmp_path / 'R-50.pkl', tmp_path / 'ran'
  path.write_bytes(pickle.dumps({'blobs': {'conv1_w': Bomb(trace)}}))
  with pytest.raises(UserError, match=r'R-50\.pkl: refused: .*mkdir'):
    read_weights(path)
  assert not trace.exists()


def test_torch_file_with_code_is_refused_and_not_run(tmp_path):
  torch = pytest.importorskip('torch')
  path, trace = tmp_path / 'model.pth', tmp_path / 'ran'
  torch.save({'model': {'w': torch.zeros(1), 'bomb': Bomb(trace)}}, path)
  with pytest.raises(UserError, match='refused'):
    read_weights(path)
  assert not trace.exists()


def test_what_is_written_is_read_again(tmp_path):
  pytest.importorskip('torch')
  path, arrays = tmp_path / 'a.pth', {'w': np.arange(6, dtype=np.float32)}
  write_torch(path, arrays)
  found = read_weights(path)
  assert found.keys() == arrays.keys()
  np.testing.assert_array_equal(found['w'], arrays['w'])


@pytest.mark.parametrize('name', ['a.pkl', 'a.pth'])
def test_broken_files_are_named(tmp_path, name):
  if name.endswith('pth'):
    pytest.importorskip('torch')
  path = tmp_path / name
  path.write_bytes(b'\x80\x02}q\x00X\x09\x00')
  with pytest.raises(UserError, match=f'{name}: not a readable'):
    read_weights(path)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'a.pkl').write_bytes(pickle.dumps({'w': np.ones(2)}))
  np.testing.assert_array_equal(read_weights('~/a.pkl')['w'], 1)


def test_other_files_are_refused(tmp_path):
  with pytest.raises(UserError, match='no such file'):
    read_weights(tmp_path / 'a.pkl')
  (tmp_path / 'a.txt').write_text('')
  with pytest.raises(UserError, match=r'must end in one of \.pth, \.pt, \.pkl'):
    read_weights(tmp_path / 'a.txt')
  (tmp_path / 'b.pkl').write_bytes(pickle.dumps({'model': {'a': 'text'}}))
  with pytest.raises(UserError, match='no tensors'):
    read_weights(tmp_path / 'b.pkl')


def test_where_it_cannot_be_written_nothing_is_left(tmp_path, monkeypatch):
  # PyTorch says 'disk full' by a RuntimeError.
  def save(_, file):
    if 'full.pth' in str(file.name):
      raise RuntimeError('[enforce fail]\nand a page more')

  torch = SimpleNamespace(from_numpy=np.asarray, save=save)
  monkeypatch.setitem(sys.modules, 'torch', torch)
  (tmp_path / 'a.pth').mkdir()
  for name in ('a.pth', 'full.pth'):
    with pytest.raises(UserError, match=rf'{name}: cannot be written .*\); [^\n]*$'):
      write_torch(tmp_path / name, {})
  assert [found.name for found in tmp_path.iterdir()] == ['a.pth']
