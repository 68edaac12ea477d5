"""What a golden check measures, how far it may be off, and the table of results."""

import dataclasses
import math
from typing import Any

import numpy as np

# Below this size a value counts as zero where errors are relative.
_RELATIVE_FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class Tolerance:
  """How a quantity is measured and how large its error may be.

  Attributes:
    measure: 'unequal' (number of elements), 'absolute' (largest difference),
      'relative' (to the element), 'rms' (RMS of the difference over the RMS of the
      expected array; the original's own float32 error reaches 6e-4 of the RMS in
      single elements and 3e-5 so), 'peak/rms' (largest difference over that RMS),
      or, where the check brings the error along, its unit.
    limit: the largest error that passes.
  """

  measure: str
  limit: float


_EQUAL = Tolerance('unequal', 0)
_NOISE = Tolerance('x noise', 10)
_LOSS = Tolerance('relative', 1e-5)
_GRADIENT = Tolerance('rms', 1e-4)
_UNIT_GRADIENT = Tolerance('peak/rms', 1e-4)
# A count of things that must not be there.
_NONE = Tolerance('count', 0)
_PIXELS = Tolerance('of the pixels', 1e-4)

FEATURES = ('C2', 'C3', 'C4', 'C5', 'P3', 'P4', 'P5', 'P6', 'P7', 'mask_feats')
OUTPUTS = (
  'logits',
  'bbox_reg',
  'centerness',
  'proposal_embed',
  'proposal_margin',
  'pixel_embed',
  'sem_logits',
)

# The original's float32 error against float64 (README of the public set), for folders
# that do not bring their own.
NOISE = {
  'logits': 3.8e-5,
  'bbox_reg': 1.2e-3,
  'centerness': 1.7e-5,
  'proposal_embed': 2.7e-6,
  'proposal_margin': 3.1e-5,
  'pixel_embed': 2.8e-6,
  'C2_sub': 1.4e-6,
  'C3_sub': 2.3e-6,
  'C4_sub': 3.5e-6,
  'C5_sub': 4.2e-6,
  'P3_sub': 4.0e-6,
  'P4_sub': 4.2e-6,
  'P5_sub': 3.4e-6,
  'P6_sub': 5.0e-6,
  'P7_sub': 2.6e-6,
}

