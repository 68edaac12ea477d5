"""Draws what the network computes for an image: see README.md beside this file."""

import argparse

import jax
import numpy as np
from PIL import Image, ImageDraw

from embedmask_jax.checkpoint import open_checkpoint
from embedmask_jax.devices import data_mesh
from embedmask_jax.mask_readout import mask_pixels
from embedmask_jax.ops.masks import mask_log_probability
from embedmask_jax.postprocess import select_proposals
from embedmask_jax.predict import Predictor
from embedmask_jax.stored_model import detection_settings, load_model
from embedmask_jax.visualize import instance_colour

PANEL = 384  # Pixels of a side.
GAP = 8
DARKEST = -6.0  # Log-probability that is drawn black.


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('checkpoint')
  parser.add_argument('image')
  parser.add_argument('output')
  parser.add_argument(
    '--instances', default='0,1', help='two of them, best score first'
  )
  options = parser.parse_args()
  stored = open_checkpoint(options.checkpoint)
  config = stored.metadata.config
  prepared = Predictor(stored, config).prepare(options.image)
  [row] = prepared.rows
  model, variables = load_model(stored, config, data_mesh(num_devices=1))
  sizes = row['image_size'], row['valid_size']
  outputs = model.apply(variables, row['images'], *sizes, train=False)
  found = select_proposals(
    outputs, *sizes, settings=detection_settings(config.eval), preset=model.preset
  )
  pixels = mask_pixels(outputs.pixel_embedding, row['valid_size'], model.preset)[0]
  height, width = row['image_size'][0]
  chosen = found.location[0][np.asarray([int(k) for k in options.instances.split(',')])]
  log_probability = mask_log_probability(
    pixels,
    outputs.proposal_embedding[0][chosen],
    outputs.margin[0][chosen],
    spatial_dims=model.preset.spatial_dims,
  )
  cut = np.s_[: height // 4, : width // 4]
  maps = [np.asarray(one)[cut] for one in log_probability]
  margin = np.asarray(outputs.margin[0][found.location[0]])[np.asarray(found.valid[0])]
  colours = colours_of(np.asarray(pixels)[cut], margin, model.preset.spatial_dims)
  image = row['images'][0, :height, :width]
  boxes = [np.asarray(found.boxes[0][int(k)]) for k in options.instances.split(',')]
  shades = [instance_colour(2 * k) for k in range(len(boxes))]
  threshold = np.log(config.eval.mask_threshold)
  rows = [
    [with_boxes(image, boxes, shades)],
    [panel(colours, Image.Resampling.NEAREST)],
  ]
  for line, one, shade in zip(rows, maps, shades, strict=True):
    line.append(panel(heat(one), Image.Resampling.NEAREST))
    line.append(with_mask(image, one, threshold, shade))
  join(rows).save(options.output, quality=92)
  labels = [stored.metadata.class_names[int(k)] for k in found.labels[0]]
  for k in options.instances.split(','):
    print(labels[int(k)], f'{float(found.scores[0][int(k)]):.2f}')


def colours_of(pixels: np.ndarray, margin: np.ndarray, spatial_dims: int) -> np.ndarray:
  """uint8 [rows, columns, 3]: the three directions in which free dimensions vary most.

  A dimension counts as it does in the distances of the proposals found, on average.
  """
  weight = np.sqrt(margin.mean(axis=0) * np.ones(pixels.shape[-1]))[spatial_dims:]
  free = pixels[..., spatial_dims:] * weight
  flat = free.reshape(-1, free.shape[-1])
  flat = flat - flat.mean(axis=0)
  directions = np.linalg.svd(flat, full_matrices=False)[2][:3]
  values = flat @ directions.T
  low, high = np.percentile(values, (1, 99), axis=0)
  return as_bytes((values - low) / (high - low)).reshape(*free.shape[:2], 3)


def heat(log_probability: np.ndarray) -> np.ndarray:
  """uint8 [rows, columns, 3], black at DARKEST and below, by way of red to white."""
  value = 1 - np.clip(log_probability / DARKEST, 0, 1)
  return as_bytes(np.stack([2.2 * value, 1.8 * value - 0.5, 3 * value - 2], axis=-1))


def as_bytes(values: np.ndarray) -> np.ndarray:
  return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)


def panel(pixels: np.ndarray, resampling: Image.Resampling) -> Image.Image:
  return Image.fromarray(pixels).resize((PANEL, PANEL), resampling)


def with_boxes(image: np.ndarray, boxes: list, shades: list) -> Image.Image:
  drawn = panel(image, Image.Resampling.BICUBIC)
  factor = PANEL / image.shape[0]
  for box, shade in zip(boxes, shades, strict=True):
    corners = (box + np.asarray([0, 0, 1, 1])) * factor
    ImageDraw.Draw(drawn).rectangle(tuple(corners), outline=shade, width=3)
  return drawn


def with_mask(
  image: np.ndarray, log_probability: np.ndarray, threshold: float, shade: tuple
) -> Image.Image:
  """The pixels above the threshold in colour, the others grey."""
  smooth = Image.fromarray(log_probability).resize(
    (PANEL, PANEL), Image.Resampling.BILINEAR
  )
  mask = np.asarray(smooth)[..., None] > threshold
  base = np.asarray(panel(image, Image.Resampling.BICUBIC)).astype(np.float32)
  grey = 0.5 * base.mean(axis=-1, keepdims=True) + 60
  return Image.fromarray(
    np.where(mask, 0.45 * base + 0.55 * np.asarray(shade), grey).astype(np.uint8)
  )


def join(rows: list[list[Image.Image]]) -> Image.Image:
  step = PANEL + GAP
  size = (step * len(rows[0]) - GAP, step * len(rows) - GAP)
  sheet = Image.new('RGB', size, 'white')
  for top, row in enumerate(rows):
    for left, one in enumerate(row):
      sheet.paste(one, (left * step, top * step))
  return sheet


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  main()
