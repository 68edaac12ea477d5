"""Videos, frame by frame, through PyAV (the optional extra `video`)."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from embedmask_jax.errors import UserError

# The first that this build of FFmpeg has.
_ENCODERS = ('libx264', 'libopenh264', 'mpeg4')
# Times are written as multiples of this, in seconds; fine enough for any camera, and
# FFmpeg's mpeg4 takes no denominator above 65535.
_TIME_BASE = Fraction(1, 60_000)


class UnreadableVideoError(UserError):
  """A file that is no video, or is damaged."""


def load_av() -> Any:
  """PyAV.

  Raises:
    UserError: it is not installed.
  """
  try:
    import av
  except ImportError as error:
    raise UserError(
      "videos need the package PyAV: pip install 'embedmask-jax[video]'"
    ) from error
  return av


class VideoReader:
  """A video as a sequence of frames. Usable as a context manager.

  Attributes:
    num_frames: as the file says; 0 where it does not.
    rate: frames per second, on average.
    has_sound: whether there is sound, which is not read.
  """

  def __init__(self, path: Path):
    """Opens a video.

    Raises:
      UnreadableVideoError: this is no video that PyAV reads.
      UserError: PyAV is missing.
    """
    self._av = load_av()
    self._path = path
    try:
      self._container = self._av.open(str(path))
      self._stream = self._container.streams.video[0]
    except (self._av.FFmpegError, IndexError, OSError) as error:
      raise UnreadableVideoError(
        f'{path}: no video that can be read ({error})'
      ) from error
    self._stream.thread_type = 'AUTO'
    self.num_frames = int(self._stream.frames)
    self.rate = Fraction(self._stream.average_rate or 25)
    self.has_sound = bool(self._container.streams.audio)

  def frames(self) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (seconds from the start, uint8 [h, w, 3] RGB), upright.

    Raises:
      UnreadableVideoError: the video is damaged; frames before that have been yielded.
    """
    first = None
    number = 0
    try:
      for frame in self._container.decode(self._stream):
        time = number / float(self.rate) if frame.time is None else float(frame.time)
        first = time if first is None else first
        # Turned by quarters against the clock, as phones do.
        quarters = round(getattr(frame, 'rotation', 0) / 90) % 4
        pixels = np.rot90(frame.to_ndarray(format='rgb24'), quarters)
        yield time - first, np.ascontiguousarray(pixels)
        number += 1
    except self._av.FFmpegError as error:
      raise UnreadableVideoError(
        f'{self._path}: cannot be decoded after frame {number} ({error})'
      ) from error
    if not number:
      raise UnreadableVideoError(f'{self._path}: a video without frames')

  def __enter__(self) -> 'VideoReader':
    return self

  def __exit__(self, *_: object) -> None:
    self._container.close()


class VideoWriter:
  """Writes frames as an MP4. Usable as a context manager.

  The file appears under its name when it is complete; what a failure leaves behind
  is removed.
  """

  def __init__(self, path: Path, rate: Fraction):
    """Takes the file, and frames per second, for players that ask.

    Raises:
      UserError: PyAV is missing.
    """
    self._av = load_av()
    self._path = path
    self._beside = path.with_name(f'{path.stem}.{os.getpid()}.tmp.mp4')
    self._rate = rate
    self._container: Any = None
    self._stream: Any = None
    self._last = -1

  def write(self, seconds: float, pixels: np.ndarray) -> None:
    """Appends a frame.

    Args:
      seconds: from the start.
      pixels: uint8 [h, w, 3], RGB, of one size throughout. An odd side gets its last
        row or column twice, since the encoders take even ones only.

    Raises:
      UserError: the file cannot be written.
    """
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), 'edge')
    try:
      if self._container is None:
        self._open(pixels.shape[1], pixels.shape[0])
      frame = self._av.VideoFrame.from_ndarray(pixels, format='rgb24')
      # No two frames at one time, whatever the source says.
      self._last = max(round(seconds / _TIME_BASE), self._last + 1)
      frame.pts, frame.time_base = self._last, _TIME_BASE
      self._container.mux(self._stream.encode(frame))
    except (self._av.FFmpegError, OSError) as error:
      raise UserError(f'{self._path} cannot be written ({error})') from error

  def _open(self, width: int, height: int) -> None:
    self._container = self._av.open(str(self._beside), 'w')
    encoder = next(name for name in _ENCODERS if name in self._av.codecs_available)
    self._stream = self._container.add_stream(encoder, rate=self._rate)
    self._stream.width, self._stream.height = width, height
    self._stream.pix_fmt = 'yuv420p'
    self._stream.codec_context.time_base = _TIME_BASE

  def __enter__(self) -> 'VideoWriter':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if self._container is None:
      return
    try:
      with contextlib.closing(self._container):
        if kind is None:
          self._container.mux(self._stream.encode(None))
      if kind is None:
        os.replace(self._beside, self._path)
    except (self._av.FFmpegError, OSError) as error:
      # What went wrong before has the word.
      if kind is None:
        raise UserError(f'{self._path} cannot be written ({error})') from error
    finally:
      self._beside.unlink(missing_ok=True)