TOLERANCES: dict[str, Tolerance] = {
  'manifest: keys without a partner': _NONE,
  'manifest: shapes': _EQUAL,
  'manifest: shapes in our tree': _EQUAL,
  'manifest: trained': _EQUAL,
  'manifest: rate multipliers': _EQUAL,
  'manifest: decay multipliers': Tolerance('relative', 1e-6),
  'manifest: settings': _EQUAL,
  'manifest: initial values': Tolerance('of the deviation', 0.1),
  'manifest: backbone names': _NONE,
  'rule: digest of the weights': _NONE,
  'rule: digest of the images': _NONE,
  'unit: Lovasz loss': _LOSS,
  'unit: Lovasz gradient': _UNIT_GRADIENT,
  'unit: Lovasz gradient, not finite': _NONE,
  'unit: Jaccard weights': Tolerance('absolute', 1e-6),
  'unit: IoU losses': Tolerance('absolute', 2e-6),
  'unit: IoU loss sums': _LOSS,
  'unit: IoU loss gradients': _UNIT_GRADIENT,
  'unit: centerness': Tolerance('absolute', 1e-6),
  'unit: focal': Tolerance('relative', 1e-5),
  'unit: focal sum': _LOSS,
  'unit: focal gradient': _UNIT_GRADIENT,
  'unit: NMS': _EQUAL,
  'unit: IoU': Tolerance('absolute', 1e-6),
  'unit: clipping': _EQUAL,
  'unit: boxes left by clipping': Tolerance('absolute', 1e-4),
  'unit: bilinear resizing': Tolerance('absolute', 1e-4),
  'unit: aligned upsampling': Tolerance('absolute', 1e-5),
  'unit: batch norm': Tolerance('absolute', 1e-5),
  'unit: frozen batch norm': Tolerance('relative', 1e-5),
  'unit: mask reduction': _EQUAL,
  'unit: mask log-probability': Tolerance('absolute', 1e-4),
  'unit: cells around boxes': _EQUAL,
  'unit: mask probability': Tolerance('absolute', 1e-5),
  'unit: resize table': _EQUAL,
  'unit: boxes resized and flipped': Tolerance('absolute', 1e-4),
  'unit: rasteriser': _EQUAL,
  'unit: schedule': Tolerance('relative', 1e-12),
  'targets: boxes from polygons': Tolerance('absolute', 1e-4),
  'targets: labels from polygons': _EQUAL,
  'targets: masks from polygons': _EQUAL,
  'targets: canvas of the look-up': _NONE,
  'targets: centroids': Tolerance('absolute', 1e-3),
  'targets: semantic cells': _EQUAL,
  'targets: centre sampling': _EQUAL,
  'targets: labels': _EQUAL,
  'targets: matched instances': _EQUAL,
  'targets: regression': Tolerance('absolute', 1e-4),
  'targets: centerness': Tolerance('absolute', 1e-6),
  'targets: counts': _EQUAL,
  'targets: centerness sum': _LOSS,
  'targets: chosen locations': _EQUAL,
  'targets: IoU of chosen locations': Tolerance('absolute', 1e-5),
  'losses from heads': _LOSS,
  'losses from heads: per instance': _LOSS,
  'losses from heads: cells counted': _EQUAL,
  'forward: input': Tolerance('absolute', 5e-5),
  'forward: locations': _EQUAL,
  'forward: shapes': _EQUAL,
  'forward: mean and deviation': _NOISE,
  **{f'forward: {name}': _NOISE for name in FEATURES},
  **{f'forward: {name}': _NOISE for name in OUTPUTS},
  **{f'gradients from heads: {name}': _GRADIENT for name in OUTPUTS},
  'end to end losses': Tolerance('of 3 noise + 1e-5', 1),
  'end to end: gradients of frozen parameters': _NONE,
  'end to end: parameter gradients': Tolerance('of 3 noise + 1e-3 RMS', 1),
  'end to end: running statistics': Tolerance('relative', 1e-4),
  'end to end: gradient norms': Tolerance('of 3 noise + 1e-3', 1),
  'trajectory: initial parameters': _EQUAL,
  'trajectory: rates': Tolerance('relative', 1e-12),
  'trajectory: losses': Tolerance('of 3 spread + 1e-3', 1),
  'trajectory: gradient norms': Tolerance('of 3 spread + 1e-3', 1),
  'trajectory: parameters': Tolerance('of 3 spread + 1e-3', 1),
  'trajectory: running statistics': Tolerance('of 3 spread + 1e-3', 1),
  'trajectory: momentum': Tolerance('of 3 spread + 1e-3', 1),
}
# The numbers that the network's noise reaches: boxes, scores, log-probabilities.
for _kind, _boxes, _scores, _log_p, _p in (
  ('from heads', 1e-4, 1e-5, 1e-3, 1e-5),
  ('from pixels', 1e-2, 1e-4, 1e-2, 1e-4),
):
  TOLERANCES |= {
    f'detections {_kind}: missing or extra': _NONE,
    f'detections {_kind}: numbers of candidates': _NONE,
    f'detections {_kind}: order of scores': _NONE,
    f'detections {_kind}: boxes': Tolerance('absolute', _boxes),
    f'detections {_kind}: boxes in the original': Tolerance('absolute', 10 * _boxes),
    f'detections {_kind}: scores': Tolerance('absolute', _scores),
    f'detections {_kind}: mask log-probability': Tolerance('absolute', _log_p),
    f'detections {_kind}: mask probability': Tolerance('absolute', _p),
    # Recorded with eleven bits.
    f'detections {_kind}: mask probability, half precision': Tolerance(
      'absolute', 2.5e-4 + _p
    ),
    f'detections {_kind}: mask cells': _PIXELS,
    f'detections {_kind}: masks': _PIXELS,
    f'detections {_kind}: mask areas': _PIXELS,
  }
