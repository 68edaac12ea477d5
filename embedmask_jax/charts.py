"""Charts as SVG, drawn by hand: lines, bars and tables of shades. No dependencies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Told apart in both common forms of colour blindness (Okabe and Ito 2008).
COLOURS = (
  *('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'),
  *('#7f3c8d', '#666666', '#a5aa00', '#000000'),
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 40
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'
_GREY = '#8a8a8a'


@dataclass(frozen=True)
class Line:
  """A line of a chart: its name, its points, and whether they are marked with dots."""

  name: str
  x: Sequence[float]
  y: Sequence[float]
  has_dots: bool = False
  is_dashed: bool = False


def line_chart(
  lines: Sequence[Line],
  *,
  title: str,
  x_name: str,
  x_range: tuple[float, float] | None = None,
  y_range: tuple[float, float] | None = None,
  size: tuple[int, int] = (460, 300),
  has_low_legend: bool = False,
) -> str:
  """Draws lines over common axes; up to ten have colours of their own.

  Args:
    lines: points that are not finite are left out.
    title: above the chart.
    x_name: below it.
    x_range: of the axis; that of the points by default.
    y_range: the same; by default it includes 0.
    size: (width, height) in pixels.
    has_low_legend: whether the names stand low on the left, clear of falling curves,
      and not high on the right.

  Returns:
    An `<svg>` element.
  """
  points = [
    (x, y)
    for line in lines
    for x, y in zip(line.x, line.y, strict=True)
    if math.isfinite(x) and math.isfinite(y)
  ]
  x_range = x_range or _spread([x for x, _ in points])
  y_range = y_range or _spread([0.0, *(y for _, y in points)])
  width, height = size
  body = [_title(title, width)]

  def place(x: float, y: float) -> tuple[float, float]:
    across = (x - x_range[0]) / (x_range[1] - x_range[0])
    up = (y - y_range[0]) / (y_range[1] - y_range[0])
    return (
      round(_LEFT + across * (width - _LEFT - _RIGHT), 1),
      round(height - _BOTTOM - up * (height - _TOP - _BOTTOM), 1),
    )

  for tick in ticks(*x_range):
    x, y = place(tick, y_range[0])
    body.append(_stroke(x, y, x, _TOP, '#e6e6e6'))
    body.append(_text(x, y + 16, _number(tick), anchor='middle'))
  for tick in ticks(*y_range):
    x, y = place(x_range[0], tick)
    body.append(_stroke(x, y, width - _RIGHT, y, '#e6e6e6'))
    body.append(_text(x - 6, y + 4, _number(tick), anchor='end'))
  left, low = place(x_range[0], y_range[0])
  body.append(_stroke(left, low, width - _RIGHT, low, _GREY))
  body.append(_stroke(left, low, left, _TOP, _GREY))
  body.append(_text((left + width - _RIGHT) / 2, height - 6, x_name, anchor='middle'))
  for index, line in enumerate(lines):
    body += _draw_line(line, COLOURS[index % len(COLOURS)], place)
  body += _legend(lines, size, is_low=has_low_legend)
  return _svg(body, width, height)


def bar_chart(
  names: Sequence[str],
  values: Sequence[float],
  *,
  title: str,
  x_name: str,
  size: tuple[int, int] = (460, 300),
) -> str:
  """Draws one bar for each value, with its name below it; an `<svg>` element."""
  width, height = size
  top = max([*values, 1e-9])
  body = [_title(title, width)]
  step = (width - _LEFT - _RIGHT) / max(len(values), 1)
  low = height - _BOTTOM
  for tick in ticks(0, top):
    y = low - tick / top * (low - _TOP)
    body.append(_stroke(_LEFT, y, width - _RIGHT, y, '#e6e6e6'))
    body.append(_text(_LEFT - 6, y + 4, _number(tick), anchor='end'))
  for index, (name, value) in enumerate(zip(names, values, strict=True)):
    tall = value / top * (low - _TOP)
    x = _LEFT + index * step
    body.append(
      f'<rect x="{x + step * 0.1:.1f}" y="{low - tall:.1f}" width="{step * 0.8:.1f}" '
      f'height="{tall:.1f}" fill="{COLOURS[0]}"><title>{escape(name)}: '
      f'{_number(value)}</title></rect>'
    )
    body.append(_text(x + step / 2, low + 16, name, anchor='middle'))
  body.append(_stroke(_LEFT, low, width - _RIGHT, low, _GREY))
  body.append(_text((_LEFT + width - _RIGHT) / 2, height - 6, x_name, anchor='middle'))
  return _svg(body, width, height)


def shaded_table(
  values: Sequence[Sequence[int]],
  rows: Sequence[str],
  columns: Sequence[str],
  *,
  title: str,
) -> str:
  """Draws counts as shades of a grid, each row by its own share; an `<svg>` element.

  Args:
    values: [rows][columns].
    rows: names.
    columns: names, written upwards.
    title: above the table.
  """
  cell = 44 if len(columns) <= 14 else 22 if len(columns) <= 40 else 12
  font = 12 if cell > 12 else 9
  label = 8 + max([*(7 * len(name) for name in (*rows, *columns)), 40])
  label = min(label, 190)
  width = label + cell * len(columns) + 10
  width = max(width, 8 * len(title) + 20)
  top = 30 + label
  height = top + cell * len(rows) + 10
  body = [_title(title, width)]
  for c, name in enumerate(columns):
    x = label + cell * (c + 0.5) + 4
    body.append(
      f'<text transform="translate({x:.1f} {top - 6}) rotate(-90)" {_FONT} '
      f'style="font-size:{font}px">{escape(name[:26])}</text>'
    )
  for r, (name, counts) in enumerate(zip(rows, values, strict=True)):
    y = top + cell * r
    body.append(_text(label - 6, y + cell / 2 + 4, name[:26], anchor='end', font=font))
    total = max(sum(counts), 1)
    for c, count in enumerate(counts):
      share = count / total
      ink = '#fff' if share > 0.55 else '#222'
      red, green = round(255 * (1 - share)), round(255 - 141 * share)
      body.append(
        f'<rect x="{label + cell * c}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
        f'fill="rgb({red},{green},{round(255 - 77 * share)})"><title>'
        f'{escape(name)} as {escape(columns[c])}: {count}</title></rect>'
      )
      if count and cell >= 22:
        x = label + cell * (c + 0.5)
        body.append(
          _text(x, y + cell / 2 + 4, str(count), anchor='middle', font=font, ink=ink)
        )
  return _svg(body, width, height)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """About `count` round numbers from `low` to `high`."""
  raw = (high - low) / count
  unit = 10 ** math.floor(math.log10(raw))
  step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)]


def stack(charts: Sequence[str], *, columns: int, size: tuple[int, int]) -> str:
  """Charts of one size side by side and one below another, as one SVG document."""
  width, height = size
  rows = -(-len(charts) // columns)
  placed = [
    f'<g transform="translate({i % columns * width} {i // columns * height})">{chart}'
    '</g>'
    for i, chart in enumerate(charts)
  ]
  return _svg(placed, columns * width, rows * height)


def _spread(values: Sequence[float]) -> tuple[float, float]:
  low, high = min(values, default=0.0), max(values, default=1.0)
  if low == high:
    return low - 0.5, high + 0.5
  return low, high


def _draw_line(line: Line, colour: str, place: object) -> list[str]:
  parts: list[str] = []
  way: list[tuple[float, float]] = []
  dash = ' stroke-dasharray="5 4"' if line.is_dashed else ''

  def end() -> None:
    if len(way) > 1:
      points = ' '.join(f'{x},{y}' for x, y in way)
      parts.append(
        f'<polyline points="{points}" fill="none" stroke="{colour}" '
        f'stroke-width="1.6"{dash}><title>{escape(line.name)}</title></polyline>'
      )
    if line.has_dots or len(way) == 1:
      parts.extend(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in way)
    way.clear()

  for x, y in zip(line.x, line.y, strict=True):
    if math.isfinite(x) and math.isfinite(y):
      way.append(place(x, y))  # type: ignore[operator]
    else:
      end()
  end()
  return parts


def _legend(lines: Sequence[Line], size: tuple[int, int], *, is_low: bool) -> list[str]:
  named = [(i, line) for i, line in enumerate(lines) if line.name.strip()]
  if not named:
    return []
  wide = 26 + 7 * max(len(line.name[:24]) for _, line in named)
  x, y = size[0] - _RIGHT - wide, _TOP + 4
  if is_low:
    x, y = _LEFT + 6, size[1] - _BOTTOM - 16 * len(named) - 8
  parts = [
    f'<rect x="{x}" y="{y}" width="{wide}" height="{16 * len(named) + 4}" '
    'fill="#fff" fill-opacity="0.8"/>'
  ]
  for row, (index, line) in enumerate(named):
    middle = y + 10 + 16 * row
    parts.append(
      _stroke(x + 4, middle, x + 18, middle, COLOURS[index % len(COLOURS)], 2.5)
    )
    parts.append(_text(x + 22, middle + 4, line.name[:24]))
  return parts


def _number(value: float) -> str:
  return f'{value:.4g}' if abs(value) < 10_000 else f'{value / 1000:g}k'


def _stroke(
  x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1
) -> str:
  return (
    f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
    f'stroke="{colour}" stroke-width="{width}"/>'
  )


def _text(
  x: float,
  y: float,
  text: str,
  *,
  anchor: str = 'start',
  font: int = 12,
  ink: str = '#222',
) -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}" {_FONT} '
    f'style="font-size:{font}px">{escape(text)}</text>'
  )


def _title(text: str, width: int) -> str:
  return _text(width / 2, 18, text, anchor='middle', font=14)


def _svg(body: Sequence[str], width: float, height: float) -> str:
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
    f'viewBox="0 0 {width:g} {height:g}"><rect width="100%" height="100%" fill="#fff"/>'
    f'{"".join(body)}</svg>'
  )
