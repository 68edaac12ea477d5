"""From images to predictions, with the parameters of a checkpoint."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
from ml_collections import ConfigDict

from embedmask_jax.checkpoint import StoredCheckpoint
from embedmask_jax.data.mask_windows import unpack_window
from embedmask_jax.data.transforms import empty_batch
from embedmask_jax.devices import data_mesh
from embedmask_jax.errors import UserError
from embedmask_jax.image_files import read_image
from embedmask_jax.inference import make_inference
from embedmask_jax.model_file import open_model
from embedmask_jax.predict.image_rows import ImageRows
from embedmask_jax.predict.merging import TileFindings, merge_tiles
from embedmask_jax.predict.prediction import Prediction
from embedmask_jax.predict.stages import PreparedImage, RawImage, RawTile
from embedmask_jax.predict.tiles import plan_tiles
from embedmask_jax.presets import PRESETS
from embedmask_jax.stored_model import detection_settings, load_model
from embedmask_jax.structures import Batch, Detections

Picture = np.ndarray | str | os.PathLike
# Images or tiles of all kinds whose batch is not full, or one batch if that is more.
_MOST_WAITING = 16


class Predictor:
  """Finds instances in images, with the parameters of a checkpoint, on one device.

  Images go the way of evaluation: same decoder, sizes, canvases and compiled function.
  Calling it does all at once. `prepare`, `detect` and `finish` are the same in parts,
  for a stream: the first and the last are for the host, and may be called by threads.

  Attributes:
    metadata: of the checkpoint.
    max_detections: per image, or per tile of one.
  """

  def __init__(
    self,
    stored: StoredCheckpoint,
    config: ConfigDict,
    *,
    score_threshold: float = 0.3,
    class_thresholds: Mapping[str, float] | None = None,
    max_detections: int | None = None,
    tile: int = 0,
    overlap: int | None = None,
  ):
    """Reads the parameters.

    Args:
      stored: the checkpoint.
      config: usually the checkpoint's own.
      score_threshold: smallest final score of a detection.
      class_thresholds: the same for single classes, by name.
      max_detections: per image; that of the config by default.
      tile: side of the tiles, in pixels of the image, that larger images are cut
        into; 0 for none.
      overlap: pixels that neighbouring tiles share, a quarter of a tile by default.
        Objects up to that size are seen whole by one of them.

    Raises:
      UserError: the parameters cannot be read, or a value is out of range.
    """
    self.metadata = stored.metadata
    self._thresholds = _class_thresholds(
      self.metadata.class_names, score_threshold, class_thresholds or {}
    )
    if max_detections is not None and max_detections < 1:
      raise UserError(f'max_detections is {max_detections}; must be 1 or more')
    if tile < 0 or 0 < tile < 32:
      raise UserError(f'tile is {tile}; must be 0, or 32 pixels or more')
    if overlap and not tile:
      raise UserError(f'overlap is {overlap}, but there are no tiles; set tile')
    if overlap is None:
      overlap = tile // 4
    if tile and not 0 <= overlap <= tile // 2:
      raise UserError(
        f'overlap is {overlap}; must be 0 to {tile // 2}, half of a tile of {tile}'
      )
    self._tile, self._overlap = tile, overlap
    self._make_row = ImageRows(config)
    self._batch_size = config.eval.batch_size
    settings = detection_settings(config.eval)
    self.max_detections = max_detections or settings.max_detections
    self._mesh = data_mesh(num_devices=1)
    self._model, self._variables = load_model(stored, config, self._mesh)
    preset = PRESETS[config.model.preset]
    self._box_extent = preset.box_extent
    self._settings = dataclasses.replace(
      settings,
      max_detections=self.max_detections,
      # A class score is never below the final score, so this loses nothing.
      score_threshold=min(
        settings.score_threshold,
        float(self._thresholds.min()) ** (2 if preset.has_root_score else 1),
      ),
    )
    self._inference = make_inference(self._model, self._settings, self._mesh)

  @classmethod
  def from_checkpoint(cls, path: str | os.PathLike, **options: Any) -> Self:
    """Opens a work folder, WORKDIR/checkpoints/<step> or a model file.

    Args:
      path: where it lies.
      **options: score_threshold, max_detections, tile and so on, see the class.

    Raises:
      UserError: there is no checkpoint that can be read.
    """
    stored = open_model(path)
    return cls(stored, stored.metadata.config, **options)

  def __call__(self, images: Sequence[Picture] | Picture) -> list[Prediction]:
    """Finds instances in every image.

    Args:
      images: uint8 [h, w, 3] RGB, or paths of image files; a single one counts as a
        list of one.

    Returns:
      A prediction for each, in their order.

    Raises:
      UserError: a file that cannot be read, or an array that is not an image.
    """
    if isinstance(images, str | os.PathLike) or getattr(images, 'ndim', 0) == 3:
      images = [images]  # type: ignore[list-item]
    prepared = (self.prepare(image, number) for number, image in enumerate(images))
    found = {raw.prepared.key: self.finish(raw) for raw in self.detect(prepared)}
    return [found[number] for number in range(len(found))]

  def prepare(self, image: Picture, key: Any = 0) -> PreparedImage:
    """Reads, cuts and resizes an image.

    Args:
      image: uint8 [h, w, 3] RGB, or the path of an image file.
      key: what the result is known by.

    Raises:
      UserError: a file that cannot be read, or an array that is not an image.
    """
    if not isinstance(image, np.ndarray):
      image = read_image(image)
    _check_image(image, key)
    tiles = plan_tiles(image.shape[:2], self._tile, self._overlap)
    rows, kinds = [], []
    for tile in tiles:
      part = image[tile.top : tile.bottom, tile.left : tile.right]
      row, kind = self._make_row(part)
      rows.append(row)
      kinds.append(kind)
    return PreparedImage(key, image, tiles, rows, kinds)

  def detect(self, images: Iterable[PreparedImage]) -> Iterator[RawImage]:
    """Runs the compiled function over images as they come.

    Rows of one kind share a batch, so that results may come in another order. While
    the device computes a batch, the results of the one before are handed out.
    """
    gathered: dict[int, tuple[PreparedImage, list[RawTile | None]]] = {}
    waiting: dict[Any, list[tuple[int, int]]] = {}
    under_way: list[tuple[list[tuple[int, int]], Detections]] = []

    def launch(kind: Any) -> None:
      places = waiting.pop(kind)
      rows = [gathered[number][0].rows[tile] for number, tile in places]
      under_way.append((places, self._launch(rows, kind)))

    def land() -> Iterator[RawImage]:
      places, on_device = under_way.pop(0)
      detections = self._fetch(on_device)
      for row, (number, tile) in enumerate(places):
        prepared, parts = gathered[number]
        found = jax.tree.map(lambda leaf, row=row: leaf[row], detections)
        parts[tile] = self._above_threshold(found)
        complete = [part for part in parts if part is not None]
        if len(complete) == len(parts):
          del gathered[number]
          yield RawImage(prepared, complete)

    for number, prepared in enumerate(images):
      gathered[number] = prepared, [None] * len(prepared.tiles)
      for tile, kind in enumerate(prepared.kinds):
        waiting.setdefault(kind, []).append((number, tile))
        if len(waiting[kind]) == self._batch_size:
          launch(kind)
          if len(under_way) > 1:
            yield from land()
      # Those of a rare kind would wait until the end.
      while sum(map(len, waiting.values())) > max(_MOST_WAITING, self._batch_size):
        launch(next(iter(waiting)))
        if len(under_way) > 1:
          yield from land()
    for kind in list(waiting):
      launch(kind)
      if len(under_way) > 1:
        yield from land()
    while under_way:
      yield from land()

  def finish(self, raw: RawImage) -> Prediction:
    """Unpacks masks, and puts together what the tiles of an image have."""
    prepared = raw.prepared
    findings = [
      TileFindings(
        boxes=found.boxes,
        scores=found.scores,
        labels=found.labels,
        windows=tuple(unpack_window(mask, tile.size) for mask in found.masks),
      )
      for tile, found in zip(prepared.tiles, raw.found, strict=True)
    ]
    merged = merge_tiles(
      findings, prepared.tiles, overlap=self._overlap, box_extent=self._box_extent
    )
    names, ids = self.metadata.class_names, self.metadata.category_ids
    return Prediction(
      boxes=merged.boxes,
      scores=merged.scores,
      labels=merged.labels,
      class_names=tuple(names[label] for label in merged.labels),
      category_ids=tuple(ids[label] for label in merged.labels),
      windows=merged.windows,
      image=prepared.image,
      box_extent=self._box_extent,
      num_cut_off=sum(found.num_cut_off for found in raw.found),
    )

  def _launch(self, rows: list[dict[str, np.ndarray]], kind: Any) -> Detections:
    """Starts the compiled function on up to a batch of rows."""
    canvas, masks_canvas = kind
    fill = [empty_batch(1, canvas, 1)] * (self._batch_size - len(rows))
    arrays = {
      name: np.concatenate([row[name] for row in [*rows, *fill]]) for name in rows[0]
    }
    return self._inference(self._variables, Batch(**arrays), masks_canvas)

  def _fetch(self, on_device: Detections) -> Detections:
    """Waits for a batch; its arrays on the host."""
    return jax.device_get(on_device)

  def _above_threshold(self, found: Detections) -> RawTile:
    """The rows to show, copied, so that the rest of the batch is set free."""
    shown = found.valid & (found.scores >= self._thresholds[found.labels])
    # What the cap has cut off scored no better than the last that it left.
    last = np.min(found.scores, where=found.valid, initial=1)
    over = max(int(found.num_kept) - self.max_detections, 0)
    return RawTile(
      boxes=found.boxes[shown],
      scores=found.scores[shown],
      labels=found.labels[shown],
      masks=found.masks[shown],
      num_cut_off=over if last >= self._thresholds.min() else 0,
    )


def _class_thresholds(
  names: Sequence[str], default: float, by_class: Mapping[str, float]
) -> np.ndarray:
  """float32 [C], the smallest score of every class."""
  unknown = [name for name in by_class if name not in names]
  if unknown:
    raise UserError(
      f'there is no class {unknown[0]!r}; the classes are {", ".join(names)}'
    )
  for name, value in (('score_threshold', default), *by_class.items()):
    if not 0 <= value <= 1:
      raise UserError(f'{name} is {value}; must be 0 to 1')
  return np.asarray([by_class.get(name, default) for name in names], np.float32)


def _check_image(image: np.ndarray, key: Any) -> None:
  if (
    image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size
  ):
    raise UserError(
      f'image {key} is {image.dtype} {image.shape}; must be uint8 (height, width, '
      '3), RGB'
    )
