"""How Sphinx builds the documentation; see `docs` in the Makefile.

The root is that of the repository, so that a link from a page to a receipt under
experiments/ leads to a page here as it does in the sources.
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from embedmask_jax import __version__  # noqa: E402

project = 'EmbedMask in JAX'
author = 'the maintainers of embedmask_jax'
version = release = __version__

extensions = [
  'myst_nb',  # MyST pages and notebooks
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
]

root_doc = 'docs/index'
include_patterns = [
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'docs/**.md',
  'docs/tour.ipynb',
  'experiments/**.md',
]
exclude_patterns = [
  '.*',
  'build',
  'dist',
  'runs',
  'shared',
  'tests',
  'embedmask_jax',
  'configs',
]

html_theme = 'furo'
html_title = f'EmbedMask in JAX {version}'
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False

# Commands and what they print are not Python.
highlight_language = 'none'
pygments_style = 'tango'
pygments_dark_style = 'github-dark'

myst_heading_anchors = 4

# The notebook is stored without its output. A build runs it, and fails where a cell
# does; again only after a change of its code, so that CI's fresh clones always do.
nb_execution_mode = 'cache'
nb_execution_cache_path = str(ROOT / 'build' / 'notebooks')
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 1800  # seconds, of a cell
nb_output_stderr = 'remove'  # logs

# In docstrings a name in backticks is code.
default_role = 'code'
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True, 'exclude-members': 'replace'}
add_module_names = False
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

nitpicky = True
# Third parties' types, whose own documentation is not asked: builds need no network.
nitpick_ignore_regex = [('py:.*', r'(?!embedmask_jax\b).*')]


def write_entrance(app: Any, error: Exception | None) -> None:
  """Has index.html, where it is looked for, lead to the first page."""
  if error is None:
    page = f'{root_doc}.html'
    (Path(app.outdir) / 'index.html').write_text(
      f'<!doctype html><meta http-equiv="refresh" content="0; url={page}">'
      f'<a href="{page}">{project}</a>\n'
    )


def setup(app: Any) -> None:
  """Called by Sphinx."""
  app.connect('build-finished', write_entrance)
