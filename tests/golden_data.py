"""Ground truth from annotations: boxes, masks, sizes, against recorded ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from golden_batch import batch_of, make_batch
from golden_rule import unpack_masks
from golden_set import Arrays, GoldenSet, canvas_of
from golden_table import Report
from pycocotools import mask as coco_mask

from configs import base
from embedmask_jax.data.annotations import AnnotationTable, Use, classify, clip_boxes
from embedmask_jax.data.masks import pack_masks, rasterize_polygons
from embedmask_jax.data.segmentations import MaskState, parse_segmentation
from embedmask_jax.data.transforms import show_boxes
from embedmask_jax.data.views import resize_sizes, round_up, whole_view
from embedmask_jax.presets import PRESETS, Preset
from embedmask_jax.structures import Batch

# detectron2 keeps boxes with larger sides, in pixels.
_LEAST_SIDE = 1e-5
Size = tuple[int, int]
Polygons = Sequence[Sequence[float]]


def check_data(golden: GoldenSet, report: Report) -> None:
  """The data records of `unit.npz`, and the instances of the loss index."""
  if golden.has('unit.npz'):
    unit = golden.arrays('unit')
    polygons = golden.json('unit_polygons')
    if 'resize_table' in unit:
      _resize_table(unit, report)
    if 'clip_kept_out' in unit:
      _boxes_left(unit, report)
    if 'maskdown_in' in unit:
      _mask_reduction(unit, report)
    if 'raster_masks' in unit:
      _rasteriser(unit, polygons['raster_polygons'], report)
    if 'tf_masks_orig' in unit:
      _transforms(unit, polygons['tf_polygons'], report)
  for record in golden.records(r'loss_[^_]+'):
    entry = golden.json('loss_index').get(record.removeprefix('loss_'))
    if isinstance(entry, dict):
      _loss_instances(
        golden.preset, golden.arrays(record), record, entry['instances'], report
      )


def _resize_table(unit: Arrays, report: Report) -> None:
  for width, height, short, long, *expected in unit['resize_table']:
    found = resize_sizes(np.array([[height, width]]), int(short), int(long))[0]
    report.compare('unit: resize table', f'{width}x{height}', found, expected)


def _boxes_left(unit: Arrays, report: Report) -> None:
  x1, y1, x2, y2 = unit['clip_boxes'].astype(np.float64).T
  boxes = np.stack([x1, y1, x2 - x1 + 1, y2 - y1 + 1], axis=-1)
  width, height = map(int, unit['clip_size_wh'])
  clipped, is_kept = _usable(boxes, (height, width))
  report.compare(
    'unit: boxes left by clipping', 'clip', clipped[is_kept], unit['clip_kept_out']
  )


def _mask_reduction(unit: Arrays, report: Report) -> None:
  """Full masks on a larger canvas, to stride 4."""
  size, canvas, small = (tuple(map(int, row)) for row in unit['maskdown_shapes'])
  masks = unpack_masks(unit['maskdown_in'], size)
  runs = [coco_mask.encode(np.asfortranarray(mask))['counts'] for mask in masks]
  found, *_ = pack_masks(runs, size, whole_view(size, canvas))
  report.compare(
    'unit: mask reduction',
    'maskdown',
    np.unpackbits(found, axis=-1).astype(bool),
    unpack_masks(unit['maskdown_out'], small),
  )


def _rasteriser(unit: Arrays, polygons: Sequence[Polygons], report: Report) -> None:
  width, height = map(int, unit['raster_size_wh'])
  expected = unpack_masks(unit['raster_masks'], (height, width))
  for i, (instance, mask) in enumerate(zip(polygons, expected, strict=True)):
    found = rasterised(instance, (height, width), (height, width))
    report.compare('unit: rasteriser', f'raster {i}', found, mask)


def _transforms(unit: Arrays, polygons: Sequence[Polygons], report: Report) -> None:
  """Two instances as given, resized, then mirrored."""
  original, resized = (
    (int(height), int(width)) for width, height in unit['tf_sizes_wh']
  )
  for name, size, is_flipped in (
    ('orig', original, False),
    ('resized', resized, False),
    ('flipped', resized, True),
  ):
    expected = unpack_masks(unit[f'tf_masks_{name}'], size)
    for i, (instance, mask) in enumerate(zip(polygons, expected, strict=True)):
      found = rasterised(instance, original, size, is_flipped=is_flipped)
      report.compare('unit: rasteriser', f'tf {name} {i}', found, mask)
    if name != 'orig':
      canvas = round_up(size[0]), round_up(size[1])
      view = whole_view(size, canvas, is_flipped=is_flipped)
      boxes, _ = show_boxes(unit['tf_boxes'], original, view)
      quantity = 'unit: boxes resized and flipped'
      report.compare(quantity, f'tf {name}', boxes, unit[f'tf_boxes_{name}'])


def rasterised(
  polygons: Polygons,
  original: Size,
  size: Size,
  *,
  is_flipped: bool = False,
  preset: Preset = PRESETS['2021'],
) -> np.ndarray:
  """bool [h, w] of an instance's polygons."""
  parsed, _ = parse_segmentation([list(p) for p in polygons], original)
  runs = rasterize_polygons(
    parsed, original, size, is_flipped=is_flipped, preset=preset
  )
  return coco_mask.decode({'size': list(size), 'counts': runs}).astype(bool)


