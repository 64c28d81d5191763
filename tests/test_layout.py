"""Imports go one way, from the programs down to the interface, by a table of folders."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'compress_jax'
# The folders and the modules beside them, from the bottom to the top: each imports from those above
# it in this list and from itself.
LAYERS = (
  {'errors'},
  {'codec'},
  {'files', 'runtime', 'coder', 'bitstream', 'interop'},
  {'layers', 'clustering', 'images'},
  {'exact'},
  {'learned'},
  {'methods'},
  {'baselines', 'evaluation'},
  {'model_zoo', 'report'},
  {'recipes', 'pillow'},
  {'training'},
  {'cli'},
  {'__main__', ''},  # '' is the package.
)
RANK = {folder: rank for rank, folders in enumerate(LAYERS) for folder in folders}
# What the folders of the methods do not import, although it is below them.
PROGRAMS = {'cli', '__main__'}
NOT_FOR_METHODS = {'images', 'interop', 'runtime'}
# A researcher who imports the networks gets nothing of what codes files or trains.
NETWORKS = ('cae.networks', 'gan.networks', 'gmm.networks')
NOT_FOR_NETWORKS = ('constriction', 'optax', 'orbax', 'grain', 'PIL')
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


def folder(name: str) -> str:
  """The folder or top-level module of a module: 'methods' for 'methods.gmm.codec'."""
  return name.split('.')[0]


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


def test_every_module_has_a_place():
  assert {folder(name) for name in MODULES} == set(RANK)


@pytest.mark.parametrize('name', [name for name in MODULES if name])
def test_a_module_imports_only_what_is_below_its_folder(name):
  own = folder(name)
  others = {folder(other) for other in ours(imports(MODULES[name]))} - {own, ''}
  assert not [other for other in others if RANK[other] >= RANK[own]]
  assert own != 'methods' or not others & NOT_FOR_METHODS


@pytest.mark.parametrize('name', [name for name in MODULES if name.startswith('methods.')])
def test_a_method_imports_no_other_method(name):
  methods = {other.split('.')[1] for other in ours(imports(MODULES[name])) if '.' in other}
  others = {path.parent.name for path in PACKAGE.glob('methods/*/codec.py')} - {name.split('.')[1]}
  assert not methods & others


@pytest.mark.parametrize('name', NETWORKS)
def test_the_networks_of_a_method_load_neither_a_coder_nor_a_trainer(name):
  code = f'import sys, compress_jax.methods.{name}; print(sorted(sys.modules))'
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  loaded = ast.literal_eval(done.stdout)
  assert not [module for module in loaded if module in NOT_FOR_NETWORKS]
  ours = {folder(m.partition('.')[2]) for m in loaded if m.startswith('compress_jax.')}
  assert ours <= {'bitstream', 'codec', 'errors', 'layers', 'methods', ''}


@pytest.mark.parametrize('name', [name for name in MODULES if folder(name) not in PROGRAMS])
def test_flags_are_read_by_programs_only(name):
  if name == 'training.streams':
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
  from compress_jax.methods import METHODS, method

  assert set(METHODS) == {path.parent.name for path in PACKAGE.glob('methods/*/codec.py')}
  assert len({entry.number for entry in METHODS.values()}) == len(METHODS)
  assert all(method(name).codec for name in METHODS)


def test_starting_the_command_line_imports_nothing_heavy():
  code = f'import sys, compress_jax.cli.main; print([m for m in {HEAVY} if m in sys.modules])'
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout.strip() == '[]', done.stderr
