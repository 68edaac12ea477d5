"""Links between the pages of the documentation, and to files of the repository."""

import json
import re
from pathlib import Path

import pytest
from pages import GUIDES, RECEIPTS, ROOT, anchors, without_blocks

NOTEBOOKS = sorted((ROOT / 'docs').rglob('*.ipynb'))
_LINK = re.compile(r'\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)')


def broken_links(page: Path, text: str) -> list[str]:
  """What relative links of a page lead nowhere, and why."""
  found = []
  for target in _LINK.findall(without_blocks(text)):
    if re.match(r'[a-z]+:', target):
      continue
    path, _, anchor = target.partition('#')
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
      found.append(f'{target}: no such file')
    elif not file.is_relative_to(ROOT):
      found.append(f'{target}: outside of the repository')
    elif anchor and anchor not in anchors(text if file == page else file.read_text()):
      found.append(f'{target}: no such heading')
  return found


@pytest.mark.parametrize(
  'page', [*GUIDES, *RECEIPTS], ids=lambda p: p.parent.name + '/' + p.name
)
def test_relative_links_lead_somewhere(page):
  assert not broken_links(page, page.read_text())


@pytest.mark.parametrize('page', NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_have_links_that_lead_somewhere_and_no_output(page):
  """Building the pages runs them; output in the sources would only go stale."""
  cells = json.loads(page.read_text())['cells']
  prose = [''.join(c['source']) for c in cells if c['cell_type'] == 'markdown']
  assert not broken_links(page, '\n\n'.join(prose))
  code = [cell for cell in cells if cell['cell_type'] == 'code']
  assert code
  assert not [cell['id'] for cell in code if cell['outputs']]
  assert not [cell['id'] for cell in code if cell['execution_count'] is not None]


def test_broken_links_are_found():
  page = ROOT / 'docs' / 'predict.md'
  text = (
    '# A title: `of` two\n[a](nowhere.md) [b](#a-title-of-two) [c](#title)\n'
    '[d](predict.md#no-such) ![e](../../x.png) [f](https://example.org/x)\n'
    '`[g](code.md)`\n```text\n[h](block.md)\n```\n'
  )
  assert broken_links(page, text) == [
    'nowhere.md: no such file',
    '#title: no such heading',
    'predict.md#no-such: no such heading',
    '../../x.png: no such file',
  ]


def test_every_page_is_on_the_site():
  """Pages that no list of contents names are found by nobody."""
  listed = set()
  for index in (ROOT / 'docs').rglob('*.md'):
    for tree in re.findall(r'```{toctree}\n(.*?)```', index.read_text(), re.DOTALL):
      entries = [line for line in tree.split() if not line.startswith(':')]
      for suffix in ('.md', '.ipynb'):
        listed |= {(index.parent / f'{entry}{suffix}').resolve() for entry in entries}
  pages = {*(ROOT / 'docs').rglob('*.md'), *NOTEBOOKS} - {ROOT / 'docs' / 'index.md'}
  assert not {str(page.relative_to(ROOT)) for page in pages - listed}
