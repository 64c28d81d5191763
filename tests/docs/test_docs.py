"""The README and the pages: their Python runs, their flags exist, their links lead to files."""

import importlib
import inspect
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
from absl import flags

from compress_jax import methods
from compress_jax.cli import main as program
from compress_jax.cli.command import settings
from compress_jax.images import sets
from compress_jax.training import plans

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
PAGES += sorted((ROOT / 'docs' / 'methods').glob('*.md'))
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SPAN = re.compile(r'(?<!`)`([^`]+)`(?!`)')
LINK = re.compile(r'\]\(([^)\s]+)\)')
FOLDERS = {path.name for at in (ROOT, ROOT / 'compress_jax') for path in at.iterdir()}
PROGRAMS = ('python run.py', 'compress-jax', 'python -m compress_jax', 'python -m experiments.')
OTHERS = {'export': {'half', 'deflate'}}  # Options that a mode has beside those of methods.


def name_of(page: Path) -> str:
  """A page as a test names it."""
  return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
  """The contents of a page's blocks in a language."""
  return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def commands(text: str) -> list[list[str]]:
  """The commands of shell text that start one of our programs, as words."""
  found = []
  for line in text.replace('\\\n', ' ').splitlines():
    words = shlex.split(line, comments=True)
    ends = [i for i, word in enumerate(words) if word in ('&&', '|')]
    for start, stop in zip([0, *(end + 1 for end in ends)], [*ends, len(words)], strict=True):
      part = words[start:stop]
      part = part[: part.index('>')] if '>' in part else part
      if ' '.join(part).startswith(PROGRAMS):
        found.append(part)
  return found


def commands_of(page: Path) -> list[list[str]]:
  """Those of a page's blocks and of its text."""
  spans = [' '.join(span.split()) for span in SPAN.findall(BLOCK.sub('', page.read_text()))]
  return [command for text in (*blocks(page, 'sh'), *spans) for command in commands(text)]


def flags_of(command: list[str]) -> tuple[flags.FlagValues, list[str]]:
  """The flags of the program that a command starts, and the words that are to be flags."""
  if command[0] == 'compress-jax':
    return program.define_flags(), command[1:]
  if command[1] == 'run.py':
    return program.define_flags(), command[2:]
  if command[2] == 'compress_jax':
    return program.define_flags(), command[3:]
  name, rest = command[2], command[3:]
  if name == 'experiments.bench':
    name, rest = f'experiments.bench_{rest[0]}', rest[1:]
  module = importlib.import_module(name)
  # A program without flags takes none.
  return getattr(module, 'define_flags', flags.FlagValues)(), rest


def options_of(values: flags.FlagValues) -> set[str]:
  """What --set may name where these flags are given."""
  factory = methods.method(values.method).codec
  return {*inspect.signature(factory).parameters, *plans.SET}


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A folder that holds the photograph which the pages open."""
  monkeypatch.chdir(tmp_path)
  sets.save_image('photo.png', sets.sample_photographs()[1][1][60:124, 100:196])
  return tmp_path


@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page, 'python')], ids=name_of)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, folder):
  names = {'__name__': 'page'}
  for i, block in enumerate(blocks(page, 'python')):
    exec(compile(block, f'{name_of(page)}, block {i}', 'exec'), names)


@pytest.mark.parametrize('page', [page for page in PAGES if commands_of(page)], ids=name_of)
def test_the_commands_of_a_page_have_flags_and_options_that_exist(page):
  for command in commands_of(page):
    values, rest = flags_of(command)
    try:
      left = values([command[0], *rest])[1:]
    except flags.Error as error:
      raise AssertionError(f'{" ".join(command)}: {error}') from None
    assert not left, f'{" ".join(command)}: {left}'
    if 'set' in values and 'mode' in values:
      known = OTHERS.get(values.mode) or options_of(values)
      assert settings(values.set).keys() <= known, ' '.join(command)


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_every_link_of_a_page_leads_to_a_file(page):
  for link in LINK.findall(BLOCK.sub('', page.read_text())):
    path = link.partition('#')[0]
    if path and '://' not in link:
      assert (page.parent / path).exists(), link


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_every_file_and_module_that_a_page_names_is_there(page):
  spans = SPAN.findall(BLOCK.sub('', page.read_text()))
  for span in spans:
    if re.fullmatch(r'[\w./]+/(\w+\.py)?', span) and span.split('/')[0] in FOLDERS:
      places = [ROOT / span, ROOT / 'compress_jax' / span]
      assert 'NAME' in span or any(place.exists() for place in places), span
    if re.fullmatch(r'(compress_jax|experiments|examples)(\.\w+)+', span):
      assert pkgutil.resolve_name(span), span


def test_commands_are_found_and_wrong_flags_are_noticed():
  text = 'cat a | python run.py --mode=compress \\\n  --input=- > b && python -m experiments.kodak'
  assert commands(text) == [
    ['python', 'run.py', '--mode=compress', '--input=-'],
    ['python', '-m', 'experiments.kodak'],
  ]
  values, rest = flags_of(['python', '-m', 'experiments.bench', 'codec', '--grwth'])
  with pytest.raises(flags.Error, match='grwth'):
    values(['bench', *rest])


def test_the_readme_is_short_and_begins_with_two_commands():
  text = (ROOT / 'README.md').read_text()
  first = blocks(ROOT / 'README.md', 'sh')[0].splitlines()
  assert first == [
    'pip install -r requirements.txt && python run.py --method=kmeans',
    "pip install -e '.[test]' && python -m pytest",
  ]
  assert len(text.splitlines()) <= 150 and len(text) <= 9000
