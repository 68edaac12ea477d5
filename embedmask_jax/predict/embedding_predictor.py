"""Predictions with the embeddings that their masks were read from."""

from typing import Any

import jax
from ml_collections import ConfigDict

from embedmask_jax.checkpoint import StoredCheckpoint
from embedmask_jax.inference import make_embedding_inference
from embedmask_jax.predict.embedding_view import EmbeddingView
from embedmask_jax.predict.prediction import Prediction
from embedmask_jax.predict.predictor import Picture, Predictor
from embedmask_jax.predict.stages import RawImage
from embedmask_jax.structures import Batch


class EmbeddingPredictor(Predictor):
  """A `Predictor` for one image at a time that can say how its masks came about."""

  def __init__(self, stored: StoredCheckpoint, config: ConfigDict, **options: Any):
    """Reads the parameters.

    Args:
      stored: the checkpoint.
      config: usually the checkpoint's own.
      **options: score_threshold and max_detections, see `Predictor`.

    Raises:
      UserError: see `Predictor`.
    """
    super().__init__(stored, config, **options)
    self._embedding_inference = make_embedding_inference(
      self._model, self._settings, self._mesh
    )

  def explain(self, image: Picture) -> tuple[Prediction, EmbeddingView]:
    """Finds instances in an image.

    Args:
      image: uint8 [h, w, 3] RGB, or the path of an image file.

    Returns:
      What calling the predictor gives, and the embeddings of those instances.

    Raises:
      UserError: a file that cannot be read, or an array that is not an image.
    """
    prepared = self.prepare(image)
    [row], [(_, masks_canvas)] = prepared.rows, prepared.kinds
    result = self._embedding_inference(self._variables, Batch(**row), masks_canvas)
    detections, embeddings = jax.tree.map(lambda leaf: leaf[0], jax.device_get(result))
    raw = self._above_threshold(detections)
    prediction = self.finish(RawImage(prepared, [raw]))
    # One threshold, best first: those above it come first.
    count = len(prediction)
    view = EmbeddingView(
      pixel=embeddings.pixel,
      proposal=embeddings.proposal[:count],
      margin=embeddings.margin[:count],
      image_size=row['image_size'][0],
      valid_size=row['valid_size'][0],
      preset=self._model.preset,
      mask_threshold=self._settings.mask_threshold,
    )
    return prediction, view
