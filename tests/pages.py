"""The pages of the documentation as tests read them: fenced blocks and headings."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What readers follow from one to the other; receipts record what was run once.
GUIDES = sorted(
  [*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')],
  key=lambda page: page.relative_to(ROOT),
)
RECEIPTS = sorted(
  [
    *(ROOT / 'experiments').rglob('*.md'),
    *(ROOT / 'tests').rglob('*.md'),
  ]
)

_NOT_RUN = re.compile(r'<!-- not run: (.+?) -->\s*')


@dataclass(frozen=True)
class Block:
  """A fenced block.

  Attributes:
    line: number of its first line in the page.
    language: what stands behind the fence.
    text: what is between the fences.
    reason: of the mark `<!-- not run: REASON -->` in the line above, or ''.
  """

  line: int
  language: str
  text: str
  reason: str


def blocks(text: str) -> list[Block]:
  """The fenced blocks of a page."""
  found: list[Block] = []
  lines = text.splitlines()
  start = None
  for number, line in enumerate(lines):
    if not line.startswith('```'):
      continue
    if start is None:
      start = number
      continue
    before = next((past for past in lines[:start][::-1] if past.strip()), '')
    mark = _NOT_RUN.fullmatch(before)
    found.append(
      Block(
        line=start + 2,
        language=(lines[start].strip('`').split() or [''])[0],
        text='\n'.join(lines[start + 1 : number]) + '\n',
        reason=mark[1] if mark else '',
      )
    )
    start = None
  assert start is None, f'the fence in line {(start or 0) + 1} is not closed'
  return found


def without_blocks(text: str) -> str:
  """The page without its fenced blocks and its code in backticks."""
  text = re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)
  return re.sub(r'`[^`]*`', '', text)


def anchors(text: str) -> set[str]:
  """What `#...` may name in a page, as GitHub and MyST make it of headings."""
  text = re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)
  found: set[str] = set()
  for heading in re.findall(r'^#{1,6} (.+?)\s*$', text, flags=re.MULTILINE):
    plain = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading).lower()
    slug = re.sub(r'[^\w\- ]', '', plain).replace(' ', '-')
    number, base = 0, slug
    while slug in found:
      number += 1
      slug = f'{base}-{number}'
    found.add(slug)
  return found
