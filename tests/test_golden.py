"""The authors' recorded numbers come out; and the checker notices when they do not."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import golden_check
import golden_network
import golden_training
import golden_trajectories
import jax
import numpy as np
import pytest
from golden_set import GoldenSet
from golden_table import TOLERANCES, Report, error_of
from shared_data import SHARED

FOLDERS = Path(__file__).resolve().parent / 'golden'
PRESETS = ('2019', '2020', '2021', 'adelaidet')
LOCAL = FOLDERS / '2021'
QUICK = (
  'rule',
  'units',
  'schedules',
  'data',
  'locations',
  'post-processing',
  'assignment',
  'losses',
)
LONG = ('manifest', 'forward', 'parameter gradients', 'trajectories')
# Of the public sets, on larger images, only the default's is checked here, without what
# takes longest.
OF_PUBLIC = (*QUICK, 'manifest', 'forward')


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('name', QUICK)
def test_quick_records(preset, name):
  report = golden_check.check_folder(FOLDERS / preset, [name])
  assert report.passed, str(report)
  # The portable sets have no schedules, and adelaidet's no assignment; everything else
  # must have met something.
  has_none = name == 'schedules' or (name, preset) == ('assignment', 'adelaidet')
  assert report.rows or has_none


def test_one_whole_forward():
  report = Report()
  golden_network.check_forward(GoldenSet(LOCAL), report, only='f1')
  assert report.passed, str(report)
  assert 'forward: logits' in report.rows
  assert 'detections from pixels: masks' in report.rows


def check_in_a_process(folder, *checks):
  """Checks leave gigabytes behind."""
  done = subprocess.run(
    [sys.executable, golden_check.__file__, folder, *checks],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert re.match(r'[1-9].* comparisons .*all pass$', done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize('check', LONG)
@pytest.mark.parametrize('preset', PRESETS)
def test_long_records(preset, check):
  check_in_a_process(FOLDERS / preset, check)


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize('check', OF_PUBLIC)
def test_public_records(check):
  folder = SHARED / 'golden' / '2021' / 'public'
  if not folder.is_dir():
    pytest.skip(f'{folder} is not there')
  check_in_a_process(folder, check)


@pytest.mark.slow
@pytest.mark.optimised
def test_a_wrong_momentum_is_no_spread(tmp_path, monkeypatch):
  """Our own disturbed runs excuse roundings, not another optimiser."""
  read = golden_trajectories._read

  def wrong(*arguments):
    trajectory = read(*arguments)
    settings = dataclasses.replace(trajectory.settings, momentum=0.89)
    return dataclasses.replace(trajectory, settings=settings, steps=4)

  monkeypatch.setattr(golden_trajectories, '_read', wrong)
  folder = folder_with(tmp_path, 't_small.npz', 'traj_index.json')
  report = golden_check.check_folder(folder, ['trajectories'])
  failed = {row.quantity for row in report.rows.values() if not row.passed}
  assert 'trajectory: momentum' in failed
  assert not report.failures


@pytest.mark.slow
@pytest.mark.optimised
def test_a_wrong_gradient_is_no_spread(monkeypatch):
  """Nor another gradient: here that of a mask loss with a hundredth too much weight."""
  right = golden_training.compute_losses

  def wrong(*arguments, **options):
    losses = right(*arguments, **options)
    mask = losses['mask']
    return {**losses, 'mask': mask + 0.01 * (mask - jax.lax.stop_gradient(mask))}

  monkeypatch.setattr(golden_training, 'compute_losses', wrong)
  report = Report()
  golden_training.check_parameter_gradients(GoldenSet(LOCAL), report, only='l1$')
  failed = {row.quantity for row in report.rows.values() if not row.passed}
  assert failed == {'end to end: parameter gradients', 'end to end: gradient norms'}


def folder_with(tmp_path, *names):
  for name in names:
    shutil.copy(LOCAL / name, tmp_path / name)
  return tmp_path


def changed(path, **arrays):
  with np.load(path) as content:
    np.savez(path, **{**content, **arrays})


def test_a_folder_with_fewer_records_is_checked_too(tmp_path, capsys):
  folder = folder_with(tmp_path, 'unit.npz', 'README.md')
  assert golden_check.main([str(folder)]) == 0
  assert 'all pass' in capsys.readouterr().out


def test_a_file_that_no_check_reads_fails(tmp_path, capsys):
  folder = folder_with(tmp_path, 'unit.npz')
  np.savez(folder / 'novelty.npz', x=np.zeros(3))
  (folder / 'novelty.json').write_text('{}')
  assert golden_check.main([str(folder)]) == 1
  printed = capsys.readouterr().out
  assert 'FAIL: novelty.npz: not checked' in printed
  assert 'FAIL: novelty.json: not checked' in printed


def test_another_number_fails_and_is_named(tmp_path, capsys):
  folder = folder_with(tmp_path, 'unit.npz')
  with np.load(folder / 'unit.npz') as content:
    loss = content['lov_loss']
  changed(folder / 'unit.npz', lov_loss=loss * np.float32(1 + 1e-4))
  assert golden_check.main([str(folder)]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[-1] for line in lines if 'Lovasz loss' in line] == ['FAIL']


def test_a_missing_array_fails_without_stopping_the_rest(tmp_path):
  folder = folder_with(tmp_path, 'unit.npz', 'assign.npz', 'assign_polygons.json')
  with np.load(folder / 'unit.npz') as content:
    rest = {name: content[name] for name in content if name != 'lov_loss'}
  np.savez(folder / 'unit.npz', **rest)
  report = golden_check.check_folder(folder)
  assert any('unit.npz has no array lov_loss' in f for f in report.failures)
  assert 'targets: chosen locations' in report.rows


def test_a_detection_that_moves_or_goes_fails(tmp_path):
  names = ('post_zero.npz', 'post_f2.npz', 'forward_f2.npz', 'forward_index.json')
  folder = folder_with(tmp_path, *names)
  with np.load(folder / 'post_f2.npz') as content:
    boxes, location = content['im0_boxes'], content['im0_loc_index']
  boxes[3, 0] += 1e-3
  location[5] += 1
  changed(folder / 'post_f2.npz', im0_boxes=boxes, im0_loc_index=location)
  report = golden_check.check_folder(folder, ['post-processing'])
  failed = {row.quantity for row in report.rows.values() if not row.passed}
  assert failed == {
    'detections from heads: missing or extra',
    'detections from heads: boxes',
  }


def test_an_unknown_recipe_of_head_outputs_fails(tmp_path):
  names = ('post_zero.npz', 'forward_f2.npz', 'forward_index.json')
  folder = folder_with(tmp_path, *names)
  index = (folder / 'forward_index.json').read_text()
  (folder / 'forward_index.json').write_text(
    index.replace('20.0 subtracted from every logit', 'every logit squared')
  )
  report = golden_check.check_folder(folder, ['post-processing'])
  assert not report.passed
  assert 'no rule for' in report.failures[0]


def test_commands_without_a_folder(tmp_path, capsys):
  assert golden_check.main([]) == 2
  assert golden_check.main([str(tmp_path), 'unit']) == 2
  assert golden_check.main([str(tmp_path / 'absent')]) == 2
  assert 'no such folder' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('measure', 'found', 'expected', 'error'),
  [
    ('unequal', [1, 2, 3], [1, 0, 0], 2),
    ('unequal', [], [], 0),
    ('absolute', [1.0, 2.5], [1.0, 2.0], 0.5),
    ('absolute', [np.nan], [1.0], np.inf),
    ('absolute', [1.0], [[1.0]], np.inf),
    ('relative', [1.0, 2.2], [1.0, 2.0], 0.1),
    ('rms', [3.0, 4.0, 0.0, 0.0], [3.0, 5.0, 0.0, 0.0], 1 / np.sqrt(34)),
    ('rms', [1e-9], [0.0], np.inf),
    ('rms', [0.0], [0.0], 0),
  ],
)
def test_measures(measure, found, expected, error):
  np.testing.assert_allclose(error_of(measure, found, expected), error)


def test_what_is_not_a_number_fails():
  report = Report()
  report.observe(next(iter(TOLERANCES)), 'record', np.nan)
  assert not report.passed
