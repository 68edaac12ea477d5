"""Videos come back with the same frames at the same times."""

import sys
from fractions import Fraction

import numpy as np
import pytest

from embedmask_jax.errors import UserError
from embedmask_jax.predict import video
from embedmask_jax.predict.video import (
  UnreadableVideoError,
  VideoReader,
  VideoWriter,
  load_av,
)

TIMES = (0.0, 0.1, 0.2, 0.5, 0.6)


def frame(number, size=(48, 65)):
  return np.full((*size, 3), 40 * number, np.uint8)


def write(path, times=TIMES):
  with VideoWriter(path, Fraction(10)) as writer:
    for number, seconds in enumerate(times):
      writer.write(seconds, frame(number))


def test_frames_and_their_times_survive(tmp_path):
  pytest.importorskip('av')
  write(tmp_path / 'clip.mp4')
  assert [path.name for path in tmp_path.iterdir()] == ['clip.mp4']
  with VideoReader(tmp_path / 'clip.mp4') as reader:
    assert not reader.has_sound
    frames = list(reader.frames())
  assert [seconds for seconds, _ in frames] == pytest.approx(TIMES, abs=1e-3)
  for number, (_, pixels) in enumerate(frames):
    # An odd side is made even.
    assert pixels.shape == (48, 66, 3)
    assert abs(pixels.astype(int) - 40 * number).max() < 12


@pytest.mark.parametrize('encoder', video._ENCODERS)
def test_every_encoder_takes_frames_and_their_times(tmp_path, monkeypatch, encoder):
  av = pytest.importorskip('av')
  if encoder not in av.codecs_available:
    pytest.skip(f'this FFmpeg has no {encoder}')
  monkeypatch.setattr(video, '_ENCODERS', (encoder,))
  write(tmp_path / 'clip.mp4')
  with VideoReader(tmp_path / 'clip.mp4') as reader:
    times = [seconds for seconds, _ in reader.frames()]
  assert times == pytest.approx(TIMES, abs=1e-3)


def test_a_damaged_video_gives_what_comes_before(tmp_path):
  pytest.importorskip('av')
  path = tmp_path / 'clip.mp4'
  path.write_bytes(b'no video at all')
  with pytest.raises(UnreadableVideoError, match='no video that can be read'):
    VideoReader(path)


def fail(path, error):
  with VideoWriter(path, Fraction(10)) as writer:
    writer.write(0.0, frame(1))
    raise error


def test_a_failure_leaves_no_half_video(tmp_path):
  pytest.importorskip('av')
  with pytest.raises(ValueError, match='stop'):
    fail(tmp_path / 'a.mp4', ValueError('stop'))
  assert not list(tmp_path.iterdir())


def test_a_video_that_cannot_be_finished_is_told(tmp_path):
  pytest.importorskip('av')
  (tmp_path / 'a.mp4').mkdir()
  with pytest.raises(UserError, match=r'a\.mp4 cannot be written'):
    write(tmp_path / 'a.mp4')
  assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


def test_without_pyav_the_remedy_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.raises(UserError, match=r'embedmask-jax\[video\]'):
    load_av()
