"""What a run of the command has seen, for its files and its last words."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import logging

from embedmask_jax.errors import shorten
from embedmask_jax.predict.prediction import Prediction


class _Entry(NamedTuple):
  size: tuple[int, int]
  results: list[dict]


class Summary:
  """Collects the results of images and frames, from any thread.

  Attributes:
    unreadable: file -> what is wrong with it.
  """

  def __init__(self, paths: Sequence[Path], *, max_detections: int):
    """Takes the files in their order, and the cap that messages name."""
    times = Counter(path.name for path in paths)
    self._names = {
      path: path.name if times[path.name] == 1 else str(path) for path in paths
    }
    self._max_detections = max_detections
    self._entries: dict[Path, dict[int, _Entry]] = {path: {} for path in paths}
    self._capped: dict[str, None] = {}
    self._small: dict[str, float] = {}
    self._turned: set[Path] = set()
    self.unreadable: dict[Path, str] = {}

  def add(
    self, path: Path, prediction: Prediction, *, frame: int = 0, seconds: float = -1.0
  ) -> None:
    """Counts an image; or a frame of a video, with its place and time."""
    results = prediction.to_coco(file_name=self._names[path])
    if seconds >= 0:
      results = [{**entry, 'frame': frame, 'seconds': seconds} for entry in results]
    self._entries[path][frame] = _Entry(prediction.size, results)
    if prediction.num_cut_off:
      self._capped[path.name] = None

  def add_shrunk(self, path: Path, scale: float) -> None:
    """Notes that the network sees an image at a small part of its size."""
    self._small[path.name] = scale

  def add_turned(self, path: Path) -> None:
    """Notes an image that EXIF turns without another size."""
    self._turned.add(path)

  def add_unreadable(self, path: Path, message: str) -> None:
    """Notes a file that could not be read, or not to its end."""
    self.unreadable[path] = message

  def images(self) -> list[dict]:
    """COCO's id, file_name, height and width of every image and frame.

    Without those of `add_turned`: masks are of the pixels as shown, and what reads a
    data set takes the pixels as stored where the size is the same.
    """
    return [
      {
        'id': number,
        'file_name': self._names[path],
        'height': entry.size[0],
        'width': entry.size[1],
      }
      for number, path, entry in self._numbered()
      if path not in self._turned
    ]

  def results(self) -> list[dict]:
    """COCO results of all images, in the order of the files."""
    return [
      {**result, 'image_id': number}
      for number, _, entry in self._numbered()
      for result in entry.results
    ]

  def _numbered(self) -> list[tuple[int, Path, _Entry]]:
    """(image id, file, entry): files that could not be read have a number, too."""
    numbered = []
    number = 0
    for path, entries in self._entries.items():
      for frame in sorted(entries):
        number += 1
        numbered.append((number, path, entries[frame]))
      number += not entries
    return numbered

  def report(self, folder: Path, *, seconds: float, has_data_set: bool) -> None:
    """Says what was done, and all that was lost or may have been.

    Args:
      folder: where it was written.
      seconds: that it took.
      has_data_set: whether instances.json was written.
    """
    entries = [entry for _, _, entry in self._numbered()]
    logging.info(
      '%d instances in %d images, %.1f images/s: see %s',
      sum(len(entry.results) for entry in entries),
      len(entries),
      len(entries) / max(seconds, 1e-9),
      folder,
    )
    if self._capped:
      logging.warning(
        'the cap of %d detections is reached in %d images (%s); raise '
        '--max-detections (config.eval.max_detections)',
        self._max_detections,
        len(self._capped),
        shorten(list(self._capped)),
      )
    if self._small:
      name, scale = min(self._small.items(), key=lambda item: item[1])
      logging.info(
        '%d images are shrunk for the network, %s to %.0f %% of its size; where small '
        'objects matter, cut images into tiles with --tile',
        len(self._small),
        name,
        100 * scale,
      )
    turned = [name for path, name in self._names.items() if path in self._turned]
    if turned:
      logging.info(
        '%d images are turned by EXIF without another size: %s; predictions.json is of '
        'their pixels as shown, not as stored',
        len(turned),
        shorten(turned),
      )
    if turned and has_data_set:
      logging.warning(
        '%d images are not in instances.json, whose readers would take their pixels as '
        'stored: %s; turn the pixels, remove the EXIF tag, and predict again',
        len(turned),
        shorten(turned),
      )
    if self.unreadable:
      logging.error(
        '%d of %d images could not be read:', len(self.unreadable), len(self._entries)
      )
    for message in self.unreadable.values():
      logging.error('  %s', message)
