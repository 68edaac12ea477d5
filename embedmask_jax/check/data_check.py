"""A data set looked at from end to end before it is trained on."""

from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from embedmask_jax.check.assignment import represent
from embedmask_jax.check.bounds import check_ground_truth, check_representation
from embedmask_jax.check.files import check_files
from embedmask_jax.check.findings import Report
from embedmask_jax.check.objects import check_categories, check_objects
from embedmask_jax.check.sheets import save_sheets
from embedmask_jax.check.step_size import check_steps
from embedmask_jax.data.image_source import ImageSource
from embedmask_jax.data.pipeline import train_plan
from embedmask_jax.datasets import plan_settings, view_settings
from embedmask_jax.presets import PRESETS


def check_data(
  source: ImageSource,
  config: ConfigDict,
  *,
  folders: str = '',
  output: Path | None = None,
) -> Report:
  """Looks at files, annotations, targets, training steps and scores of a data set.

  Everything is done by the code that training and evaluation use.

  Args:
    source: the data set, of `open_source`; may have left out missing images.
    config: the whole config; `data`, `eval` and `model` decide.
    folders: where the images lie, joined by commas; '' for records.
    output: folder for the contact sheets; None draws none.
  """
  preset = PRESETS[config.model.preset]
  files, broken = check_files(source, folders)
  truth = source.ground_truth()
  sections = [
    files,
    check_objects(source, truth, nms_threshold=config.eval.nms_threshold),
    check_categories(source, preset, config.data.min_box_side),
    check_ground_truth(truth, config.eval.max_dets),
  ]
  if source.instance_counts.sum():
    found = represent(source, view_settings(config), broken)
    count = int(source.instance_counts.sum())
    plan = train_plan(source, **plan_settings(config))
    sections += [
      check_representation(count, truth, found, config.eval.max_dets),
      check_steps(source, plan, config),
    ]
    if output:
      save_sheets(source, plan, preset, output, broken)
      logging.info('contact sheets are in %s', output)
  return Report(tuple(sections))
