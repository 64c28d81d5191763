"""The notebook is kept without outputs, and installs what it needs; the pages' build runs it."""

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


def test_the_first_cell_installs_the_package_where_it_is_missing_and_nothing_else():
  lines = SOURCES[0].splitlines()
  assert "if find_spec('compress_jax') is None:" in lines
  assert lines[-1].startswith('  %pip install') and "'compress_jax[" in lines[-1]


@pytest.mark.parametrize('source', SOURCES[1:])
def test_the_other_cells_are_plain_python(source):
  ast.parse(source)


def test_the_pages_of_the_site_list_the_notebook():
  assert 'tutorial\n' in (ROOT / 'docs' / 'index.md').read_text()
