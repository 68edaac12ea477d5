"""Detections against recorded ones: sets, boxes, scores, masks."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from golden_rule import unpack_masks
from golden_set import Arrays, GoldenSet
from golden_table import TOLERANCES, Report

from embedmask_jax.mask_readout import mask_pixels, read_mask
from embedmask_jax.ops.resize import aligned_upsample
from embedmask_jax.postprocess import DetectionSettings, detect, mask_threshold
from embedmask_jax.presets import Preset
from embedmask_jax.stored_model import detection_settings
from embedmask_jax.structures import Detections, HeadOutputs

# Detections that one turned decision may add and take away.
_PER_DECISION = 2


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of a record's images, int32 [B, 2] each, and its network canvas."""

  image: np.ndarray
  valid: np.ndarray
  original: np.ndarray
  canvas: tuple[int, int]

  @classmethod
  def of(cls, post: Arrays, canvas: tuple[int, int]) -> 'Sizes':
    """Reads them; the valid area is the canvas, as in the original."""
    image = post['image_sizes_hw'].astype(np.int32)
    valid = np.full_like(image, canvas)
    return cls(image, valid, post['orig_sizes_hw'].astype(np.int32), canvas)

  @property
  def output_canvas(self) -> tuple[int, int]:
    """The smallest that holds the originals and packs into bytes."""
    height, width = self.original.max(axis=0)
    return int(height), int(-(-width // 8) * 8)


def settings_of(golden: GoldenSet) -> DetectionSettings:
  """Those of the preset's config."""
  return detection_settings(golden.config().eval)


def number_of(post: Arrays) -> int:
  """The most detections that the cap and its ties left in an image."""
  name = 'n_detections' if 'n_detections' in post else 'n_final'
  return int(post[name].max(initial=0))


def detections_of(
  golden: GoldenSet, outputs: HeadOutputs, sizes: Sizes, count: int
) -> Detections:
  """The detections; `count` where ties left the original with more than its cap."""
  settings = settings_of(golden)
  settings = dataclasses.replace(
    settings, max_detections=max(settings.max_detections, count)
  )
  run = _compiled(settings, golden.preset, sizes.output_canvas)
  return jax.tree.map(
    np.asarray, run(outputs, sizes.image, sizes.valid, sizes.original)
  )


@cache
def _compiled(
  settings: DetectionSettings, preset: Preset, output_canvas: tuple[int, int]
):
  return jax.jit(
    partial(
      detect,
      settings=settings,
      preset=preset,
      output_canvas=output_canvas,
    )
  )


def pairs_of(found: Detections, post: Arrays, i: int) -> tuple[list[int], list[int]]:
  """Rows of ours and theirs that are one detection: one location and class."""
  count = int(post['n_final'][i])
  ours = {
    (int(found.location[i, k]), int(found.labels[i, k]) + 1): k
    for k in range(len(found.valid[i]))
    if found.valid[i, k] and k < max(count, DetectionSettings.max_detections)
  }
  theirs = {
    (int(location), int(label)): k
    for k, (location, label) in enumerate(
      zip(post[f'im{i}_loc_index'], post[f'im{i}_labels'], strict=True)
    )
  }
  both = [key for key in theirs if key in ours]
  return [ours[key] for key in both], [theirs[key] for key in both]


def count_differences(found: Detections, post: Arrays, i: int) -> int:
  """How many detections one side has and the other has not."""
  ours, _ = pairs_of(found, post, i)
  cap = max(int(post['n_final'][i]), DetectionSettings.max_detections)
  return int(found.valid[i][:cap].sum()) + int(post['n_final'][i]) - 2 * len(ours)


def decisions_in_doubt(
  report: Report, record: str, post: Arrays, noise: tuple[float, float, float]
) -> int:
  """How many detections rounding may turn, which is noted in the report.

  Args:
    report: where to.
    record: name of the record.
    post: with `margins`, the distances of the closest decisions to their thresholds:
      class scores, IoUs, final scores at the cap (0 there is a tie, not noise).
    noise: of the three.
  """
  margins = post['margins']
  is_near = (margins < noise) & (margins > 0)
  if is_near.any():
    report.note(f'{record}: decisions within noise, margins {margins.tolist()}')
  return _PER_DECISION * int(is_near.sum())


def compare_detections(
  golden: GoldenSet,
  report: Report,
  kind: str,
  record: str,
  outputs: HeadOutputs,
  found: Detections,
  post: Arrays,
  sizes: Sizes,
  *,
  allowed: int = 0,
) -> None:
  """Compares detections with a `post_*` record.

  Args:
    golden: the record's set.
    report: where to.
    kind: 'from heads' or 'from pixels', for the tolerances.
    record: name of the record.
    outputs: the head outputs that the detections come from.
    found: ours.
    post: theirs.
    sizes: of the images.
    allowed: detections that only one side may have, per image.
  """
  for i in range(len(sizes.image)):
    differences = max(count_differences(found, post, i) - allowed, 0)
    report.observe(f'detections {kind}: missing or extra', record, differences)
    scores = found.scores[i][found.valid[i]]
    rises = int(np.sum(np.diff(scores) > 0))
    report.observe(f'detections {kind}: order of scores', record, rises)
    pairs = pairs_of(found, post, i)
    _compare_numbers(golden, report, kind, record, found, post, i, pairs)
    _compare_masks(golden, report, kind, record, outputs, found, post, sizes, i, pairs)


def _compare_numbers(
  golden: GoldenSet,
  report: Report,
  kind: str,
  record: str,
  found: Detections,
  post: Arrays,
  i: int,
  pairs: tuple[list[int], list[int]],
) -> None:
  ours, theirs = pairs
  boxes = post[f'im{i}_boxes'][theirs]
  report.compare(
    f'detections {kind}: boxes', record, found.network_boxes[i][ours], boxes
  )
  scores = post[f'im{i}_scores'][theirs]
  report.compare(f'detections {kind}: scores', record, found.scores[i][ours], scores)
  x1, y1, x2, y2 = found.boxes[i][ours].T
  extent = golden.preset.box_extent
  report.compare(
    f'detections {kind}: boxes in the original',
    record,
    np.stack([x1, y1, x2 - x1 + extent, y2 - y1 + extent], axis=-1),
    post[f'im{i}_coco_xywh'][theirs],
  )


def _compare_masks(
  golden: GoldenSet,
  report: Report,
  kind: str,
  record: str,
  outputs: HeadOutputs,
  found: Detections,
  post: Arrays,
  sizes: Sizes,
  i: int,
  pairs: tuple[list[int], list[int]],
) -> None:
  row_of = _with_one_window(golden.preset, report, record, found, post, i, pairs)
  height, width = map(int, sizes.original[i])
  masks = np.unpackbits(found.masks[i], axis=-1).astype(bool)
  inside = masks[:, :height, :width]
  quantity = f'detections {kind}: mask areas'
  report.observe(quantity, record, float(masks.sum() - inside.sum()))
  for k, area in enumerate(post[f'im{i}_coco_mask_area']):
    if k in row_of:
      error = abs(int(inside[row_of[k]].sum()) - int(area)) / (height * width)
      report.observe(quantity, record, error)
  if f'im{i}_top' not in post:
    return
  grids = mask_grids(golden.preset, outputs, found, sizes, i)
  grid = tuple(map(int, post['mask_grid_hw']))
  threshold = mask_threshold(settings_of(golden), golden.preset)
  # Cells as near to the threshold as the noise may count or not.
  noise = TOLERANCES[f'detections {kind}: {_read_out(golden.preset)}'].limit
  for k, cells in enumerate(post[f'im{i}_mask_cells']):
    if k in row_of:
      least, most = (
        int((grids[row_of[k]] > threshold + sign * noise).sum()) for sign in (1, -1)
      )
      error = max(least - int(cells), int(cells) - most, 0)
      quantity = f'detections {kind}: mask cells'
      report.observe(quantity, record, error / (grid[0] * grid[1]))

  if f'im{i}_half_rows' in post:
    rows_there = post[f'im{i}_half_rows'].tolist()
    known = [n for n, k in enumerate(rows_there) if k in row_of]
    rows = [row_of[rows_there[n]] for n in known]
    quantity = f'detections {kind}: mask probability, half precision'
    report.compare(quantity, record, grids[rows], post[f'im{i}_half_prob'][known])
  top = [int(k) for k in post[f'im{i}_top']]
  known = [n for n, k in enumerate(top) if k in row_of]
  rows = [row_of[top[n]] for n in known]
  for name, quantity in (
    ('logp', 'mask log-probability'),
    ('prob', 'mask probability'),
  ):
    if f'im{i}_top_mask_{name}' in post:
      expected = post[f'im{i}_top_mask_{name}'][known]
      report.compare(f'detections {kind}: {quantity}', record, grids[rows], expected)
  expected = unpack_masks(post[f'im{i}_top_coco_masks'], (height, width))
  for row, n in zip(rows, known, strict=True):
    error = float(np.mean(inside[row] != expected[n]))
    report.observe(f'detections {kind}: masks', record, error)


def _with_one_window(
  preset: Preset,
  report: Report,
  record: str,
  found: Detections,
  post: Arrays,
  i: int,
  pairs: tuple[list[int], list[int]],
) -> dict[int, int]:
  """Their row -> our row, of detections whose boxes open the same mask window.

  A preset whose masks have no window has no such doubt.

  Boxes that differ in the last digits may lie on both sides of a multiple of 4
  pixels, where the window grows by a cell.
  """
  rows = {}
  for ours, theirs in zip(*pairs, strict=True):
    boxes = found.network_boxes[i][ours], post[f'im{i}_boxes'][theirs]
    has_window = preset.read_out != 'whole_probability'
    if not has_window or np.array_equal(*((box / 4).astype(int) for box in boxes)):
      rows[theirs] = ours
    else:
      report.note(f'{record} image {i}: mask {theirs} skipped, its window is in doubt')
  return rows


def _read_out(preset: Preset) -> str:
  """The quantity that a mask is thresholded by."""
  is_log = preset.read_out == 'log_probability'
  return 'mask log-probability' if is_log else 'mask probability'


def mask_grids(
  preset: Preset, outputs: HeadOutputs, found: Detections, sizes: Sizes, i: int
) -> np.ndarray:
  """What is read of an image's detections at stride 4, [K, rows, columns]."""
  valid = jnp.asarray(sizes.valid)
  pixels = mask_pixels(outputs.pixel_embedding, valid, preset)
  location = found.location[i]
  grids = read_mask(
    pixels[i],
    outputs.proposal_embedding[i][location],
    outputs.margin[i][location],
    jnp.asarray(found.network_boxes[i]),
    valid[i] // 4,
    preset=preset,
  )
  if preset.read_out == 'whole_probability':
    last = jnp.moveaxis(grids, 0, -1)[None]
    grids = jnp.moveaxis(aligned_upsample(last, valid[i : i + 1] // 8, 2)[0], -1, 0)
  return np.asarray(grids)
