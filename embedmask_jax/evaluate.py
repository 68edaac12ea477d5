"""Evaluation: every image once, to COCO metrics, results and example pictures."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from embedmask_jax.checkpoint import StoredCheckpoint
from embedmask_jax.data.decode import decode_image
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.pipeline import eval_batches
from embedmask_jax.datasets import log_evaluation_data, open_eval_source, view_settings
from embedmask_jax.devices import data_mesh, split
from embedmask_jax.errors import UserError
from embedmask_jax.evaluation_folder import (
  RECORD_NAME,
  evaluation_folder,
  evaluation_record,
)
from embedmask_jax.folders import writable_folder
from embedmask_jax.inference import make_inference, output_canvas
from embedmask_jax.metrics.coco import Metrics, Scored, format_table, score_results
from embedmask_jax.metrics.results import detections_to_results, unpack_masks
from embedmask_jax.metrics.training_curves import draw_training_curves
from embedmask_jax.metrics.writer import JSONL_NAME, MetricWriter
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.presets import PRESETS
from embedmask_jax.report.page import make_page
from embedmask_jax.storage import located
from embedmask_jax.stored_model import detection_settings, load_model
from embedmask_jax.structures import Batch, Detections
from embedmask_jax.visualize import LazyMasks, draw_detections
from embedmask_jax.writing import failures_told

# Detections below this score are left out of the example pictures.
OVERLAY_SCORE = 0.3


class Evaluator:
  """Evaluates parameters on one data set, as often as wanted, compiling once."""

  def __init__(
    self, model: EmbedMask, source: ImageSource, config: ConfigDict, mesh: Mesh
  ):
    """Takes the parts `data` and `eval` of the config."""
    self._source = source
    self._mesh = mesh
    self._settings = detection_settings(config.eval)
    self._inference = make_inference(model, self._settings, mesh)
    self._config = config
    self._batch_size = full_batch_size(config, mesh)
    self._examples = _spread(len(source), config.eval.num_overlays)

  def __call__(
    self,
    variables: dict,
    folder: epath.Path,
    *,
    step: int,
    record: Mapping[str, Any] | None = None,
    writer: MetricWriter | None = None,
    has_report: bool = False,
  ) -> Metrics:
    """Writes metrics.json, predictions.json and overlays/, and prints the table.

    Args:
      variables: {'params', 'batch_stats'}, whole on every device.
      folder: where the files go; made if need be.
      step: updates done, for the logs.
      record: what is evaluated, in JSON types; becomes data.json.
      writer: gets the metrics and the example pictures.
      has_report: whether to write report.html, too.

    Returns:
      What `evaluate_results` gives, and `count/images_at_cap`: images with more
      detections than `max_detections`.

    Raises:
      UserError: a file cannot be written.
    """
    overlay_folder = writable_folder(folder / 'overlays', 'evaluation folder')
    with failures_told(folder):
      (folder / 'metrics.json').unlink(missing_ok=True)
      for picture in overlay_folder.glob('*.png'):
        picture.unlink()
      if record is not None:
        (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + '\n')
    results: list[dict] = []
    kept: list[int] = []
    overlays: dict[int, np.ndarray] = {}
    with tqdm(
      total=len(self._source),
      desc='evaluating',
      unit='image',
      leave=False,
      disable=None,  # where stderr is no terminal
    ) as bar:
      for batch, detections in self._detections(variables):
        for row in np.flatnonzero(batch.example_valid):
          index = int(batch.image_index[row])
          image = jax.tree.map(lambda leaf, row=row: leaf[row], detections)
          size = tuple(batch.original_size[row].tolist())
          results += self._results(image, index, size)
          kept.append(int(image.num_kept))
          if index in self._examples:
            overlays[index] = self._overlay(image, index, size)
          bar.update()
    # All classes of the model are scored, whichever of them these data know.
    categories = [{'id': key, 'name': name} for key, name in self._source.categories]
    scored = score_results(
      {**self._source.ground_truth(), 'categories': categories},
      results,
      max_dets=self._config.eval.max_dets,
    )
    metrics = scored.metrics
    metrics['count/images_at_cap'] = self._tell_about_cap(kept)
    with failures_told(folder):
      (folder / 'predictions.json').write_text(json.dumps(results))
      for index, picture in overlays.items():
        save_png(picture, overlay_folder / f'{index:06d}.png')
      # Last: where it is, all of them are.
      (folder / 'metrics.json').write_text(json.dumps(metrics, indent=2) + '\n')
    tqdm.write(f'step {step}\n{format_table(metrics)}')
    if writer:
      writer.scalars(step, {k: v for k, v in metrics.items() if 'count/' not in k})
      for index, picture in sorted(overlays.items()):
        writer.image(step, f'overlays/{index}', picture)
    if has_report:
      self._write_report(folder, scored, step)
    return metrics

  def _write_report(self, folder: epath.Path, scored: Scored, step: int) -> None:
    positions = {key: index for index, key in enumerate(self._source.image_ids)}

    def read_image(image_id: int) -> np.ndarray:
      record = self._source[positions[image_id]]
      return decode_image(
        record.encoded, record.file_name, (record.height, record.width)
      )

    # WORKDIR/eval/<step>
    log = folder.parents[1] / JSONL_NAME
    page = make_page(
      scored,
      read_image,
      title=f'{folder.parents[1].name}, step {step}',
      training_curves=draw_training_curves(log) if log.is_file() else None,
    )
    with failures_told(folder):
      (folder / 'report.html').write_text(page, encoding='utf-8')

  def _detections(self, variables: dict) -> Iterator[tuple[Batch, Detections]]:
    """Batches with their detections, both as NumPy arrays."""
    pending = None
    batches = eval_batches(
      self._source,
      batch_size=self._batch_size,
      workers=self._config.data.workers,
      prefetch=self._config.data.prefetch,
      max_worker_deaths=self._config.data.max_worker_deaths,
      **view_settings(self._config),
    )
    for arrays in batches:
      batch = Batch(**arrays)
      canvas = output_canvas(
        batch.original_size[batch.example_valid], self._config.eval.output_ladder
      )
      detections = self._inference(variables, split(self._mesh, batch), canvas)
      # The batch before is read only now, so that the device is never idle.
      if pending:
        yield pending[0], jax.device_get(pending[1])
      pending = batch, detections
    if pending:
      yield pending[0], jax.device_get(pending[1])

  def _results(
    self, image: Detections, index: int, original_size: Sequence[int]
  ) -> list[dict]:
    return detections_to_results(
      boxes=image.boxes,
      scores=image.scores,
      labels=image.labels,
      masks=image.masks,
      valid=image.valid,
      original_size=original_size,
      image_id=self._source.image_ids[index],
      category_ids=self._source.category_ids,
      extent=PRESETS[self._config.model.preset].box_extent,
    )

  def _overlay(
    self, image: Detections, index: int, original_size: Sequence[int]
  ) -> np.ndarray:
    record = self._source[index]
    shown = image.valid & (image.scores >= OVERLAY_SCORE)
    return draw_detections(
      decode_image(record.encoded, record.file_name, (record.height, record.width)),
      image.boxes[shown],
      LazyMasks(image.masks[shown], lambda mask: unpack_masks(mask, original_size)),
      image.labels[shown],
      image.scores[shown],
      self._source.class_names,
    )

  def _tell_about_cap(self, kept: list[int]) -> int:
    cap = self._settings.max_detections
    over = sum(count > cap for count in kept)
    if over:
      logging.warning(
        'eval.max_detections=%d cut off the worst of up to %d detections in %d of %d '
        'images; the data have up to %d instances in one: where that is near the cap, '
        'raise it, and the largest of eval.max_dets',
        cap,
        max(kept),
        over,
        len(kept),
        self._source.instance_counts.max(),
      )
    return over


def full_batch_size(config: ConfigDict, mesh: Mesh) -> int:
  """`eval.batch_size`, rounded up to what divides over the devices.

  Rows that only fill a batch count for nothing.
  """
  return -(-config.eval.batch_size // mesh.size) * mesh.size


def evaluate_checkpoint(
  stored: StoredCheckpoint, config: ConfigDict, *, workdir: str = ''
) -> Metrics:
  """Evaluates a checkpoint on `config.data.eval`; the command `--mode=eval`.

  Args:
    stored: the checkpoint; its classes are those that count.
    config: model, data and eval parts.
    workdir: whose folder gets the files, see `evaluation_folder`; the checkpoint's own
      by default.

  Raises:
    UserError: no data, categories that the checkpoint does not know, unreadable
      parameters, or a folder that cannot be written.
  """
  source = open_eval_source(
    config.data, stored.metadata.categories, PRESETS[config.model.preset]
  )
  if source is None:
    raise UserError(
      'nothing to evaluate: set config.data.eval.annotations and '
      'config.data.eval.images'
    )
  log_evaluation_data(source)
  mesh = data_mesh()
  model, variables = load_model(stored, config, mesh)
  root = located(workdir) if workdir else stored.workdir
  folder = evaluation_folder(root, stored, config)
  metrics = Evaluator(model, source, config, mesh)(
    variables,
    folder,
    step=stored.step,
    record=evaluation_record(stored.folder, config),
    has_report=True,
  )
  logging.info('evaluated step %d of %s: see %s', stored.step, stored.folder, folder)
  return metrics


def save_png(picture: np.ndarray, path: epath.Path) -> None:
  """Writes a picture, uint8 [h, w, 3], RGB."""
  content = io.BytesIO()
  Image.fromarray(picture).save(content, 'PNG')
  path.write_bytes(content.getvalue())


def _spread(count: int, wanted: int) -> frozenset[int]:
  """Up to `wanted` of the indices below `count`, evenly spread."""
  return frozenset(np.linspace(0, count - 1, min(wanted, count)).astype(int).tolist())
