"""Fingerprints of the code that decides a codec's files: sources, their imports, libraries."""

import ast
import functools
import hashlib
import importlib.metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]


@functools.cache
def code_hash(module: str, libraries: tuple[str, ...]) -> str:
  """Returns the hash of the code that decides a codec's files and their scores.

  Args:
    module: the module of the codec; its sources and those that it imports count.
    libraries: packages whose versions count.
  """
  files = sorted({*sources(module), *sources('compress_jax.evaluation.metrics')})
  digest = hashlib.sha256()
  for file in files:
    digest.update(f'{file.relative_to(ROOT)}\n'.encode() + file.read_bytes())
  for library in libraries:
    digest.update(f'{library} {importlib.metadata.version(library)}\n'.encode())
  return digest.hexdigest()


def sources(module: str) -> set[Path]:
  """Returns the files of a module of this package and of all that it imports, directly or not."""
  paths: set[Path] = set()
  waiting = [module]
  while waiting:
    path = _path(waiting.pop())
    if path and path not in paths:
      paths.add(path)
      waiting += imported(path)
  return paths


def imported(path: Path) -> list[str]:
  """Returns the modules of this package that a file names in its import statements."""
  names: list[str] = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
      names += [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
  return [name for name in names if name.startswith(f'{ROOT.name}.')]


def _path(module: str) -> Path | None:
  base = ROOT.joinpath(*module.split('.')[1:])
  for path in (base.with_suffix('.py'), base / '__init__.py'):
    if path.is_file():
      return path
  return None  # A name inside a module.
