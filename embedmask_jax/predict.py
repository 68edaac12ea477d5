"""Prediction on images without annotations: from Python, or of files into a folder."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from embedmask_jax.checkpoint import StoredCheckpoint, open_checkpoint
from embedmask_jax.data.eval_plan import EvalPlan
from embedmask_jax.data.transforms import empty_batch, fill_image
from embedmask_jax.datasets import view_settings
from embedmask_jax.devices import data_mesh
from embedmask_jax.errors import UserError
from embedmask_jax.evaluate import detection_settings, load_model, save_png
from embedmask_jax.folders import writable_folder
from embedmask_jax.image_files import find_images, overlay_names, read_image
from embedmask_jax.inference import make_inference, output_canvas
from embedmask_jax.metrics.results import encode_mask, unpack_masks
from embedmask_jax.presets import PRESETS
from embedmask_jax.storage import located
from embedmask_jax.structures import Batch, Detections
from embedmask_jax.visualize import draw_detections

# Images held in memory at a time by the command.
_GROUP = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What was found in one image, best score first.

  Attributes:
    boxes: float32 [n, 4], xyxy, pixels of the image; x2 and y2 are the last pixel, or
      the edge in preset adelaidet.
    scores: float32 [n].
    labels: int32 [n], class index 0..C-1.
    class_names: n names.
    category_ids: n ids in the annotations that the model was trained with.
    masks: bool [n, h, w].
  """

  boxes: np.ndarray
  scores: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  category_ids: tuple[int, ...]
  masks: np.ndarray


class Predictor:
  """Finds instances in images, with the parameters of a checkpoint, on one device.

  Images go the way of evaluation: same decoder, sizes, canvases and compiled function.
  """

  def __init__(
    self,
    stored: StoredCheckpoint,
    config: ConfigDict,
    *,
    score_threshold: float = 0.3,
    max_detections: int | None = None,
  ):
    """Reads the parameters.

    Args:
      stored: the checkpoint.
      config: usually the checkpoint's own.
      score_threshold: smallest final score of a detection.
      max_detections: per image; that of the config by default.

    Raises:
      UserError: the parameters cannot be read, or a value is out of range.
    """
    if not 0 <= score_threshold <= 1:
      raise UserError(f'score_threshold is {score_threshold}; must be 0 to 1')
    if max_detections is not None and max_detections < 1:
      raise UserError(f'max_detections is {max_detections}; must be 1 or more')
    self.metadata = stored.metadata
    self._config = config
    self._threshold = score_threshold
    settings = detection_settings(config.eval)
    self.max_detections = max_detections or settings.max_detections
    mesh = data_mesh(num_devices=1)
    model, self._variables = load_model(stored, config, mesh)
    has_root = PRESETS[config.model.preset].has_root_score
    settings = dataclasses.replace(
      settings,
      max_detections=self.max_detections,
      # A class score is never below the final score, so this loses nothing.
      score_threshold=min(
        settings.score_threshold, score_threshold ** (2 if has_root else 1)
      ),
    )
    self._inference = make_inference(model, settings, mesh)

  @classmethod
  def from_checkpoint(cls, path: str | os.PathLike, **options: Any) -> 'Predictor':
    """Opens a work folder or WORKDIR/checkpoints/<step>.

    Args:
      path: where the checkpoint lies.
      **options: score_threshold and max_detections, see the class.

    Raises:
      UserError: there is no checkpoint that can be read.
    """
    stored = open_checkpoint(path)
    return cls(stored, stored.metadata.config, **options)

  def __call__(
    self, images: Sequence[np.ndarray | str | os.PathLike]
  ) -> list[Prediction]:
    """Finds instances in every image.

    Args:
      images: uint8 [h, w, 3] RGB, or paths of image files.

    Returns:
      A prediction for each, in their order.

    Raises:
      UserError: a file that cannot be read, or an array that is not an image.
    """
    pictures = [
      _checked(image, number) if isinstance(image, np.ndarray) else read_image(image)
      for number, image in enumerate(images)
    ]
    if not pictures:
      return []
    plan = EvalPlan(
      sizes=np.asarray([picture.shape[:2] for picture in pictures], np.int32),
      batch_size=self._config.eval.batch_size,
      **view_settings(self._config),
    )
    predictions: dict[int, Prediction] = {}
    for number in range(len(plan)):
      arrays = empty_batch(plan[number].batch_size, plan[number].canvas, 1)
      for row, planned in enumerate(plan[number].rows):
        picture = Image.fromarray(pictures[planned.index])
        fill_image(arrays, row, picture, planned.view, planned.index)
      batch = Batch(**arrays)
      canvas = output_canvas(
        batch.original_size[batch.example_valid], self._config.eval.output_ladder
      )
      detections = jax.device_get(self._inference(self._variables, batch, canvas))
      for row, planned in enumerate(plan[number].rows):
        image = jax.tree.map(lambda leaf, row=row: leaf[row], detections)
        size = pictures[planned.index].shape[:2]
        predictions[planned.index] = self._prediction(image, size)
    return [predictions[number] for number in range(len(pictures))]

  def _prediction(self, image: Detections, size: tuple[int, ...]) -> Prediction:
    shown = image.valid & (image.scores >= self._threshold)
    labels = image.labels[shown]
    return Prediction(
      boxes=image.boxes[shown],
      scores=image.scores[shown],
      labels=labels,
      class_names=tuple(self.metadata.class_names[label] for label in labels),
      category_ids=tuple(self.metadata.category_ids[label] for label in labels),
      masks=unpack_masks(image.masks[shown], size),
    )


