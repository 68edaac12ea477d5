"""Training step and inference compile for a TPU and fit it; no TPU is needed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
V5E_GIB = 16


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu: the extra tpu'
)
@pytest.mark.parametrize('preset', ['2019', '2020', '2021', 'adelaidet'])
def test_sixteen_images_fit_eight_chips_of_v5e(preset):
  """Takes a quarter of an hour on two cores."""
  program = ROOT / 'experiments' / 'tpu' / 'compile.py'
  # A process of its own: libtpu reads its environment when it is loaded.
  done = subprocess.run(
    [sys.executable, program, f'--config=coco_{preset}_r50_1x'],
    cwd=ROOT,
    env={'PYTHONPATH': str(ROOT), 'PATH': ''},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert [line.split(': ')[0].split(', ')[-1] for line in lines] == [
    'inference',
    'training step',
  ]
  for line in lines:
    size, unit = line.split(': ')[1].split(' a device')[0].split()
    assert float(size) < V5E_GIB * {'GiB': 1, 'MiB': 1024}[unit], line
