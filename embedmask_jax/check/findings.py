"""What a check says: facts in sections, and findings that name what they are about."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embedmask_jax.errors import shorten

# Kinds of findings that say that data or objects are lost to training or evaluation,
# or wrong ...
LOSSES = frozenset(
  {
    'missing_file',
    'unreadable_file',
    'file_twice',
    'left_out',
    'wrong_box',
    'duplicate',
    'nothing_to_train_on',
    'over_cap',
    'no_area',
    'self_score',
    'no_location',
    'off_mask',
    'taken_location',
    'no_cell',
    'over_max_detections',
  }
)
# ... and those that are worth a look.
NOTES = frozenset(
  {
    'exif_turned',
    'exif_ignored',
    'several_frames',
    'unlisted_file',
    'crowd',
    'short_polygon',
    'beyond_image',
    'wrong_area',
    'overlap',
    'suppressed',
    'category_gap',
    'category_without_instance',
    'rare_category',
    'category_name_twice',
    'over_ladder',
  }
)

# Items that are named in the text; JSON has them all.
_SHOWN = 8


@dataclass(frozen=True)
class Finding:
  """Something to look at.

  Attributes:
    kind: one of `LOSSES` or `NOTES`.
    count: how many images, objects or whatever `words` is about.
    words: what is the matter, to be read after the count.
    items: names or annotation ids; empty where there is nothing to name.
    unit: what `items` are, such as 'annotation ids'.
  """

  kind: str
  count: int
  words: str
  items: tuple = ()
  unit: str = 'annotation ids'

  def __post_init__(self) -> None:
    if self.kind not in LOSSES | NOTES:
      raise ValueError(f'{self.kind!r} is no kind of finding')

  @property
  def loses(self) -> bool:
    """Whether data or objects are lost, or wrong."""
    return self.kind in LOSSES

  def __str__(self) -> str:
    text = f'{self.count} {self.words}'
    if self.items:
      text += ': ' + f'{self.unit} {shorten(self.items, count=_SHOWN)}'.strip()
    return text

  def as_json(self) -> dict[str, Any]:
    """All of it in JSON types."""
    return {
      'kind': self.kind,
      'loses': self.loses,
      'count': self.count,
      'words': self.words,
      'items': list(self.items),
    }


@dataclass
class Section:
  """One part of the report.

  Attributes:
    title: what it is about.
    facts: name -> number, text, or a dict of them.
    findings: what to look at.
  """

  title: str
  facts: dict[str, Any] = field(default_factory=dict)
  findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
  """All sections of a check."""

  sections: tuple[Section, ...]

  @property
  def findings(self) -> list[Finding]:
    """Those of all sections."""
    return [finding for section in self.sections for finding in section.findings]

  def losses(self, allowed: Collection[str] = ()) -> list[str]:
    """The kinds of findings that say that something is lost, but for those allowed."""
    kinds = dict.fromkeys(finding.kind for finding in self.findings if finding.loses)
    return [kind for kind in kinds if kind not in allowed]

  def as_json(self) -> dict[str, Any]:
    """Facts by section, all findings, and the kinds that say that something is lost."""
    return {
      'losses': self.losses(),
      'facts': {section.title: section.facts for section in self.sections},
      'findings': [finding.as_json() for finding in self.findings],
    }

  def __str__(self) -> str:
    lines = []
    for section in self.sections:
      lines.append(section.title)
      lines += [f'  {name}: {_in_words(v)}' for name, v in section.facts.items()]
      for finding in section.findings:
        lines.append(f'  {"LOST" if finding.loses else "note"}  {finding}')
    lost = ', '.join(self.losses())
    lines.append(f'lost or wrong: {lost}' if lost else 'nothing is lost')
    return '\n'.join(lines)


def spread(values: Sequence | np.ndarray) -> dict[str, float]:
  """Smallest, median, 95th percentile and largest of some numbers; {} of none."""
  if not len(values):
    return {}
  found = np.percentile(np.asarray(values), [0, 50, 95, 100]).tolist()
  return dict(zip(('min', 'median', '95%', 'max'), found, strict=True))


def _in_words(value: Any) -> str:
  if isinstance(value, dict):
    return ', '.join(f'{name} {_in_words(item)}' for name, item in value.items())
  if isinstance(value, float):
    return f'{value:.4g}' if abs(value) < 1e4 else f'{value:.0f}'
  return 'n/a' if value is None else str(value)
