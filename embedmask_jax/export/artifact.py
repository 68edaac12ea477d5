"""From a checkpoint to a folder with a program, its contract, and what a check says."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from embedmask_jax.checkpoint import StoredCheckpoint
from embedmask_jax.devices import data_mesh
from embedmask_jax.errors import UserError
from embedmask_jax.export import onnx_file, stablehlo
from embedmask_jax.export.contract import CONTRACT, make_contract
from embedmask_jax.export.function import input_shapes, make_function, named_weights
from embedmask_jax.export.size_table import Canvas, make_size_table
from embedmask_jax.export.verify import (
  Program,
  Row,
  agrees,
  compare,
  format_rows,
  live_detections,
  run_exported,
  timed,
)
from embedmask_jax.folders import local_folder
from embedmask_jax.image_files import find_images, is_video, read_image
from embedmask_jax.inference import Inference, make_inference
from embedmask_jax.predict.image_rows import ImageRows
from embedmask_jax.stored_model import detection_settings, load_model
from embedmask_jax.structures import Batch
from embedmask_jax.writing import replaced_folder


def export_artifact(
  stored: StoredCheckpoint,
  config: ConfigDict,
  *,
  kind: str,
  output: str | os.PathLike,
  canvas: Canvas | None = None,
  network_canvas: Canvas | None = None,
  images: Sequence[str | os.PathLike] = (),
) -> bool:
  """Writes the folder; returns whether the program agrees with the live function.

  Args:
    stored: the checkpoint.
    config: usually the checkpoint's own.
    kind: 'stablehlo' or 'onnx'.
    output: folder, new or empty. Nothing is in it unless all of it is.
    canvas: the largest image; the smallest of `eval.output_ladder` by default.
    network_canvas: see `make_size_table`.
    images: what to verify on; nothing is compared without.

  Raises:
    UserError: the folder has files or cannot be written, an image cannot be read or
      is larger than the canvas, the checkpoint cannot be read, or the model cannot be
      converted.
  """
  if kind == 'onnx' and config.model.dtype != 'float32':
    raise UserError(
      f'ONNX Runtime computes in float32, the model in {config.model.dtype}; add '
      '--config.model.dtype=float32'
    )
  output = _empty_folder(output)
  canvas = canvas or tuple(config.eval.output_ladder[0])
  pictures = _read_images(images, canvas)
  rows = ImageRows(config)
  resize = config.data.eval_short_side, config.data.long_side
  table = make_size_table(
    rows.resized, canvas, long_side=resize[1], network_canvas=network_canvas
  )
  logging.info(
    'images are resized into a network canvas of %dx%d (--network-canvas)',
    *table.network_canvas,
  )
  if table.num_smaller:
    logging.warning(
      '%d of %d image sizes are made smaller than in evaluation to fit it',
      table.num_smaller,
      canvas[0] * canvas[1],
    )
  mesh = data_mesh(num_devices=1)
  model, variables = load_model(stored, config, mesh)
  settings = detection_settings(config.eval)
  function = make_function(model, settings, table)
  write = stablehlo.write_stablehlo if kind == 'stablehlo' else onnx_file.write_onnx
  try:
    with replaced_folder(output) as beside:
      names = write(beside, function, named_weights(variables), input_shapes(table))
      contract = make_contract(
        stored,
        model,
        settings,
        table,
        kind=kind,
        files=[beside / name for name in names],
        platforms=stablehlo.PLATFORMS if kind == 'stablehlo' else ('onnxruntime',),
        resize=resize,
      )
      (beside / CONTRACT).write_text(json.dumps(contract, indent=2) + '\n')
  except OSError as error:
    raise UserError(
      f'--output={output} cannot be written ({error}); make room there, or name a new '
      'folder in one that can be written'
    ) from error
  for name in names:
    logging.info('%s: %.1f MB', output / name, (output / name).stat().st_size / 1e6)
  if not pictures:
    return True
  load = stablehlo.load_stablehlo if kind == 'stablehlo' else onnx_file.load_onnx
  live = make_inference(model, settings, mesh)
  lines = _verify(load(output), live, variables, rows, pictures, canvas)
  print(format_rows(lines))
  return agrees([line.comparison for line in lines])


def _verify(
  program: Program,
  live: Inference,
  variables: dict,
  rows: ImageRows,
  pictures: Sequence[tuple[str, np.ndarray]],
  canvas: Canvas,
) -> list[Row]:
  lines = []
  for name, image in pictures:

    def call(image: np.ndarray = image) -> object:
      row, (_, output_canvas) = rows(image)
      return live(variables, Batch(**row), output_canvas)

    found, live_seconds = timed(call)
    exported, seconds = run_exported(program, image, canvas)
    comparison = compare(live_detections(found, image.shape[:2]), exported)
    lines.append(Row(name, comparison, live_seconds, seconds))
  return lines


def _empty_folder(output: str | os.PathLike) -> Path:
  folder = local_folder(output, '--output')
  if any(folder.iterdir()):
    raise UserError(f'--output={folder} has files in it; name another folder')
  return folder


def _read_images(
  arguments: Sequence[str | os.PathLike], canvas: Canvas
) -> list[tuple[str, np.ndarray]]:
  if not arguments:
    return []
  paths = find_images(arguments)
  videos = [path.name for path in paths if is_video(path)]
  if videos:
    raise UserError(f'--verify={videos[0]}: a video; name images')
  pictures = [(path.name, read_image(path)) for path in paths]
  for name, image in pictures:
    height, width = image.shape[:2]
    if height > canvas[0] or width > canvas[1]:
      raise UserError(
        f'--verify: {name} has {height}x{width} pixels and does not fit '
        f'--canvas={canvas[0]}x{canvas[1]}; name a larger canvas'
      )
  return pictures
