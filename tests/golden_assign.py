"""Assignment of many instances on a large canvas."""

from functools import partial

import jax
import numpy as np
from golden_batch import make_batch
from golden_data import from_polygons
from golden_losses import compare_choice
from golden_rule import unpack_masks
from golden_set import Arrays, GoldenSet
from golden_table import Report

from embedmask_jax.ops.locations import level_shapes
from embedmask_jax.structures import Batch, Targets
from embedmask_jax.targets import assign_targets


def check_assignment(golden: GoldenSet, report: Report) -> None:
  """Every `assign*.npz`."""
  for record in golden.records('assign.*'):
    arrays = golden.arrays(record)
    canvas = _canvas(arrays)
    batch = _batch(golden, arrays, canvas, report)
    targets = jax.jit(partial(assign_targets, preset=golden.preset))(batch)
    found = jax.tree.map(lambda leaf: np.asarray(leaf)[0], targets)
    matched = arrays['matched']
    positive = matched >= 0
    report.compare('targets: labels', record, found.labels + 1, arrays['labels'])
    report.compare('targets: matched instances', record, found.matched, matched)
    if 'reg_targets' in arrays:
      expected = arrays['reg_targets'][positive]
    else:
      expected = arrays['reg_targets_positives']
    report.compare(
      'targets: regression', record, found.box_regression[positive], expected
    )
    _compare_chosen(golden, report, record, arrays, batch, targets)


def _canvas(arrays: Arrays) -> tuple[int, int]:
  """The image is its canvas."""
  height, width = map(int, arrays['image_hw'])
  assert np.array_equal(level_shapes((height, width)), arrays['level_hw'])
  return height, width


def _batch(
  golden: GoldenSet, arrays: Arrays, canvas: tuple[int, int], report: Report
) -> Batch:
  """Recorded boxes, and masks as recorded or rasterised from the polygons."""
  polygons = golden.json('assign_polygons')['polygons']
  instances = [{'label': 0, 'polygons': instance} for instance in polygons]
  boxes, _, masks, cells, _ = from_polygons(instances, canvas, canvas)
  report.compare('targets: boxes from polygons', arrays.name, boxes, arrays['boxes'])
  if 'masks' in arrays:
    expected = unpack_masks(arrays['masks'], canvas)
    report.compare('targets: masks from polygons', arrays.name, masks, expected)
  return make_batch(
    canvas,
    np.array([canvas], np.int32),
    [
      (
        arrays['boxes'],
        arrays['labels_gt'],
        masks,
        np.unpackbits(cells, axis=-1).astype(bool),
      )
    ],
  )


def _compare_chosen(
  golden: GoldenSet,
  report: Report,
  record: str,
  arrays: Arrays,
  batch: Batch,
  targets: Targets,
) -> None:
  """The chosen locations, for every set of regression outputs in stride units."""
  positive = arrays['matched'] >= 0
  canvas = batch.images.shape[1:3]
  sets = {}
  if 'bbox_reg_stride_units' in arrays:
    sets[''] = arrays['bbox_reg_stride_units']
  for name in arrays.names(r'\w+_bbox_reg_positives'):
    regression = np.zeros((len(positive), 4), np.float32)
    regression[positive] = arrays[name]
    sets[name.removesuffix('bbox_reg_positives')] = regression
  for prefix, regression in sets.items():
    compare_choice(
      report,
      f'{record} {prefix}'.strip(' _'),
      arrays,
      prefix,
      regression,
      jax.tree.map(lambda leaf: leaf[0], targets),
      batch.boxes[0],
      canvas,
      golden.preset,
      gap='gap',
    )