def predict_files(
  stored: StoredCheckpoint,
  config: ConfigDict,
  *,
  images: str,
  output: str,
  score_threshold: float,
) -> list[str]:
  """Draws and writes predictions; the command `--mode=predict`.

  `output` gets an overlay for every image (see `overlay_names`), and predictions.json,
  a list of COCO results (image_id, category_id, bbox [x, y, width, height], score,
  segmentation as compressed RLE) with file_name and category_name added. image_id
  counts the images found, from 1, in the order of their names.

  Args:
    stored: the checkpoint.
    config: usually the checkpoint's own.
    images: an image file, or a folder of them (its subfolders are left out).
    output: folder for what is written; made if need be.
    score_threshold: smallest score of a detection.

  Returns:
    The names of the images that could not be read, which are reported and left out.

  Raises:
    UserError: no images, a folder that cannot be used, or see `Predictor`.
  """
  paths = find_images(images)
  target = os.path.realpath(located(output))
  if any(os.path.realpath(path.parent) == target for path in paths):
    raise UserError(
      f'--output={output} is the folder of the images, which overlays could replace; '
      'name another'
    )
  folder = writable_folder(output, '--output')
  overlays = overlay_names(paths)
  predictor = Predictor(stored, config, score_threshold=score_threshold)
  extent = PRESETS[config.model.preset].box_extent
  results: list[dict] = []
  unreadable: dict[str, str] = {}
  capped: list[str] = []
  with tqdm(total=len(paths), desc='predicting', unit='image', disable=None) as bar:
    for first in range(0, len(paths), _GROUP):
      readable: dict[int, np.ndarray] = {}
      for number, path in enumerate(paths[first : first + _GROUP], start=first):
        try:
          readable[number] = read_image(path)
        except UserError as error:
          unreadable[path.name] = str(error)
      found = predictor(list(readable.values()))
      for (number, picture), prediction in zip(readable.items(), found, strict=True):
        path = paths[number]
        results += _as_results(prediction, number + 1, path.name, extent=extent)
        drawn = draw_detections(
          picture,
          prediction.boxes,
          prediction.masks,
          prediction.labels,
          prediction.scores,
          predictor.metadata.class_names,
        )
        save_png(drawn, folder / overlays[path])
        if len(prediction.scores) == predictor.max_detections:
          capped.append(path.name)
      bar.update(len(paths[first : first + _GROUP]))
  (folder / 'predictions.json').write_text(json.dumps(results))
  _report(folder, len(paths), len(results), unreadable)
  if capped:
    logging.warning(
      'the cap of %d detections is reached in %d images (%s); raise '
      'config.eval.max_detections',
      predictor.max_detections,
      len(capped),
      ', '.join(capped[:5]) + (', ...' if len(capped) > 5 else ''),
    )
  return list(unreadable)


def _report(
  folder: epath.Path, num_images: int, num_instances: int, unreadable: Mapping[str, str]
) -> None:
  logging.info(
    '%d instances in %d images: overlays and predictions.json in %s',
    num_instances,
    num_images - len(unreadable),
    folder,
  )
  if unreadable:
    logging.error('%d of %d images could not be read:', len(unreadable), num_images)
  for message in unreadable.values():
    logging.error('  %s', message)


def _as_results(
  prediction: Prediction, image_id: int, file_name: str, *, extent: int
) -> list[dict]:
  results = []
  for i, (x1, y1, x2, y2) in enumerate(prediction.boxes.tolist()):
    width, height = x2 - x1 + extent, y2 - y1 + extent
    results.append(
      {
        'image_id': image_id,
        'file_name': file_name,
        'category_id': prediction.category_ids[i],
        'category_name': prediction.class_names[i],
        'bbox': [round(side, 3) for side in (x1, y1, width, height)],
        'score': float(prediction.scores[i]),
        'segmentation': encode_mask(prediction.masks[i]),
      }
    )
  return results


def _checked(image: np.ndarray, number: int) -> np.ndarray:
  if (
    image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size
  ):
    raise UserError(
      f'image {number} is {image.dtype} {image.shape}; must be uint8 (height, width, '
      '3), RGB'
    )
  return image
