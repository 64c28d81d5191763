"""Docstrings and comments beside code that can be read alone.

Docstrings begin with what a function returns or does, and comments with what a value is.
"""

import ast
import functools
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'compress_jax'
# Folders whose comments beside code are checked.
FOLDERS = ('compress_jax', 'experiments', 'examples')
COLUMNS = 100
# First words that continue a sentence which only the code around the docstring begins.
FRAGMENT = re.compile(
  r'(Of|What|How|Where|When|Why|Which|Who|Whose|Whether|Those|That|As|Did|Does|Is)\b'
)
# First words of a comment beside code that only the name before it would complete.
DANGLING = re.compile(r'#\s*(Of|What|Where|Those|That)\b')
# A function's docstring begins with a verb, in the third person: "Returns ...", "Encodes ...".
VERB = re.compile(r'[A-Z][a-z]+s\b')

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


MODULES = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob('*.py'))]
# Folders and single modules of the package.
PARTS = sorted({module.partition('/')[0] for module in MODULES})


def is_function(node):
  return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def definitions(node, prefix='', public=True):
  """Yields (name, node, whether it is public) for functions and classes, nested ones too."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, Definition):
      name, seen = f'{prefix}{child.name}', public and not child.name.startswith('_')
      yield name, child, seen
      yield from definitions(child, f'{name}.', seen and not is_function(child))
    else:
      yield from definitions(child, prefix, public)


@functools.cache
def documented(module):
  """Returns (name, whether it is a function, its docstring or None) for all that needs one."""
  tree = ast.parse((PACKAGE / module).read_text())
  rows = [('the module', False, ast.get_docstring(tree))]
  for name, node, public in definitions(tree):
    text = ast.get_docstring(node)
    if public or text:
      rows.append((name, is_function(node), text))
  return rows


def all_of(part):
  """Returns what `documented` returns of all modules in a part, with the modules' names."""
  return [
    (f'{module}: {name}', function, text)
    for module in MODULES
    if module.partition('/')[0] == part
    for name, function, text in documented(module)
  ]


@pytest.mark.parametrize('part', PARTS)
def test_public_functions_classes_and_modules_have_a_docstring(part):
  assert not [name for name, _, text in all_of(part) if not text]


@pytest.mark.parametrize('part', PARTS)
def test_no_docstring_begins_as_a_fragment(part):
  assert not [f'{name}: {text}' for name, _, text in all_of(part) if FRAGMENT.match(text)]


@pytest.mark.parametrize('part', PARTS)
def test_docstrings_of_functions_begin_with_a_verb(part):
  functions = [(name, text) for name, function, text in all_of(part) if function]
  assert not [f'{name}: {text}' for name, text in functions if not VERB.match(text)]


@pytest.mark.parametrize('part', PARTS)
def test_first_lines_are_short_sentences(part):
  for name, _, text in all_of(part):
    first = text.splitlines()[0]
    assert first.endswith(('.', ':')), f'{name}: {first}'
    assert len(first) <= COLUMNS, f'{name}: {first}'


def beside_code(source):
  """Yields (line, comment) for the comments that follow code on the same line."""
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
      yield token.start[0], token.string


@pytest.mark.parametrize('folder', FOLDERS)
def test_no_comment_beside_code_begins_as_a_fragment(folder):
  assert not [
    f'{path.relative_to(ROOT)}:{line}: {comment}'
    for path in sorted((ROOT / folder).rglob('*.py'))
    for line, comment in beside_code(path.read_text())
    if DANGLING.match(comment)
  ]


@pytest.mark.parametrize(
  ('line', 'dangling'),
  [
    ('name: str  # Of its folder.', 1),
    ('name: str  # Name of its folder.', 0),
    ("METHOD = 'gmm'  # What `save` takes.", 1),
    ("TEXT = '# Of a string.'", 0),
    ('# Of a comment on a line of its own.', 0),
    ('steps: int  # Offsets of steps.', 0),
  ],
)
def test_dangling_comments_are_recognised(line, dangling):
  found = [comment for _, comment in beside_code(line) if DANGLING.match(comment)]
  assert len(found) == dangling


@pytest.mark.parametrize(
  ('text', 'fits'),
  [
    ('Returns the bits of symbols.', True),
    ('Encodes an image.', True),
    ('Bits of symbols under a table.', True),
    ('Of each symbol, its bits.', False),
    ('What a file holds.', False),
    ('Offsets of symbols.', True),
  ],
)
def test_fragments_are_recognised(text, fits):
  assert (FRAGMENT.match(text) is None) == fits