TOLERANCES |= {
  'detections from heads: embeddings and margins': _EQUAL,
  'detections from heads: grid': _EQUAL,
  'detections from heads: threshold': Tolerance('absolute', 1e-7),
}


@dataclasses.dataclass
class Row:
  """One line of the table: the worst of what was seen of a quantity."""

  quantity: str
  error: float
  record: str
  count: int

  @property
  def passed(self) -> bool:
    return self.error <= TOLERANCES[self.quantity].limit


class Report:
  """Collects errors by quantity."""

  def __init__(self) -> None:
    self.rows: dict[str, Row] = {}
    self.failures: list[str] = []
    self.notes: list[str] = []

  def compare(self, quantity: str, record: str, found: Any, expected: Any) -> None:
    """Measures an array against what was recorded."""
    self.observe(
      quantity, record, error_of(TOLERANCES[quantity].measure, found, expected)
    )

  def observe(self, quantity: str, record: str, error: float) -> None:
    """Enters an error; one that is not a number counts as infinite."""
    error = math.inf if math.isnan(error) else float(error)
    assert quantity in TOLERANCES, quantity
    row = self.rows.setdefault(quantity, Row(quantity, -1.0, record, 0))
    row.count += 1
    if error > row.error:
      row.error, row.record = error, record

  def fail(self, message: str) -> None:
    """Enters something that cannot be measured: a crash, a file not checked."""
    self.failures.append(message)

  def note(self, message: str) -> None:
    """Enters something to be known that is no failure."""
    self.notes.append(message)

  @property
  def passed(self) -> bool:
    return not self.failures and all(row.passed for row in self.rows.values())

  def __str__(self) -> str:
    order = list(TOLERANCES)
    rows = sorted(self.rows.values(), key=lambda row: order.index(row.quantity))
    lines = [
      f'{"quantity":<48}{"largest error":>14}  {"in":<18}{"tolerance":>10}  '
      f'{"measure":<24}verdict'
    ]
    for row in rows:
      tolerance = TOLERANCES[row.quantity]
      lines.append(
        f'{row.quantity:<48}{row.error:>14.3g}  {row.record:<18}'
        f'{tolerance.limit:>10.3g}  {tolerance.measure:<24}'
        f'{"pass" if row.passed else "FAIL"}'
      )
    lines += [f'note: {note}' for note in self.notes]
    lines += [f'FAIL: {failure}' for failure in self.failures]
    compared = sum(row.count for row in rows)
    lines.append(
      f'{compared} comparisons of {len(rows)} quantities: '
      f'{"all pass" if self.passed else "FAILED"}'
    )
    return '\n'.join(lines)


def error_of(measure: str, found: Any, expected: Any) -> float:
  """The error of an array in a measure of `Tolerance`; of another shape: infinite."""
  found, expected = np.asarray(found), np.asarray(expected)
  if found.shape != expected.shape:
    return math.inf
  if not found.size:
    return 0.0
  if measure == 'unequal':
    return float(np.sum(found != expected))
  # In float64, so that the comparison adds no rounding of its own.
  expected = expected.astype(np.float64)
  difference = np.abs(found.astype(np.float64) - expected)
  if not np.isfinite(difference).all():
    return math.inf
  if measure == 'absolute':
    return float(difference.max())
  if measure == 'relative':
    return float((difference / np.maximum(np.abs(expected), _RELATIVE_FLOOR)).max())
  if measure == 'rms':
    return over(rms(difference), rms(expected))
  if measure == 'peak/rms':
    return over(difference.max(), rms(expected))
  raise ValueError(f'the check must bring an error in "{measure}" along')


def over(error: float, allowed: float) -> float:
  """error / allowed, where nothing is allowed when `allowed` is 0."""
  if not error:
    return 0.0
  return float(error / allowed) if allowed else math.inf


def rms(array: Any) -> float:
  """Root of the mean square."""
  array = np.asarray(array, np.float64)
  return float(np.sqrt(np.mean(array**2))) if array.size else 0.0
