"""Imports go one way: stages <- methods; stages <- machinery; only programs know both."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'compress_jax'
# What is not listed is a stage: a pure function of arrays and bytes.
MACHINERY = {'data', 'kodak', 'reading', 'writing', 'metrics', 'cache', 'fingerprint'}
MACHINERY |= {'listing', 'containers', 'facts', 'boxes', 'jxl', 'colour', 'depth'}
MACHINERY |= {'journal', 'jax_settings', 'workers', 'measure', 'evaluate'}
MACHINERY |= {'curves', 'palette', 'figures', 'splits', 'previews', 'report', 'page'}
MACHINERY |= {'training', 'codebook_training', 'model_files', 'losses', 'interop'}
MACHINERY |= {'objectives', 'lpips', 'crops', 'sources', 'streams', 'feeding', 'fit', 'plans'}
MACHINERY |= {'checkpoints', 'progress', 'validation', 'estimates', 'masking', 'scales', 'freezing'}
MACHINERY |= {'locks'}
PROGRAMS = {
  '',
  '__main__',
  'pretrained',
  'command',
  'cli',
  'cli_eval',
  'cli_export',
  'cli_files',
  'cli_fit',
  'cli_help',
  'console',
  'flag_types',
  'float_weights',
  'cli_train',
  'presets',
  'processes',
  'resume',
  'stages',
}  # '' is the package.
ALLOWED = {
  'stage': {'stage'},
  'method': {'stage', 'method'},
  'machinery': {'stage', 'machinery'},
  'program': {'stage', 'method', 'machinery', 'program'},
}
HEAVY = [
  'flax',
  'optax',
  'orbax',
  'tensorflow_datasets',
  'sklearn',
  'plotly',
  'matplotlib',
  'scipy',
  'skimage',
  'grain',
  'tifffile',
]


def name_of(path: Path) -> str:
  """The module's name inside the package: 'vq.blocks', '' for the package itself."""
  parts = path.relative_to(PACKAGE).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob('*.py'))}


def kind(name: str) -> str:
  if name in PROGRAMS:
    return 'program'
  top = name.split('.')[0]
  if top == 'methods':
    return 'method'
  return 'machinery' if top in MACHINERY else 'stage'


def statements(tree: ast.AST) -> list[str]:
  """Everything that the import statements below a node name, in full."""
  names = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      names += [f'{node.module}.{alias.name}' for alias in node.names]
  return names


def ours(names: list[str]) -> set[str]:
  """The modules of this package among imported names."""
  found = set()
  for name in names:
    first, _, rest = name.partition('.')
    if first == PACKAGE.name:
      found.add(rest if rest in MODULES else rest.rpartition('.')[0])
  return found - {''}


def imports(path: Path) -> list[str]:
  return statements(ast.parse(path.read_text()))


@pytest.mark.parametrize('name', MODULES)
def test_a_module_imports_only_what_its_kind_may(name):
  wrong = [m for m in ours(imports(MODULES[name])) if kind(m) not in ALLOWED[kind(name)]]
  assert not wrong


@pytest.mark.parametrize('name', [name for name in MODULES if kind(name) != 'program'])
def test_flags_are_read_by_programs_only(name):
  if name == 'streams':
    return  # The workers of grain refuse to start while absl's flags are not parsed.
  assert not [other for other in imports(MODULES[name]) if other.startswith('absl')]


def test_the_package_does_not_import_its_experiments_and_tests():
  for path in MODULES.values():
    assert not [n for n in imports(path) if n.split('.')[0] in ('experiments', 'tests')]


def test_no_module_imports_itself_through_others():
  graph = {name: ours(imports(path)) for name, path in MODULES.items()}
  while leaves := [name for name in graph if not graph[name] & set(graph)]:
    for name in leaves:
      del graph[name]
  assert not graph


def test_every_method_is_reachable_by_name():
  from compress_jax.methods import METHODS, NUMBERS

  files = {name.removeprefix('methods.') for name in MODULES if name.startswith('methods.')}
  assert set(METHODS) == files
  assert set(METHODS) <= set(NUMBERS)
  assert len(set(NUMBERS.values())) == len(NUMBERS)


def test_starting_the_command_line_imports_nothing_heavy():
  code = f'import sys, compress_jax.cli; print([m for m in {HEAVY} if m in sys.modules])'
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout.strip() == '[]', done.stderr
