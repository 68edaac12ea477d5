"""Short versions of the long runs under experiments/, on the real data if there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from shared_data import SHARED

from embedmask_jax import command_line, main

ROOT = Path(__file__).resolve().parents[1]
DATA = SHARED / 'data'

pytestmark = [
  pytest.mark.slow,
  pytest.mark.optimised,
  pytest.mark.skipif(not DATA.is_dir(), reason=f'{DATA} is not there'),
]


def trained(workdir, config, annotations, images, *fields):
  """Metrics of a run of a config on `annotations` = (training, evaluation)."""
  train, evaluation = annotations
  status = main.run(
    [
      'main',
      '--nodistributed',
      f'--config={ROOT / config}',
      f'--workdir={workdir}',
      f'--config.data.train.annotations={train}',
      f'--config.data.train.images={images}',
      f'--config.data.eval.annotations={evaluation}',
      f'--config.data.eval.images={images}',
      *fields,
    ]
  )
  assert status == 0
  [metrics] = workdir.glob('eval/*/metrics.json')
  return json.loads(metrics.read_text())


def test_nuclei(tmp_path):
  """A third of the steps, all validation images."""
  folder = DATA / 'nuclei'
  splits = [folder / 'annotations' / f'instances_{s}.json' for s in ('train', 'val')]
  metrics = trained(
    tmp_path, 'configs/nuclei.py', splits, folder / 'images', '--config.train.steps=200'
  )
  # 0.72 and 0.47; in half as many steps masks vary from 0.11 to 0.23.
  assert metrics['bbox/AP50'] > 0.6
  assert metrics['segm/AP50'] > 0.3


def test_the_nuclei_model_that_comes_along(tmp_path):
  folder = DATA / 'nuclei'
  status = command_line.run(
    [
      'eval',
      '--model=nuclei',
      f'--workdir={tmp_path}',
      f'--config.data.eval.annotations={folder / "annotations/instances_val.json"}',
      f'--config.data.eval.images={folder / "images"}',
    ]
  )
  assert status == 0
  metrics = json.loads(
    (tmp_path / 'eval' / '600-instances_val' / 'metrics.json').read_text()
  )
  # What its card says.
  assert metrics['segm/AP'] == pytest.approx(0.469, abs=0.002)
  assert metrics['bbox/AP'] == pytest.approx(0.470, abs=0.002)
  assert metrics['count/images'] == 65


def test_coco_overfit(tmp_path):
  """Four images instead of sixteen, at two thirds of the size."""
  folder = DATA / 'coco_subset'
  four = tmp_path / 'four.json'
  subprocess.run(
    [
      sys.executable,
      ROOT / 'experiments/coco_overfit/subset.py',
      folder / 'annotations' / 'instances_train2017.json',
      four,
      '--images=4',
      '--min_box_share=0.02',
    ],
    check=True,
  )
  metrics = trained(
    tmp_path / 'run',
    'experiments/coco_overfit/config.py',
    [four, four],
    folder / 'train2017',
    '--config.train.steps=200',
    '--config.data.short_sides=256',
    '--config.data.eval_short_side=256',
  )
  assert metrics['segm/AP'] > 0.8  # 0.92
