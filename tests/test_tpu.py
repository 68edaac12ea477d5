"""Training step and inference compile for a TPU and fit it; no TPU is needed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optax
import pytest

from configs import small
from embedmask_jax.devices import data_mesh

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / 'experiments' / 'tpu' / 'compile.py'
V5E_GIB = 16


def test_a_moving_average_is_part_of_the_step(monkeypatch):
  monkeypatch.setattr(os, 'environ', dict(os.environ))
  spec = importlib.util.spec_from_file_location('tpu_compile', PROGRAM)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  training = SimpleNamespace(
    variables={'params': {'w': np.ones(3)}, 'batch_stats': {}},
    optimizer=optax.sgd(0.1),
    train_step=None,
  )
  monkeypatch.setattr(module, 'set_up', lambda *_: training)
  monkeypatch.setattr(module, 'compile_program', lambda *arguments: arguments)
  config = small.get_config()
  for decay, has_ema in ((0.0, False), (0.9998, True)):
    config.train.ema_decay = decay
    [(_, arguments)] = module.compile_programs(data_mesh(1), config, 1, 1, only='step')
    assert (arguments[2].ema_params is not None) == has_ema


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu: the extra tpu'
)
@pytest.mark.parametrize('preset', ['2019', '2020', '2021', 'adelaidet'])
def test_sixteen_images_fit_eight_chips_of_v5e(preset):
  """Takes a quarter of an hour on two cores."""
  # A process of its own: libtpu reads its environment when it is loaded.
  done = subprocess.run(
    [sys.executable, PROGRAM, f'--config=coco_{preset}_r50_1x'],
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
