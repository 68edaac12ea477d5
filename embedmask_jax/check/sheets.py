"""Contact sheets: images as annotated, and as the network sees them with targets."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from embedmask_jax.check.assignment import matched_instances
from embedmask_jax.data.decode import decode_image
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.masks import CELL, decode_mask
from embedmask_jax.data.rows import fill_row
from embedmask_jax.data.sampler import PlannedRow, TrainPlan
from embedmask_jax.data.transforms import empty_batch
from embedmask_jax.ops.locations import location_strides, locations
from embedmask_jax.presets import Preset
from embedmask_jax.structures import Batch
from embedmask_jax.visualize import (
  LazyMasks,
  draw_detections,
  grid,
  instance_colour,
)

_PICTURES = 12
_STEPS = 100  # of training that are looked through for them
_CELL_SIDE = 480  # pixels of the sheet, at most


def save_sheets(
  source: ImageSource,
  plan: TrainPlan,
  preset: Preset,
  folder: Path,
  broken: Collection[int],
) -> None:
  """Writes annotated.jpg and network.jpg, up to twelve pictures each.

  The first shows images spread over the data set. The second shows the first images
  of training: augmented, in the corner of their canvas, with boxes, stride-4 masks
  and a dot, in the colour of its instance, for every positive location; the wider the
  dot the higher the level. It is absent where no such image can be decoded.

  Args:
    source: the data set.
    plan: of training.
    preset: for the targets.
    folder: must exist.
    broken: positions of images that cannot be decoded; they are left out.
  """
  usable = [i for i in range(len(source)) if i not in broken]
  if not usable:
    return
  with_instances = [i for i in usable if source.instance_counts[i]] or usable
  chosen = np.unique(np.linspace(0, len(with_instances) - 1, _PICTURES).astype(int))
  annotated = [draw_annotated(source, with_instances[i]) for i in chosen.tolist()]
  _save(annotated, folder / 'annotated.jpg')
  seen: list[np.ndarray] = []
  for step in range(_STEPS):
    batch = plan[step]
    rows = [row for row in batch.rows if not any(i in broken for i in _reads(row))]
    rows = rows[: _PICTURES - len(seen)]
    seen += [_as_seen(source, row, batch.num_instances, preset) for row in rows]
    if len(seen) >= min(_PICTURES, len(usable)):
      break
  (folder / 'network.jpg').unlink(missing_ok=True)
  if seen:
    _save(seen, folder / 'network.jpg')


def _save(pictures: list[np.ndarray], path: Path) -> None:
  small = []
  for picture in pictures:
    image = Image.fromarray(picture)
    image.thumbnail((_CELL_SIDE, _CELL_SIDE), Image.Resampling.LANCZOS)
    small.append(np.asarray(image))
  Image.fromarray(grid(small, columns=4)).save(path, quality=90)


def draw_annotated(source: ImageSource, index: int) -> np.ndarray:
  """An image with its training instances drawn in.

  Args:
    source: the data set.
    index: position of the image.

  Returns:
    uint8 [f * h, f * w, 3]; see `draw_detections` for the factor f.

  Raises:
    UserError: the image cannot be read.
  """
  record = source[index]
  size = (record.height, record.width)
  return draw_detections(
    decode_image(record.encoded, record.file_name, size),
    record.boxes,
    LazyMasks(record.segmentations, lambda item: decode_mask(item, size)),
    record.labels,
    None,
    source.class_names,
  )


def _reads(row: PlannedRow) -> tuple[int, ...]:
  """Positions of the images that a row is made from."""
  return (row.index, row.paste.index) if row.paste else (row.index,)


def _as_seen(
  source: ImageSource, row: PlannedRow, num_instances: int, preset: Preset
) -> np.ndarray:
  canvas = row.view.canvas
  arrays = empty_batch(1, canvas, num_instances)
  fill_row(arrays, 0, source.__getitem__, row)
  count = int(arrays['instance_valid'][0].sum())
  cells = np.unpackbits(arrays['masks'][0, :count], axis=-1).astype(bool)
  masks = LazyMasks(cells, lambda mask: mask.repeat(CELL, 0).repeat(CELL, 1))
  picture = draw_detections(
    arrays['images'][0],
    arrays['boxes'][0, :count],
    masks,
    arrays['labels'][0, :count],
    None,
    source.class_names,
  )
  matched = matched_instances(Batch(**arrays), preset)
  image = Image.fromarray(picture)
  draw = ImageDraw.Draw(image)
  scale = picture.shape[0] / canvas[0]
  strides = location_strides(canvas)
  for place in np.flatnonzero(matched >= 0):
    x, y = ((locations(canvas)[place] + 0.5) * scale).tolist()
    radius = scale * (1 + strides[place] / 8)
    draw.ellipse(
      (x - radius, y - radius, x + radius, y + radius),
      fill=instance_colour(int(matched[place])),
      outline='white',
    )
  return np.asarray(image)
