"""Tiles against the whole image, with a trained model at one scale.

  python experiments/tiling/compare.py CHECKPOINT IMAGE... [--tile=256] [--overlap=64]
    [--scale=2]

Both ways the network sees `scale` of its pixels for a pixel of the image. A line for
each image: what the whole has, what the tiles have before and after merging, how many
of both are one object (IoU of masks from 0.5 on) and their mean IoU, and of the
objects that touch a border of a tile how many are found again.
"""

import argparse
import sys

import numpy as np

from embedmask_jax.checkpoint import open_checkpoint
from embedmask_jax.image_files import read_image
from embedmask_jax.predict import Prediction, Predictor
from embedmask_jax.predict.tiles import plan_tiles


def iou_table(one: Prediction, other: Prediction) -> np.ndarray:
  """IoU of the masks, float [n, m]."""
  table = np.zeros((len(one), len(other)))
  for i, a in enumerate(one.windows):
    for k, b in enumerate(other.windows):
      shared = np.count_nonzero(a.pixels & b.cut(a.top, a.left, a.bottom, a.right))
      table[i, k] = shared / max(a.area + b.area - shared, 1)
  return table


def match(table: np.ndarray) -> list[tuple[int, int]]:
  """Pairs of one object, best first, each used once."""
  pairs = []
  table = table.copy()
  while table.size and table.max() >= 0.5:
    i, k = np.unravel_index(table.argmax(), table.shape)
    pairs.append((int(i), int(k)))
    table[i], table[:, k] = 0, 0
  return pairs


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('checkpoint')
  parser.add_argument('images', nargs='+')
  parser.add_argument('--tile', type=int, default=256)
  parser.add_argument('--overlap', type=int, default=64)
  parser.add_argument('--scale', type=float, default=2.0)
  parser.add_argument('--score', type=float, default=0.3)
  options = parser.parse_args()
  stored = open_checkpoint(options.checkpoint)

  def predictor(side: int, tile: int) -> Predictor:
    config = stored.metadata.config.copy_and_resolve_references()
    config.data.eval_short_side = round(options.scale * side)
    config.data.long_side = round(options.scale * side * 8)
    return Predictor(
      stored,
      config,
      score_threshold=options.score,
      max_detections=1000,
      tile=tile,
      overlap=options.overlap if tile else 0,
    )

  tiled = predictor(options.tile, options.tile)
  totals = np.zeros(7, np.int64)
  ious: list[float] = []
  print('image  whole  tiles  merged  same  mean_IoU  on_borders  found_again')
  for path in options.images:
    image = read_image(path)
    [whole] = predictor(min(image.shape[:2]), 0)([image])
    tiles = plan_tiles(image.shape, options.tile, options.overlap)
    prepared = tiled.prepare(image)
    [raw] = tiled.detect([prepared])
    merged = tiled.finish(raw)
    table = iou_table(whole, merged)
    pairs = match(table)
    ious += [float(table[pair]) for pair in pairs]
    border = np.zeros(image.shape[:2], bool)
    for tile in tiles:
      for is_cut, rows, columns in zip(
        tile.cut_sides,
        (tile.top, slice(None), tile.bottom - 1, slice(None)),
        (slice(None), tile.left, slice(None), tile.right - 1),
        strict=True,
      ):
        if is_cut:
          border[rows, columns] = True
    on_border = {
      i
      for i, w in enumerate(whole.windows)
      if (w.pixels & border[w.top : w.bottom, w.left : w.right]).any()
    }
    row = [
      len(whole),
      sum(len(found.scores) for found in raw.found),
      len(merged),
      len(pairs),
      len(on_border),
      len(on_border & {i for i, _ in pairs}),
      len(tiles),
    ]
    totals += row
    mean = np.mean([table[pair] for pair in pairs]) if pairs else float('nan')
    name = path.rpartition('/')[2][:24]
    print(name, *row[:4], f'{mean:.3f}', *row[4:6], f'({row[6]} tiles)')
  mean = np.mean(ious) if ious else float('nan')
  print('all', *totals[:4], f'{mean:.3f}', *totals[4:6], f'({totals[6]} tiles)')
  return 0


if __name__ == '__main__':
  sys.exit(main())
