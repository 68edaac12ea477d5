"""What tests of the demo give it: a prediction with its embeddings, and a bomb."""

import struct
import zlib

import handmade_prediction
import numpy as np

from embedmask_jax.predict.embedding_view import EmbeddingView
from embedmask_jax.presets import PRESETS


def explain(image=None):
  """The prediction made by hand, with embeddings in which each mask is apart."""
  prediction = handmade_prediction.prediction()
  rng = np.random.default_rng(0)
  pixel = rng.normal(0, 0.1, (8, 8, 5)).astype(np.float32)
  height, width = prediction.size
  for index, mask in enumerate(handmade_prediction.masks()):
    cells = mask[4:height:8, 4:width:8]
    pixel[: cells.shape[0], : cells.shape[1], 2 + index][cells] += 3
  view = EmbeddingView(
    pixel=pixel,
    proposal=np.eye(5, dtype=np.float32)[2:] * 3,
    margin=np.full((3, 5), 0.6, np.float32),
    image_size=np.asarray(prediction.size, np.int32),
    valid_size=np.asarray([64, 64], np.int32),
    preset=PRESETS['2021'],
    mask_threshold=0.5,
  )
  return prediction, view


def png_that_claims(width, height) -> bytes:
  def chunk(kind, data):
    check = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + check

  head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  rows = chunk(b'IDAT', zlib.compress(bytes(1000)))
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + rows + chunk(b'IEND', b'')
