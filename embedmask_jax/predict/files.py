"""Prediction on files: images and videos into a folder. The command `predict`."""

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from embedmask_jax.checkpoint import StoredCheckpoint
from embedmask_jax.errors import UserError
from embedmask_jax.folders import local_folder
from embedmask_jax.image_files import find_images, is_video, output_names, read_shown
from embedmask_jax.output_kinds import COCO, OVERLAY
from embedmask_jax.predict.outputs import OutputFiles, coco_data_set
from embedmask_jax.predict.predictor import Predictor
from embedmask_jax.predict.run_ahead import run_ahead
from embedmask_jax.predict.stages import PreparedImage, RawImage
from embedmask_jax.predict.summary import Summary
from embedmask_jax.predict.video import (
  UnreadableVideoError,
  VideoReader,
  VideoWriter,
  load_av,
)
from embedmask_jax.writing import remove_json, write_json

# That read and resize, and as many that draw and write.
THREADS = 4
# An image seen at less than this part of its size may have objects too small to see.
_SMALL = 0.4


def predict_files(
  stored: StoredCheckpoint,
  config: ConfigDict,
  *,
  images: Sequence[str],
  output: str,
  score_threshold: float = 0.3,
  class_thresholds: Mapping[str, float] | None = None,
  max_detections: int | None = None,
  tile: int = 0,
  overlap: int | None = None,
  save: Collection[str] = (OVERLAY,),
  polygon_tolerance: float = 0.0,
  threads: int = THREADS,
) -> list[str]:
  """Writes what is found in images and videos.

  `output` gets the files that `save` asks for (see `OUTPUT_KINDS`), and
  predictions.json, a list of COCO results (image_id, category_id, bbox [x, y, width,
  height], score, segmentation as compressed RLE) with file_name and category_name
  added. image_id counts the images found, from 1; every frame of a video is an image,
  and its results have `frame` (from 0) and `seconds`. A video becomes NAME.mp4.

  Reading, the device, and writing overlap: threads read ahead and write behind.

  Args:
    stored: the checkpoint.
    config: usually the checkpoint's own.
    images: see `find_images`.
    output: folder for what is written; made if need be.
    score_threshold, class_thresholds, max_detections, tile, overlap: see `Predictor`.
    save: kinds of files.
    polygon_tolerance: see `mask_polygons`.
    threads: that read, and as many that write; 0 does one thing after another.

  Returns:
    The names of the files that could not be read, which are reported and left out.

  Raises:
    UserError: no images, a folder or file that cannot be used or written, or see
      `Predictor`.
  """
  paths = find_images(images)
  target = Path(os.path.expanduser(output)).resolve()
  if any(path.parent.resolve() == target for path in paths):
    raise UserError(
      f'--output={output} is the folder of the images, which overlays could replace; '
      'name another'
    )
  if any(map(is_video, paths)):
    load_av()
  folder = local_folder(output, '--output')
  files = OutputFiles(folder, save, polygon_tolerance=polygon_tolerance)
  predictor = Predictor(
    stored,
    config,
    score_threshold=score_threshold,
    class_thresholds=class_thresholds,
    max_detections=max_detections,
    tile=tile,
    overlap=overlap,
  )
  predictions, instances = folder / 'predictions.json', folder / 'instances.json'
  # Written last: until then, those of an earlier run would stand beside new files.
  remove_json(predictions)
  if COCO in save:
    remove_json(instances)
  summary = Summary(paths, max_detections=predictor.max_detections)
  names = output_names(paths)
  run = FileRun(predictor, files, folder, names, summary, threads)
  started = time.perf_counter()
  run.images([path for path in paths if not is_video(path)])
  for path in paths:
    if is_video(path):
      run.video(path)
  results = summary.results()
  write_json(predictions, results)
  if COCO in save:
    data_set = coco_data_set(summary.images(), results, stored.metadata.categories)
    write_json(instances, data_set)
  seconds = time.perf_counter() - started
  summary.report(folder, seconds=seconds, has_data_set=COCO in save)
  return [path.name for path in summary.unreadable]


class FileRun:
  """The stages of the command: reading, the device, writing."""

  def __init__(
    self,
    predictor: Predictor,
    files: OutputFiles,
    folder: Path,
    names: Mapping[Path, str],
    summary: Summary,
    threads: int,
  ):
    """Takes what to write where, names without suffix, and see `predict_files`."""
    self._predictor = predictor
    self._files = files
    self._folder = folder
    self._names = names
    self._summary = summary
    self._threads = threads

  def images(self, paths: Sequence[Path]) -> None:
    """Predicts on image files and writes what they become."""
    if not paths:
      return

    def read(path: Path) -> PreparedImage | None:
      try:
        image, is_turn_hidden = read_shown(path)
        prepared = self._predictor.prepare(image, path)
      except UserError as error:
        self._summary.add_unreadable(path, str(error))
        bar.update()
        return None
      if is_turn_hidden:
        self._summary.add_turned(path)
      if prepared.scale < _SMALL:
        self._summary.add_shrunk(path, prepared.scale)
      return prepared

    def write(raw: RawImage) -> None:
      path = raw.prepared.key
      prediction = self._predictor.finish(raw)
      self._files.write(prediction, self._names[path], path)
      self._summary.add(path, prediction)

    with tqdm(total=len(paths), desc='predicting', unit='image', disable=None) as bar:
      read_ahead = run_ahead(read, paths, threads=self._threads)
      readable = (prepared for prepared in read_ahead if prepared is not None)
      found = self._predictor.detect(readable)
      for _ in run_ahead(write, found, threads=self._threads):
        bar.update()

  def video(self, path: Path) -> None:
    """Predicts on the frames of a video and writes them as a video."""
    damage: list[UnreadableVideoError] = []

    def whole_frames(reader: VideoReader) -> Iterator[tuple[float, np.ndarray]]:
      """Ends at the first damaged frame: those before it are on their way."""
      try:
        yield from reader.frames()
      except UnreadableVideoError as error:
        damage.append(error)

    try:
      with (
        VideoReader(path) as reader,
        VideoWriter(self._folder / f'{self._names[path]}.mp4', reader.rate) as writer,
        tqdm(
          total=reader.num_frames or None, desc=path.name, unit='image', disable=None
        ) as bar,
      ):
        if reader.has_sound:
          logging.info('%s: its sound is not written', path.name)
        for seconds, drawn in self._drawn_frames(path, whole_frames(reader)):
          writer.write(seconds, drawn)
          bar.update()
    except UnreadableVideoError as error:
      damage.append(error)
    for found in damage:
      self._summary.add_unreadable(path, str(found))

  def _drawn_frames(
    self, path: Path, frames: Iterator[tuple[float, np.ndarray]]
  ) -> Iterator[tuple[float, np.ndarray]]:
    def prepare(item: tuple[int, tuple[float, np.ndarray]]) -> PreparedImage:
      number, (seconds, pixels) = item
      return self._predictor.prepare(pixels, (number, seconds))

    def draw(raw: RawImage) -> tuple[float, np.ndarray]:
      number, seconds = raw.prepared.key
      prediction = self._predictor.finish(raw)
      self._summary.add(path, prediction, frame=number, seconds=seconds)
      return seconds, np.asarray(prediction.plot())

    # All frames have one size and so one program: they come back in their order.
    prepared = run_ahead(prepare, enumerate(frames), threads=self._threads)
    found = self._predictor.detect(prepared)
    yield from run_ahead(draw, found, threads=self._threads)
