"""Which objects the targets can represent at the size the network sees them at."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from embedmask_jax.data.eval_plan import EvalPlan
from embedmask_jax.data.image_source import ImageRecord, ImageSource
from embedmask_jax.data.masks import CELL, decode_mask, encode_mask
from embedmask_jax.data.sampler import pad_to_ladder
from embedmask_jax.data.transforms import empty_batch, fill_instances
from embedmask_jax.data.views import View
from embedmask_jax.mask_readout import resize_weights
from embedmask_jax.ops.locations import location_levels
from embedmask_jax.presets import Preset
from embedmask_jax.structures import Batch
from embedmask_jax.targets import LEVEL_RANGES, assign_targets

# So that one compiled assignment serves many images.
_LADDER = (8, 32, 128, 512)
_ROUNDING = 256

_CUTS = (0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Representation:
  """What is left of the ground truth when it is put as targets and read back.

  Attributes:
    results: COCO results, score 1, of every training instance that has a positive
      location: its box as annotated, its stride-4 mask brought back to the image.
    without_location: annotation ids of instances without a positive location, because
      there is none in their centre region that regresses their size.
    off_mask: annotation ids of those that have such locations, but beside their mask.
    taken: annotation ids of those whose locations all went to other instances.
    without_cell: annotation ids of instances whose stride-4 mask is empty.
    by_level: positive locations of every level P3..P7.
    locations_of: number of positive locations of every instance that has some.
  """

  results: list[dict[str, Any]]
  without_location: list[int]
  off_mask: list[int]
  taken: list[int]
  without_cell: list[int]
  by_level: np.ndarray
  locations_of: list[int]


def represent(
  source: ImageSource, view_settings: dict[str, Any], broken: Collection[int] = ()
) -> Representation:
  """Assigns targets to all images as evaluation sees them: whole and not mirrored.

  Training shows an image at other sizes and in cuts as well, so what has no location
  here may have one there, and the other way round.

  Args:
    source: the data set.
    view_settings: of `EvalPlan`, but for sizes and batch size.
    broken: positions of images that cannot be decoded: nothing of them is found.
  """
  found = Representation([], [], [], [], [], np.zeros(len(LEVEL_RANGES), np.int64), [])
  preset = view_settings['preset']
  plan = EvalPlan(sizes=source.sizes, batch_size=1, **view_settings)
  steps = tqdm(
    range(len(plan)), desc='assigning', unit='image', leave=False, disable=None
  )
  for step in steps:
    (row,) = plan[step].rows
    if row.index not in broken and source.instance_counts[row.index]:
      record = source[row.index]
      _represent_image(record, row.view, preset, source.category_ids, found)
  return found


def _represent_image(
  record: ImageRecord,
  view: View,
  preset: Preset,
  category_ids: tuple[int, ...],
  found: Representation,
) -> None:
  count = len(record.labels)
  batch = instance_batch(record, view, pad_to_ladder(count, _LADDER))
  matched = matched_instances(batch, preset)
  positives = np.bincount(matched[matched >= 0], minlength=count)
  found.by_level[:] += np.bincount(
    location_levels(view.canvas)[matched >= 0], minlength=len(found.by_level)
  )
  cells = np.unpackbits(batch.masks[0, :count], axis=-1).astype(bool)
  size = (record.height, record.width)
  weights = weights_to_image(view, size)
  for index, annotation_id in enumerate(record.annotation_ids.tolist()):
    if not cells[index].any():
      found.without_cell.append(annotation_id)
    if not positives[index]:
      _reason(batch, index, preset, found).append(annotation_id)
      continue
    found.locations_of.append(int(positives[index]))
    x1, y1, x2, y2 = record.boxes[index].tolist()
    extent = preset.box_extent
    mask = decode_mask(record.segmentations[index], size)
    found.results.append(
      {
        'image_id': record.image_id,
        'category_id': category_ids[record.labels[index]],
        'bbox': [x1, y1, x2 - x1 + extent, y2 - y1 + extent],
        'score': 1.0,
        'segmentation': encode_mask(read_back(cells[index], weights, mask)),
      }
    )


def instance_batch(record: ImageRecord, view: View, num_instances: int) -> Batch:
  """A batch of one image with all its instances; the pixels stay black."""
  arrays = empty_batch(1, view.canvas, num_instances)
  fill_instances(arrays, 0, record, view)
  arrays['image_size'][0] = view.image_size
  arrays['valid_size'][0] = view.valid_size
  arrays['original_size'][0] = record.height, record.width
  arrays['example_valid'][0] = True
  return Batch(**arrays)


@partial(jax.jit, static_argnames='preset')
def _assigned(batch: Batch, preset: Preset) -> jax.Array:
  return assign_targets(batch, preset).matched


def matched_instances(batch: Batch, preset: Preset) -> np.ndarray:
  """int32 [P], the instance that every location of a single image learns, or -1."""
  return np.asarray(_assigned(batch, preset))[0]


def _reason(
  batch: Batch, index: int, preset: Preset, found: Representation
) -> list[int]:
  """The list that an instance without a positive location belongs to."""
  # By itself, in the same shapes, so that nothing is compiled again.
  is_it = np.arange(batch.instance_valid.shape[1]) == index
  alone = dataclasses.replace(batch, instance_valid=batch.instance_valid & is_it)
  if (matched_instances(alone, preset) >= 0).any():
    return found.taken
  whole = np.full_like(batch.location_masks, 255)
  alone = dataclasses.replace(alone, location_masks=whole)
  if (matched_instances(alone, preset) >= 0).any():
    return found.off_mask
  return found.without_location


def read_back(
  cells: np.ndarray, weights: tuple[np.ndarray, np.ndarray], mask: np.ndarray
) -> np.ndarray:
  """A stride-4 mask in the image: resized bilinearly, and cut where it fits best.

  Args:
    cells: bool [H/4, W/4].
    weights: of `weights_to_image`.
    mask: bool [height, width], what is to be come near.

  Returns:
    bool [height, width], of the cuts at 0.4, 0.5 ... 0.8 that of the best IoU.
  """
  by_row, by_column = weights
  found = np.zeros(mask.shape, bool)
  # Only the part of the image that the mask's cells reach.
  rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
  by_row, by_column = by_row[:, rows], by_column[:, columns]
  reached = np.ix_(by_row.any(1), by_column.any(1))
  part = cells[np.ix_(rows, columns)].astype(np.float32)
  values = by_row[reached[0][:, 0]] @ part @ by_column[reached[1][0]].T
  area, wanted = mask.sum(), mask[reached]

  def iou(cut: np.ndarray) -> float:
    common = (cut & wanted).sum()
    return common / max(area + cut.sum() - common, 1)

  found[reached] = max((values > threshold for threshold in _CUTS), key=iou)
  return found


def weights_to_image(
  view: View, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """The matrices that bring the rows and columns of stride-4 masks to the image.

  Args:
    view: of the whole image.
    size: (height, width) of the stored image.

  Returns:
    float32 [height, H/4] and [width, W/4].
  """
  grid = view.canvas[0] // CELL, view.canvas[1] // CELL
  # Few output canvases, so that few programs are compiled.
  canvas = tuple(-(-side // _ROUNDING) * _ROUNDING for side in size)
  sizes = (np.asarray(s, np.int32) for s in (view.image_size, view.valid_size, size))
  by_row, by_column = _resize_weights(grid, canvas, *sizes)
  return np.asarray(by_row)[: size[0]], np.asarray(by_column)[: size[1]]


@partial(jax.jit, static_argnums=(0, 1))
def _resize_weights(
  grid: tuple[int, int],
  canvas: tuple[int, int],
  image_size: jax.Array,
  valid_size: jax.Array,
  original_size: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  return resize_weights(
    grid, canvas, image_size, valid_size, original_size, stride=CELL
  )
