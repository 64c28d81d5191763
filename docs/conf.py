"""The settings of Sphinx: `python -m sphinx -W -b html docs docs/_build` builds the site."""

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = 'compress_jax'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
nb_execution_mode = 'force'  # The notebook has no outputs: they are made with the pages.
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # Seconds of a cell.
nb_execution_in_temp = True

html_theme = 'furo'
html_title = 'compress_jax'
html_show_copyright = False
html_show_sphinx = False
html_static_path = ['static']
html_css_files = ['site.css']

default_role = 'code'  # Docstrings put names into single backticks.
autodoc_typehints = 'none'  # Docstrings give shapes, which say more than types.
autodoc_member_order = 'bysource'
maximum_signature_line_length = 80

# Files outside of this folder, and the pages that include them. Links to these files work where the
# repository is browsed; on the site they lead to the page.
PAGES = {
  **{
    f'compress_jax/zoo/{name}.md': f'models.md#{name}' for name in ('kmeans', 'cae', 'gmm', 'gan')
  },
  'CHANGELOG.md': 'changelog.md',
  'README.md': 'index.md',
  'experiments/published/README.md': 'published.md',
  'experiments/results/README.md': 'results.md#the-whole-story',
  'experiments/results/ablations': 'tables.md#studies',
  'experiments/results/kodak-crop/tables.md': 'tables.md#crops',
  'experiments/results/kodak-full/tables.md': 'tables.md#whole-images',
}


def _linked(text: str, text_folder: Path, page_folder: Path) -> str:
  """Returns a Markdown text with links that are right on a page of the site.

  Args:
    text: has links relative to `text_folder`.
    text_folder: where the text lies.
    page_folder: where the page lies that shows it.
  """

  def link(match: re.Match) -> str:
    target = os.path.normpath(text_folder / match[1])
    if not os.path.exists(target):
      return match[0]
    page, anchor = PAGES.get(os.path.relpath(target, ROOT), ''), match[2] or ''
    path = os.path.relpath(DOCS / page if page else target, page_folder)
    return f']({path}{"" if page else anchor})'

  return re.sub(r'\]\(([^)\s#:]+)(#[^)\s]*)?\)', link, text)


def _read(app, name: str, source: list[str]) -> None:
  folder = (DOCS / name).parent
  source[0] = _linked(source[0], folder, folder)


def _included(app, path: Path, name: str, source: list[str]) -> None:
  source[0] = _linked(source[0], (DOCS / path).parent, DOCS)


def _verbatim(app, what, name, obj, options, lines: list[str]) -> None:
  """Keeps * and | of shapes and formulas from being read as markup."""
  lines[:] = [line.replace('*', r'\*').replace('|', r'\|') for line in lines]


def setup(app) -> None:
  """Connects the functions above with Sphinx."""
  app.connect('source-read', _read)
  app.connect('include-read', _included)
  app.connect('autodoc-process-docstring', _verbatim, priority=100)  # Before napoleon's markup.
