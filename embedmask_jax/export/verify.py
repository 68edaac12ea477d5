"""An exported program against the live function, on images, with the times of both."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from embedmask_jax.structures import Detections

# What rounding may do: the live function has another canvas, or another compiler.
MAX_BOX_ERROR = 0.5  # pixels of the image
MAX_SCORE_ERROR = 0.005
MAX_MASK_SHARE = 0.005  # of the pixels of all matched masks
MAX_UNMATCHED_SHARE = 0.01  # of all detections: those at a threshold may come and go

Host = Mapping[str, np.ndarray]
Program = Callable[[np.ndarray, np.ndarray], Mapping[str, Any]]


@dataclass(frozen=True)
class Comparison:
  """How two sets of detections of one image agree.

  Attributes:
    num_live: detections of the live function.
    num_exported: those of the exported program.
    num_matched: pairs of one class whose boxes overlap by half or more, each in one.
    box_error: largest difference of a coordinate in a pair, pixels of the image.
    score_error: largest difference of the scores of a pair.
    mask_difference: pixels in which the masks of pairs differ.
    mask_area: pixels of the live masks of pairs.
  """

  num_live: int
  num_exported: int
  num_matched: int
  box_error: float
  score_error: float
  mask_difference: int
  mask_area: int


@dataclass(frozen=True)
class Row:
  """A line of the table: an image, how it compares, and seconds of each."""

  name: str
  comparison: Comparison
  live_seconds: float
  exported_seconds: float


def on_canvas(
  image: np.ndarray, canvas: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
  """The inputs of an exported program, as a caller makes them."""
  height, width = image.shape[:2]
  placed = np.zeros((*canvas, 3), np.uint8)
  placed[:height, :width] = image
  return placed, np.asarray([height, width], np.int32)


def live_detections(found: Detections, size: tuple[int, int]) -> Host:
  """Detections of a batch of one, on the host, as an exported program names them."""
  valid = np.asarray(found.valid[0])
  packed = np.asarray(found.masks[0])[valid]
  return {
    'boxes': np.asarray(found.boxes[0])[valid],
    'scores': np.asarray(found.scores[0])[valid],
    'classes': np.asarray(found.labels[0])[valid],
    'masks': np.unpackbits(packed, axis=-1)[:, : size[0], : size[1]].astype(bool),
  }


def exported_detections(outputs: Mapping[str, Any], size: tuple[int, int]) -> Host:
  """The same of what an exported program gave."""
  host = {name: np.asarray(value) for name, value in outputs.items()}
  valid = host['valid']
  found = {name: host[name][valid] for name in ('boxes', 'scores', 'classes')}
  return {**found, 'masks': host['masks'][valid][:, : size[0], : size[1]]}


def compare(live: Host, exported: Host) -> Comparison:
  """Pairs the detections, best score first, and measures the pairs."""
  free = np.ones(len(exported['scores']), bool)
  pairs = []
  for i, (box, label) in enumerate(zip(live['boxes'], live['classes'], strict=True)):
    overlap = _overlaps(box, exported['boxes'])
    overlap = np.where(free & (exported['classes'] == label), overlap, 0)
    if len(overlap) and overlap.max() >= 0.5:
      pairs.append((i, int(overlap.argmax())))
      free[pairs[-1][1]] = False
  first, second = np.asarray(pairs, int).reshape(-1, 2).T

  def largest(name: str) -> float:
    difference = np.abs(live[name][first] - exported[name][second])
    return float(difference.max(initial=0))

  masks = live['masks'][first]
  return Comparison(
    num_live=len(live['scores']),
    num_exported=len(exported['scores']),
    num_matched=len(pairs),
    box_error=largest('boxes'),
    score_error=largest('scores'),
    mask_difference=int((masks != exported['masks'][second]).sum()),
    mask_area=int(masks.sum()),
  )


def timed(call: Callable[[], Any], repeats: int = 3) -> tuple[Any, float]:
  """The result, and the median of the seconds, of which the first call is none."""
  result = jax.device_get(call())
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.device_get(call())
    seconds.append(time.perf_counter() - start)
  return result, float(np.median(seconds))


def agrees(comparisons: Sequence[Comparison]) -> bool:
  """Whether all images together are within the tolerances."""
  total = sum(max(c.num_live, c.num_exported) for c in comparisons)
  unmatched = total - sum(c.num_matched for c in comparisons)
  area = sum(c.mask_area for c in comparisons)
  return (
    unmatched <= MAX_UNMATCHED_SHARE * total
    and all(c.box_error <= MAX_BOX_ERROR for c in comparisons)
    and all(c.score_error <= MAX_SCORE_ERROR for c in comparisons)
    and sum(c.mask_difference for c in comparisons) <= MAX_MASK_SHARE * area
  )


def format_rows(rows: Sequence[Row]) -> str:
  """The table, with a last line that says what it comes to."""
  lines = [
    f'{"image":<24}{"live":>6}{"exported":>9}{"matched":>8}{"box px":>9}'
    f'{"score":>9}{"mask px":>9}{"of":>9}{"live ms":>9}{"exp. ms":>9}{"ratio":>7}'
  ]
  for row in rows:
    c = row.comparison
    lines.append(
      f'{row.name[-23:]:<24}{c.num_live:>6}{c.num_exported:>9}{c.num_matched:>8}'
      f'{c.box_error:>9.4f}{c.score_error:>9.6f}{c.mask_difference:>9}{c.mask_area:>9}'
      f'{1e3 * row.live_seconds:>9.1f}{1e3 * row.exported_seconds:>9.1f}'
      f'{row.exported_seconds / row.live_seconds:>7.2f}'
    )
  verdict = 'agree' if agrees([row.comparison for row in rows]) else 'DISAGREE'
  lines.append(
    f'{verdict}: tolerated are boxes to {MAX_BOX_ERROR} px, scores to '
    f'{MAX_SCORE_ERROR}, {MAX_MASK_SHARE:.1%} of the mask pixels and '
    f'{MAX_UNMATCHED_SHARE:.0%} of the detections without a match'
  )
  return '\n'.join(lines)


def run_exported(
  program: Program, image: np.ndarray, canvas: tuple[int, int]
) -> tuple[Host, float]:
  """Detections and seconds of an exported program on uint8 [h, w, 3]."""
  height, width = image.shape[:2]

  def call() -> Mapping[str, Any]:
    return program(*on_canvas(image, canvas))

  outputs, seconds = timed(call)
  return exported_detections(outputs, (height, width)), seconds


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """IoU of a box with each of [n, 4], sides counted with their last pixel."""
  low = np.maximum(box[:2], boxes[:, :2])
  high = np.minimum(box[2:], boxes[:, 2:])
  common = np.maximum(high - low + 1, 0).prod(axis=1)
  area = (box[2:] - box[:2] + 1).prod()
  areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
  return common / (area + areas - common)
