"""What matches say about a model: a threshold, calibration, confusion, images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedmask_jax.report.matching import CROWD, ImageMatches, confused


@dataclass(frozen=True)
class OperatingPoint:
  """The score threshold with the best F1, over all classes together.

  Attributes:
    threshold: smallest score that counts.
    precision: share of the detections that have found an instance.
    recall: share of the instances that are found.
  """

  threshold: float
  precision: float
  recall: float

  @property
  def f1(self) -> float:
    """The harmonic mean of precision and recall."""
    total = self.precision + self.recall
    return 2 * self.precision * self.recall / total if total else 0.0


def best_operating_point(images: Sequence[ImageMatches]) -> OperatingPoint:
  """Tries every score that occurs; 0.5 where nothing is found at all."""
  scores, is_right = scored(images)
  instances = sum(len(image.truth) for image in images)
  if not is_right.any():
    return OperatingPoint(0.5, 0.0, 0.0)
  order = np.argsort(-scores, kind='stable')
  right = np.cumsum(is_right[order])
  count = np.arange(1, len(order) + 1)
  # Equal scores are taken together.
  is_last = np.append(np.diff(scores[order]) != 0, True)
  f1 = np.where(is_last, 2 * right / (count + instances), -1)
  best = int(f1.argmax())
  return OperatingPoint(
    float(scores[order][best]),
    float(right[best] / count[best]),
    float(right[best] / instances),
  )


def scored(images: Sequence[ImageMatches]) -> tuple[np.ndarray, np.ndarray]:
  """Scores of all detections but those of crowds, and whether each is right."""
  scores = np.concatenate([i.scores[i.found != CROWD] for i in images] or [[]])
  found = np.concatenate([i.found[i.found != CROWD] for i in images] or [[]])
  return scores, found >= 0


@dataclass(frozen=True)
class Calibration:
  """Scores in ten bins, empty ones left out, against what became of them.

  Attributes:
    scores: mean score of each bin.
    shares: share of its detections that are right.
    counts: its detections.
    error: expected calibration error, the mean difference of both.
  """

  scores: list[float]
  shares: list[float]
  counts: list[int]
  error: float


def calibration(images: Sequence[ImageMatches], *, bins: int = 10) -> Calibration:
  """Compares scores with the share of detections that are right."""
  scores, is_right = scored(images)
  place = np.clip((scores * bins).astype(int), 0, bins - 1)
  members = [np.flatnonzero(place == i) for i in range(bins)]
  members = [rows for rows in members if len(rows)]
  means = [float(scores[rows].mean()) for rows in members]
  shares = [float(is_right[rows].mean()) for rows in members]
  counts = [len(rows) for rows in members]
  gaps = sum(
    count * abs(mean - share)
    for mean, share, count in zip(means, shares, counts, strict=True)
  )
  return Calibration(means, shares, counts, gaps / max(len(scores), 1))


def confusion(
  images: Sequence[ImageMatches], num_classes: int, threshold: float
) -> np.ndarray:
  """Counts of instances by what they were taken for.

  Returns:
    int [C + 1, C + 1], rows: the class of the instance, and last 'nothing there',
    which holds doubles too; columns: the class it was found as, and last 'missed'.
  """
  table = np.zeros((num_classes + 1, num_classes + 1), np.int64)
  for image in images:
    shown = image.scores >= threshold
    pairs = [(int(i), int(image.found[i])) for i in np.flatnonzero(shown)]
    pairs = [(i, k) for i, k in pairs if k >= 0] + confused(image, threshold)
    for i, k in pairs:
      table[image.truth_labels[k], image.labels[i]] += 1
    used = np.zeros(len(image.scores), bool)
    used[[i for i, _ in pairs]] = True
    for label in image.labels[shown & ~used & (image.found != CROWD)]:
      table[-1, label] += 1
    missed = np.ones(len(image.truth), bool)
    missed[[k for _, k in pairs]] = False
    for label in image.truth_labels[missed]:
      table[label, -1] += 1
  return table


@dataclass(frozen=True)
class ImageQuality:
  """How well an image came out.

  Attributes:
    index: of the image among the matches.
    quality: panoptic quality (Kirillov 2019): sum of the IoU of what is found, over
      found + half of what is wrong and half of what is missed.
    num_found: instances.
    num_wrong: detections.
    num_missed: instances.
    num_confused: instances found as another class.
  """

  index: int
  quality: float
  num_found: int
  num_wrong: int
  num_missed: int
  num_confused: int


def image_qualities(
  images: Sequence[ImageMatches], threshold: float
) -> list[ImageQuality]:
  """For every image in which there is an instance or a detection."""
  qualities = []
  for index, image in enumerate(images):
    shown = (image.scores >= threshold) & (image.found != CROWD)
    hits = np.flatnonzero(shown & (image.found >= 0))
    wrong = int(shown.sum()) - len(hits)
    missed = len(image.truth) - len(hits)
    total = len(hits) + (wrong + missed) / 2
    if total:
      overlap = float(image.ious[hits, image.found[hits]].sum())
      qualities.append(
        ImageQuality(
          index,
          overlap / total,
          len(hits),
          wrong,
          missed,
          len(confused(image, threshold)),
        )
      )
  return qualities
