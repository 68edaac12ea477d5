"""COCO's tables of precision and recall, before they become metrics."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@dataclass(frozen=True, eq=False)
class ScoreTables:
  """What COCOeval accumulates for one type; -1 where nothing is defined.

  Attributes:
    iou_type: 'segm' or 'bbox'.
    precision: float [IoU, recall, class, size, cap].
    scores: the same shape, smallest score of the detections that reach the recall.
    recall: float [IoU, class, size, cap], the largest.
    iou_thresholds: of the first axis.
    recall_thresholds: of the second.
    category_ids: of the classes.
    sizes: 'all', 'small', 'medium' and 'large'.
  """

  iou_type: str
  precision: np.ndarray
  scores: np.ndarray
  recall: np.ndarray
  iou_thresholds: np.ndarray
  recall_thresholds: np.ndarray
  category_ids: list[int]
  sizes: list[str]


def defined_mean(values: np.ndarray) -> float | None:
  """Mean over what is defined, None without; COCOeval marks the rest with -1."""
  defined = values[values > -1]
  return float(defined.mean()) if defined.size else None


def make_tables(
  truth: dict, detections: list[dict], iou_type: str, caps: list[int]
) -> ScoreTables:
  """Runs COCOeval, without its printing.

  Args:
    truth: what `read_ground_truth` returns.
    detections: what `read_results` returns.
    iou_type: 'segm' or 'bbox'.
    caps: on the detections per image and class, ascending.
  """
  sized = []
  for detection in detections:
    width, height = detection['bbox'][2:]
    is_mask = iou_type == 'segm'
    area = rle.area(detection['segmentation']) if is_mask else width * height
    sized.append({**detection, 'area': float(area)})
  with contextlib.redirect_stdout(io.StringIO()):
    evaluator = COCOeval(
      _index(truth, [dict(entry) for entry in truth['annotations']]),
      _index(truth, sized),
      iou_type,
    )
    evaluator.params.maxDets = caps
    evaluator.evaluate()
    evaluator.accumulate()
  return ScoreTables(
    iou_type=iou_type,
    precision=evaluator.eval['precision'],
    scores=evaluator.eval['scores'],
    recall=evaluator.eval['recall'],
    iou_thresholds=evaluator.params.iouThrs,
    recall_thresholds=evaluator.params.recThrs,
    category_ids=list(evaluator.params.catIds),
    sizes=list(evaluator.params.areaRngLbl),
  )


def _index(truth: dict, annotations: list[dict]) -> COCO:
  coco = COCO()
  coco.dataset = {**truth, 'annotations': annotations}
  coco.createIndex()
  return coco
