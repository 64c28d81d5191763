"""The notebook is kept without outputs, and installs nothing; the pages' build runs it."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / 'docs' / 'tutorial.ipynb').read_text())
CELLS = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']
SOURCES = [''.join(cell['source']) for cell in CELLS]


def test_the_notebook_is_kept_without_outputs():
  assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in CELLS)


@pytest.mark.parametrize('source', SOURCES)
def test_cells_are_plain_python_without_commands_of_a_shell(source):
  ast.parse(source)


def test_the_pages_of_the_site_list_the_notebook():
  assert 'tutorial\n' in (ROOT / 'docs' / 'index.md').read_text()
