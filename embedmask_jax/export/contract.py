"""contract.json: what an exported program takes and gives, for those who serve it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedmask_jax.checkpoint import StoredCheckpoint
from embedmask_jax.describe import library_versions
from embedmask_jax.export.size_table import SizeTable
from embedmask_jax.models.embedmask import EmbedMask
from embedmask_jax.postprocess import DetectionSettings

CONTRACT = 'contract.json'
FORMAT_VERSION = 1


def make_contract(
  stored: StoredCheckpoint,
  model: EmbedMask,
  settings: DetectionSettings,
  table: SizeTable,
  *,
  kind: str,
  files: Sequence[Path],
  platforms: Sequence[str],
  resize: tuple[int, int],
) -> dict[str, Any]:
  """Describes an artifact in JSON types.

  Args:
    stored: the checkpoint.
    model: its network.
    settings: thresholds and caps of the program.
    table: canvases of the program.
    kind: 'stablehlo' or 'onnx'.
    files: what was written.
    platforms: what the program was lowered for.
    resize: short and long side that images are resized to, network pixels.
  """
  return {
    'format_version': FORMAT_VERSION,
    'format': kind,
    'files': {file.name: {'bytes': file.stat().st_size} for file in files},
    'platforms': list(platforms),
    'weights_are': 'first argument' if kind == 'stablehlo' else 'in the graph',
    'inputs': _inputs(table),
    'outputs': _outputs(table, settings, model),
    'canvas': list(table.canvas),
    'preprocessing': {
      'by_the_caller': 'decode to 8-bit RGB, turn as EXIF says, place in the upper '
      'left corner of the canvas',
      'in_the_graph': 'bilinear resize, bit for bit that of Pillow; BGR, minus mean, '
      'over standard deviation; zeros around the image',
      'short_side': resize[0],
      'long_side': resize[1],
      'network_canvas': list(table.network_canvas),
      'image_sizes_made_smaller_to_fit': table.num_smaller,
      'pixel_mean_bgr': list(model.pixel_mean),
      'pixel_std_bgr': list(model.pixel_std),
    },
    'settings': {
      'score_threshold': settings.score_threshold,
      'pre_nms_top_k': settings.pre_nms_top_k,
      'nms_threshold': settings.nms_threshold,
      'max_detections': settings.max_detections,
      'mask_threshold': settings.mask_threshold,
    },
    'categories': [
      {'class': index, 'id': key, 'name': name}
      for index, (key, name) in enumerate(stored.metadata.categories)
    ],
    'model': {
      'preset': stored.metadata.config.model.preset,
      'backbone': model.backbone,
      'compute_dtype': np.dtype(model.dtype).name,
      'checkpoint_step': stored.step,
      # Of the names and bytes of all arrays in the order of their names.
      'weights_crc32': stored.checksums.get('variables'),
    },
    'versions': library_versions(),
  }


def _inputs(table: SizeTable) -> list[dict[str, Any]]:
  return [
    {
      'name': 'image',
      'dtype': 'uint8',
      'shape': [*table.canvas, 3],
      'meaning': 'RGB, 0 to 255; the image in the upper left corner, what lies beyond '
      'it is not looked at',
    },
    {
      'name': 'size',
      'dtype': 'int32',
      'shape': [2],
      'meaning': 'height and width of the image in pixels, 1 up to the canvas',
    },
  ]


def _outputs(
  table: SizeTable, settings: DetectionSettings, model: EmbedMask
) -> list[dict[str, Any]]:
  count = settings.max_detections
  corner = (
    'x2 and y2 are the last pixel' if model.preset.box_extent else 'x2, y2 the edge'
  )

  def entry(name: str, dtype: str, shape: list[int], meaning: str) -> dict[str, Any]:
    return {'name': name, 'dtype': dtype, 'shape': shape, 'meaning': meaning}

  return [
    entry(
      'boxes',
      'float32',
      [count, 4],
      f'x1, y1, x2, y2 in pixels of the image from its upper left corner; {corner}; '
      'zeros where not valid',
    ),
    entry('scores', 'float32', [count], '0 to 1, best first; 0 where not valid'),
    entry(
      'classes', 'int32', [count], 'see categories: the one whose "class" it is; or 0'
    ),
    entry('valid', 'bool', [count], 'true for the first `count` rows'),
    entry('count', 'int32', [], 'number of detections'),
    entry(
      'masks',
      'bool',
      [count, *table.canvas],
      'pixels of the instance, in the frame of the input image; false beyond the '
      'image and where not valid',
    ),
  ]