def _loss_instances(
  preset: Preset,
  arrays: Arrays,
  record: str,
  instances: Sequence[Sequence[Mapping[str, Any]]],
  report: Report,
) -> None:
  """The recorded ground truth, made anew from the index's polygons."""
  canvas = canvas_of(arrays)
  recorded = batch_of(arrays)
  sizes = [tuple(map(int, size)) for size in arrays['image_sizes_hw']]
  for i, (own, size) in enumerate(zip(instances, sizes, strict=True)):
    boxes, labels, masks, small_masks, at_locations = from_polygons(
      own, size, canvas, preset
    )
    count = len(arrays[f'im{i}_labels'])
    report.compare(
      'targets: boxes from polygons', record, boxes, arrays[f'im{i}_boxes']
    )
    report.compare(
      'targets: labels from polygons', record, labels, arrays[f'im{i}_labels']
    )
    quantity = 'targets: masks from polygons'
    report.compare(quantity, record, masks, unpack_masks(arrays[f'im{i}_masks'], size))
    report.compare(quantity, record, small_masks, recorded.masks[i, :count])
    found = at_locations
    report.compare(quantity, record, found, recorded.location_masks[i, :count])
    if f'im{i}_centroids' in arrays:
      found, expected = recorded.mask_centroid[i, :count], arrays[f'im{i}_centroids']
      report.compare('targets: centroids', record, found, expected)
  if 'im_hw_for_targets' not in arrays:
    return
  # The look-up of the recorded masks takes a larger canvas than ours.
  height, width = arrays['im_hw_for_targets']
  report.observe(
    'targets: canvas of the look-up',
    record,
    float(height < canvas[0] or width < canvas[1]),
  )


def from_polygons(
  instances: Sequence[Mapping[str, Any]],
  size: Size,
  canvas: Size,
  preset: Preset = PRESETS['2021'],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """What the data code makes of instances of an image that keeps its size.

  Returns:
    Of the n usable instances: boxes float32 [n, 4], labels [n] from 1, masks bool
    [n, h, w], and as `Batch` has them packed stride-4 masks and location masks.
  """
  boxes, is_kept = _usable(
    hulls([item['polygons'] for item in instances]), size, preset
  )
  kept = [item for item, keep in zip(instances, is_kept, strict=True) if keep]
  polygons = [
    parse_segmentation([list(p) for p in item['polygons']], size)[0] for item in kept
  ]
  masks = [rasterised(item['polygons'], size, size, preset=preset) for item in kept]
  view = whole_view(size, canvas, preset=preset)
  cells, at_locations, *_ = pack_masks(polygons, size, view)
  return (
    boxes[is_kept],
    np.array([item['label'] for item in kept], np.int32),
    np.array(masks, bool).reshape(-1, *size),
    cells,
    at_locations,
  )


def hulls(polygons: Sequence[Polygons]) -> np.ndarray:
  """COCO boxes x, y, width, height around instances, float64 [n, 4]."""
  boxes = []
  for instance in polygons:
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in instance])
    low, high = points.min(axis=0), points.max(axis=0)
    boxes.append([*low, *(high - low)])
  return np.array(boxes, np.float64).reshape(-1, 4)


def _usable(
  boxes: np.ndarray, size: Size, preset: Preset = PRESETS['2021']
) -> tuple[np.ndarray, np.ndarray]:
  """Clipped boxes float32 [n, 4] of COCO boxes, and which the paper's configs keep."""
  count = len(boxes)
  ids = np.arange(count)
  table = AnnotationTable(
    image_ids=np.zeros(1, np.int64),
    file_names=('image',),
    sizes=np.array([size], np.int32),
    categories=((1, 'class'),),
    first=np.array([0, count]),
    annotation_ids=ids,
    category_ids=np.ones(count, np.int64),
    boxes=boxes,
    is_crowd=np.zeros(count, bool),
    mask_states=np.full(count, MaskState.USABLE, np.uint8),
    has_short_polygons=np.zeros(count, bool),
  )
  extent = preset.box_extent
  least = base.get_config().data.min_box_side if extent else _LEAST_SIDE
  uses = classify(table, least, extent=extent)
  sizes = np.repeat(table.sizes, count, axis=0)
  return clip_boxes(boxes, sizes, extent=extent), uses == Use.INSTANCE


def batch_from_polygons(
  instances: Sequence[Sequence[Mapping[str, Any]]],
  sizes: Sequence[Size],
  canvas: Size,
  images: np.ndarray,
  preset: Preset,
) -> Batch:
  """The batch of images whose instances are polygons."""
  truth = []
  for own, size in zip(instances, sizes, strict=True):
    boxes, labels, masks, cells, _ = from_polygons(own, tuple(size), canvas, preset)
    small_masks = np.unpackbits(cells, axis=-1).astype(bool)
    truth.append((boxes, labels, masks, small_masks))
  return make_batch(canvas, np.asarray(sizes, np.int32), truth, images)
