"""The curves of a run, from metrics.jsonl, as one picture."""

import json
import math
from pathlib import Path

from embedmask_jax.charts import Line, line_chart, stack
from embedmask_jax.writing import replace_text

CURVES_NAME = 'training_curves.svg'
_PANEL = (460, 300)


def draw_training_curves(lines: Path) -> str | None:
  """Draws losses, AP, learning rate and speed over the steps.

  Args:
    lines: metrics.jsonl, see `MetricWriter`.

  Returns:
    An SVG document, or None where there is nothing to draw yet.

  Raises:
    OSError: the file cannot be read.
  """
  rows = _read_rows(lines)
  names = list(dict.fromkeys(name for row in rows for name in row))

  def curve(name: str, *, shown: str = '', has_dots: bool = False) -> Line:
    found = [(row['step'], row[name]) for row in rows if name in row]
    y = [math.nan if value is None else value for _, value in found]
    return Line(shown or name, [step for step, _ in found], y, has_dots)

  losses = [curve('loss', shown='total')] if 'loss' in names else []
  losses += [curve(n, shown=n[5:]) for n in names if n.startswith('loss/')]
  scores = [
    curve(name, shown=shown, has_dots=True)
    for name, shown in (
      ('segm/AP', 'mask AP'),
      ('bbox/AP', 'box AP'),
      ('segm/AP50', 'mask AP50'),
    )
    if name in names
  ]
  panels = [('losses', losses, None), ('evaluation', scores, (0.0, 1.0))]
  panels += [
    (title, [curve(name, shown=' ')] if name in names else [], None)
    for title, name in (
      ('learning rate', 'learning_rate'),
      ('images a second', 'images_per_second'),
      ('norm of the gradient', 'grad_norm'),
    )
  ]
  charts = [
    line_chart(
      drawn,
      title=title,
      x_name='step',
      x_range=(0, max(1, *(row['step'] for row in rows), 0)),
      y_range=y_range,
      size=_PANEL,
    )
    for title, drawn, y_range in panels
    if drawn
  ]
  return stack(charts, columns=2, size=_PANEL) if charts else None


def _read_rows(lines: Path) -> list[dict]:
  """The lines of metrics.jsonl, but for the torn last one of a killed run."""
  rows = []
  for line in lines.read_text(encoding='utf-8').splitlines():
    try:
      row = json.loads(line)
    except ValueError:
      continue
    if isinstance(row, dict) and 'step' in row:
      rows.append(row)
  return rows


def write_training_curves(lines: Path) -> None:
  """Writes the picture beside metrics.jsonl, in one go.

  Raises:
    OSError: a file cannot be read or written.
  """
  picture = draw_training_curves(lines)
  if picture is None:
    lines.with_name(CURVES_NAME).unlink(missing_ok=True)
    return
  replace_text(lines.with_name(CURVES_NAME), picture)
