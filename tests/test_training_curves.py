"""The curves of a run as a picture in its folder."""

import json
import xml.etree.ElementTree as ET

from embedmask_jax.metrics.training_curves import CURVES_NAME, draw_training_curves
from embedmask_jax.metrics.writer import MetricWriter


def texts(svg):
  return [e.text for e in ET.fromstring(svg).iter('{http://www.w3.org/2000/svg}text')]


def test_closing_the_logs_draws_what_was_logged(tmp_path):
  with MetricWriter(tmp_path) as writer:
    for step in (10, 20, 30):
      writer.scalars(step, {'loss': 3 / step, 'loss/mask': 1 / step, 'grad_norm': 2.0})
    writer.scalars(30, {'segm/AP': 0.5, 'bbox/AP': None})
    writer.draw_curves()
    assert 'mask AP' in texts((tmp_path / CURVES_NAME).read_text())
  shown = texts((tmp_path / CURVES_NAME).read_text())
  assert {
    'losses',
    'total',
    'mask',
    'evaluation',
    'box AP',
    'norm of the gradient',
  } <= {*shown}
  assert 'learning rate' not in shown
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    'metrics.jsonl',
    'tensorboard',
    CURVES_NAME,
  ]


def test_nothing_logged_is_no_picture(tmp_path):
  with MetricWriter(tmp_path):
    pass
  assert not (tmp_path / CURVES_NAME).exists()
  (tmp_path / 'one.jsonl').write_text(json.dumps({'step': 1, 'loss': None}) + '\n{"ste')
  assert draw_training_curves(tmp_path / 'one.jsonl') is not None
