"""Any canvas and any company: the same result from the full ResNet-50.

With the golden rule's weights, for a landscape, a portrait and a panorama. No side is
a multiple of 32, and every image has an odd number of rows or columns on P5 or P6, so
that P6 or P7 reach beyond its valid area.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import coco_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_data import hulls
from golden_network import model_of, variables_of
from golden_rule import NUM_CLASSES, formula_image
from golden_set import FIELDS, GoldenSet, by_level
from golden_table import NOISE
from PIL import Image
from shared_data import SHARED

from embedmask_jax.data.canvases import Canvas
from embedmask_jax.data.coco_source import CocoSource
from embedmask_jax.data.transforms import empty_batch, fill_example
from embedmask_jax.data.views import resize_sizes, round_up, whole_view
from embedmask_jax.losses import Normalisers, compute_losses, loss_names, normalisers
from embedmask_jax.ops.boxes import box_iou, boxes_from_distances, clip_boxes
from embedmask_jax.ops.locations import (
  STRIDES,
  level_shapes,
  location_levels,
  location_strides,
  locations,
)
from embedmask_jax.postprocess import DetectionSettings, detect
from embedmask_jax.structures import Array, Batch, Detections, HeadOutputs
from embedmask_jax.targets import assign_targets

pytestmark = [pytest.mark.slow, pytest.mark.optimised]

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = GoldenSet(ROOT / 'tests' / 'golden' / '2021')
PHOTOGRAPHS = SHARED / 'data' / 'coco_subset'

SEED = 41
SIZES = np.asarray([(426, 640), (640, 480), (313, 640)])  # As stored.
IMAGE_IDS = (139, 183709, 565607)  # Photographs of these sizes.
OUTPUT_CANVAS = (640, 640)
RESIZED = resize_sizes(SIZES, 200, 320)
BUCKET = (320, 320)
TWICE_AS_LARGE = (448, 448)  # In area.
MAX_INSTANCES = 32
# Without a cut among equals: the images have up to 282 detections.
SETTINGS = DetectionSettings(max_detections=300)

# What optimising would take is more than a few runs gain by it.
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}

# What rounding to float32 does. Absolute; losses relative, gradients to their norm.
FLOAT32_NOISE = NOISE | {
  'boxes': NOISE['bbox_reg'],
  'overlap': 5e-5,
  'scores': (NOISE['logits'] + NOISE['centerness']) / 4,
  'losses': 1e-5,
  'gradients': 5e-3,
}
MASK_NOISE = 1e-4  # Of the pixels.
EXACT = 1e-9  # Relative.


class Training(NamedTuple):
  """The losses and the gradient of their sum."""

  losses: dict[str, Array]
  gradient: dict[str, Any]


class Result(NamedTuple):
  """All that comes of a batch."""

  outputs: HeadOutputs
  detections: Detections
  training: Training


class Seen(NamedTuple):
  """What a result says of one image, whatever the canvas.

  Attributes:
    outputs: every head output in the valid area, flat; the regression in pixels.
    keys: int [n, 4], level, x, y of the location and class of every detection.
    boxes: [n, 4], network pixels.
    scores: [n].
    masks: packed [n, ...].
  """

  outputs: dict[str, np.ndarray]
  keys: np.ndarray
  boxes: np.ndarray
  scores: np.ndarray
  masks: np.ndarray


def formula_source(folder: Path) -> CocoSource:
  """Pictures of the golden formula, with the instances of the record l1 over them."""
  record = GOLDEN.json('loss_index')['l1']
  images, annotations = [], []
  for i, size in enumerate(SIZES):
    height, width = size.tolist()
    name = f'{i}.png'
    Image.fromarray(formula_image(1001 + i, height, width)).save(folder / name)
    images.append({'id': i, 'file_name': name, 'height': height, 'width': width})
    scale = (size / record['resized_hw'][0])[::-1]
    for instance in record['instances'][0]:
      polygons = [
        (np.reshape(polygon, (-1, 2)) * scale).ravel().tolist()
        for polygon in instance['polygons']
      ]
      box = hulls([polygons])[0].tolist()
      label = instance['label']
      annotations.append(
        coco_files.annotation(len(annotations), i, box, polygons, category_id=label)
      )
  categories = [{'id': i + 1, 'name': str(i)} for i in range(NUM_CLASSES)]
  path = coco_files.save_json(folder / 'c.json', images, annotations, categories)
  return CocoSource(path, folder)


@pytest.fixture(params=['formula', 'photographs'])
def source(request, tmp_path) -> tuple[CocoSource, Sequence[int]]:
  """A data set, and the places of the three images in it."""
  if request.param == 'formula':
    return formula_source(tmp_path), range(len(SIZES))
  if not PHOTOGRAPHS.is_dir():
    pytest.skip(f'{PHOTOGRAPHS} is not there')
  annotations = PHOTOGRAPHS / 'annotations' / 'instances_val2017.json'
  photographs = CocoSource(annotations, PHOTOGRAPHS / 'val2017')
  return photographs, [photographs.image_ids.index(i) for i in IMAGE_IDS]


def tight_canvas(size: np.ndarray) -> Canvas:
  height, width = size.tolist()
  return round_up(height), round_up(width)


def place(
  data: CocoSource, places: Sequence[int], sizes: np.ndarray, canvas: Canvas, dtype
) -> Batch:
  """A batch of images with their instances; the boxes in `dtype`."""
  batch = empty_batch(len(places), canvas, MAX_INSTANCES)
  for row, (index, size) in enumerate(zip(places, sizes.tolist(), strict=True)):
    fill_example(batch, row, data[index], whole_view(tuple(size), canvas), index)
  batch['boxes'] = batch['boxes'].astype(dtype)
  return Batch(**batch)


@partial(jax.jit, static_argnames='dtype', compiler_options=QUICK)
def compute(variables: dict, batch: Batch, total: Normalisers, dtype) -> Result:
  """Everything at once; `train` makes no difference to any layer of this network."""
  model = model_of(GOLDEN, 'R50').clone(dtype=dtype)
  targets = assign_targets(batch, GOLDEN.preset)

  def losses_of(params: dict):
    outputs = model.apply(
      {**variables, 'params': params},
      batch.images,
      batch.image_size,
      batch.valid_size,
      train=True,
    )
    losses = compute_losses(outputs, targets, batch, total, preset=GOLDEN.preset)
    return sum(losses.values()), (losses, outputs)

  gradient, (losses, outputs) = jax.grad(losses_of, has_aux=True)(variables['params'])
  detections = detect(
    outputs,
    batch.image_size,
    batch.valid_size,
    batch.original_size,
    settings=SETTINGS,
    preset=GOLDEN.preset,
    output_canvas=OUTPUT_CANVAS,
  )
  return Result(outputs, detections, Training(losses, gradient))


def convolve_as_product(x, kernel, window_strides, padding, **_):
  """The convolution as a matrix product, which CPUs do fast in float64 too."""
  x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
  count, *sides, channels = x.shape
  taps = kernel.shape[:2]

  def seen_by(tap: tuple[int, ...]) -> Array:
    stop = [side - n + i + 1 for side, n, i in zip(sides, taps, tap, strict=True)]
    strides = (1, *window_strides, 1)
    return jax.lax.slice(x, (0, *tap, 0), (count, *stop, channels), strides)

  seen = [seen_by(tap) for tap in np.ndindex(*taps)]
  return jnp.concatenate(seen, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def see(result: Result, row: int, canvas: Canvas, size: np.ndarray) -> Seen:
  own_levels = level_shapes(tight_canvas(size))
  outputs = {}
  for name, field in FIELDS.items():
    array = getattr(result.outputs, field)
    if array is None:  # This preset has none.
      continue
    array = array[row : row + 1]
    if name == 'pixel_embed':
      levels = [array.transpose(0, 3, 1, 2)]
    else:
      levels = by_level(array, canvas)
    if name == 'bbox_reg':
      levels = [level * s for level, s in zip(levels, STRIDES, strict=True)]
    own = zip(levels, own_levels, strict=False)
    outputs[name] = np.concatenate([x[..., :h, :w].ravel() for x, (h, w) in own])
  valid = result.detections.valid[row]
  found = jax.tree.map(
    lambda leaf: leaf[row][valid] if leaf.ndim > 1 else leaf[row], result.detections
  )
  keys = [
    location_levels(canvas)[found.location],
    locations(canvas)[found.location],
    found.labels,
  ]
  return Seen(
    outputs, np.column_stack(keys), found.network_boxes, found.scores, found.masks
  )


def decisions_in_doubt(
  outputs: HeadOutputs, canvas: Canvas, size: np.ndarray, dtype
) -> int:
  """How many class scores and overlaps of an image lie within noise of a threshold."""
  threshold = SETTINGS.score_threshold
  margin = outputs.class_logits[0] - np.log(threshold / (1 - threshold))
  noise = limit('logits', margin, dtype)
  location, label = np.nonzero(margin > -noise)
  strides = location_strides(canvas)[location, None]
  distances = outputs.box_regression[0, location] * strides
  boxes = boxes_from_distances(locations(canvas)[location], distances)
  boxes = clip_boxes(boxes, size)
  overlap = np.asarray(box_iou(boxes[:, None], boxes[None]))
  overlap = overlap[np.triu(label[:, None] == label, 1)]
  is_close = np.abs(overlap - SETTINGS.nms_threshold) < limit('overlap', overlap, dtype)
  return int(np.sum(np.abs(margin) < noise) + np.sum(is_close))


def limit(quantity: str, expected: np.ndarray, dtype) -> float:
  """How far an array may be off, absolute."""
  if dtype == jnp.float64:
    return EXACT * np.abs(expected).max(initial=0)
  return 3 * FLOAT32_NOISE[quantity]


def check(quantity: str, found: np.ndarray, expected: np.ndarray, dtype) -> None:
  error = np.abs(found - expected).max(initial=0)
  assert error <= limit(quantity, expected, dtype), quantity


def check_image(found: Seen, expected: Seen, doubts: int, dtype) -> None:
  """The same outputs and detections, but for two for every decision in doubt."""
  for name, output in expected.outputs.items():
    check(name, found.outputs[name], output, dtype)
  rows, expected_rows = (
    {tuple(key): i for i, key in enumerate(seen.keys.tolist())}
    for seen in (found, expected)
  )
  assert len(rows) > 10
  assert len(rows.keys() ^ expected_rows.keys()) <= 2 * doubts
  both = [key for key in rows if key in expected_rows]
  ours, theirs = [rows[key] for key in both], [expected_rows[key] for key in both]
  boxes, expected_boxes = found.boxes[ours], expected.boxes[theirs]
  check('boxes', boxes, expected_boxes, dtype)
  check('scores', found.scores[ours], expected.scores[theirs], dtype)
  # The window of a mask grows by a cell at every multiple of 4 pixels.
  has_one_window = (boxes // 4 == expected_boxes // 4).all(axis=1)
  assert has_one_window.mean() > 0.95
  differing = found.masks[ours] ^ expected.masks[theirs]
  differing = np.unpackbits(differing[has_one_window], axis=-1).mean(axis=(1, 2))
  assert differing.max() <= MASK_NOISE


def check_training(found: Training, expected: Training, dtype) -> None:
  """The same losses, and the same gradient of every parameter by its norm."""
  is_exact = dtype == jnp.float64
  allowed = EXACT if is_exact else 3 * FLOAT32_NOISE['losses']
  for name in loss_names(GOLDEN.preset):
    assert abs(found.losses[name] / expected.losses[name] - 1) <= allowed, name
  allowed = EXACT if is_exact else 3 * FLOAT32_NOISE['gradients']
  for (path, ours), theirs in zip(
    jax.tree.leaves_with_path(found.gradient),
    jax.tree.leaves(expected.gradient),
    strict=True,
  ):
    error = np.linalg.norm(ours - theirs)
    assert error <= allowed * np.linalg.norm(theirs), jax.tree_util.keystr(path)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.float64])
def test_canvas_and_company_change_nothing(source, dtype, monkeypatch):
  data, places = source
  if dtype == jnp.float64:
    monkeypatch.setattr(jax.lax, 'conv_general_dilated', convolve_as_product)
  with jax.enable_x64(dtype == jnp.float64):
    variables = variables_of(GOLDEN, 'R50', SEED)
    variables = jax.tree.map(lambda x: x.astype(dtype), variables)
    company = place(data, places, RESIZED, BUCKET, dtype)
    total = normalisers(company, assign_targets(company, GOLDEN.preset))

    def run(batch: Batch) -> Result:
      return jax.tree.map(np.asarray, compute(variables, batch, total, dtype))

    together = run(company)
    alone = []
    for i, size in enumerate(RESIZED):
      put = partial(place, data, places[i : i + 1], RESIZED[i : i + 1], dtype=dtype)
      tight = tight_canvas(size)
      result = run(put(tight))
      expected = see(result, 0, tight, size)
      doubts = decisions_in_doubt(result.outputs, tight, size, dtype)
      check_image(see(together, i, BUCKET, size), expected, doubts, dtype)
      for canvas in (BUCKET, TWICE_AS_LARGE):
        other = run(put(canvas))
        check_image(see(other, 0, canvas, size), expected, doubts, dtype)
        check_training(other.training, result.training, dtype)
      alone.append(result.training)
    # Divided by the same normalisers, the parts add up to the whole.
    whole = jax.tree.map(lambda *parts: sum(parts), *alone)
    check_training(together.training, whole, dtype)
