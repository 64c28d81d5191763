"""Checks that the documents say what the committed rows say.

  python -m experiments.check_numbers
  python -m experiments.check_numbers --write

Tables in Markdown whose heads are known are read cell by cell: bits per pixel, PSNR and BD-rates
are worked out anew from `results.json`, and have to round to what the cell says. `check_tables` has
a rule for each kind of table, and `check_sentences` does the same for sentences that compare two
codecs. The tables that programs write have to stand as these would write them now. Prints one line
per wrong figure and ends with 1 if there is any. Times are not checked: they are a machine's.

With --write, wrong figures in tables are replaced first, as after a new model was measured. Files
and tables that programs write are written anew. Sentences are left to their author, and so are
cells in which the rows would put another count of numbers; they are still reported.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax.cli.command import guarded, parse
from compress_jax.report import tables
from compress_jax.report.published import read_published
from experiments import (
  bits,
  check_sentences,
  check_tables,
  realism,
  study_tables,
  training_curve,
)

ROOT = Path(__file__).parents[1]
RESULTS = Path('experiments') / 'results'
EQUAL_RATES = 0.15, 0.3, 0.45  # Bits per pixel of the second table of realism.
# Documents that hold other text beside tables that programs write.
MIXED = RESULTS / 'README.md', Path('compress_jax') / 'zoo' / 'gan.md'


def define_flags() -> flags.FlagValues:
  """The flags, in a registry of their own."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  flags.DEFINE_bool('write', False, 'Replace wrong figures in tables first.', **here)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def main(root: Path = ROOT, *, write: bool = False) -> int:
  """Prints what is wrong; the exit status."""
  if write:
    correct(root)
  wrong = [*check(root)]
  print(*wrong, sep='\n' if wrong else '')
  print(f'{len(wrong)} figures differ from their rows' if wrong else 'all figures are their rows')
  return 1 if wrong else 0


def correct(root: Path) -> None:
  """Replaces the figures in tables that differ from their rows."""
  source = _source(root)
  for path, text in _made(source, root).items():
    there = (root / path).read_text()
    (root / path).write_text(check_tables.with_tables(there, text) if path in MIXED else text)
  for document in _documents(root):
    text = (root / document).read_text()
    mistakes = [
      mistake
      for table in check_tables.tables_of(document, text)
      for mistake in check_tables.wrong(table, source)
    ]
    (root / document).write_text(check_tables.corrected(text, mistakes))


def _source(root: Path) -> check_tables.Source:
  """Returns the committed rows."""
  rows = lambda name: json.loads((root / RESULTS / name).read_text())['rows']  # noqa: E731
  return check_tables.Source(
    rows('kodak-full/results.json'),
    rows('kodak-crop/results.json'),
    {name: rows(f'ablations/{name}.json') for name in check_tables.STUDIES},
    rows('realism.json'),
    rows('bits/gmm.json'),
    rows('buildings/results.json'),
    rows('buildings/others.json'),
    rows('training/gmm.json'),
  )


def _documents(root: Path) -> list[Path]:
  """The documents with figures."""
  pages = sorted([*root.glob('docs/*.md'), *root.glob('docs/methods/*.md')])
  documents = ['README.md', str(RESULTS / 'README.md')]
  documents += [str(page.relative_to(root)) for page in pages]
  documents += [f'compress_jax/zoo/{name}.md' for name in ('cae', 'gan', 'gmm', 'kmeans')]
  return [Path(document) for document in documents]


def check(root: Path) -> Iterator[str]:
  """One line per figure that differs from its row."""
  source = _source(root)
  yield from _missing(root, source)
  published = root / 'experiments' / 'published'
  more = source.buildings, source.others
  known = check_sentences.known_rates(source.full, source.crop, published, *more)
  for document in _documents(root):
    text = (root / document).read_text()
    for table in check_tables.tables_of(document, text):
      yield from (mistake.text for mistake in check_tables.wrong(table, source))
    for claim in check_sentences.claims(document, text):
      if check_sentences.wrong(claim, known):
        yield f'{document}: no row says so: {claim.text}'


def _made(source: check_tables.Source, root: Path) -> dict[Path, str]:
  """Returns what programs write, by document: all of it, or in MIXED some tables of it."""
  published = read_published(root / 'experiments' / 'published')
  made = {
    RESULTS / 'kodak-full' / 'tables.md': tables.tables(source.full, published),
    RESULTS / 'kodak-crop' / 'tables.md': tables.tables(source.crop),
    RESULTS / 'kodak-full' / 'means.md': tables.means_table(source.full),
    RESULTS / 'kodak-crop' / 'means.md': tables.means_table(source.crop),
    RESULTS / 'realism.md': realism.table(source.realism),
    RESULTS / 'bits' / 'gmm.md': bits.table(source.bits),
    RESULTS / 'buildings' / 'tables.md': tables.tables(source.buildings),
  }
  for name, anchor in check_tables.STUDIES.items():
    made[RESULTS / 'ablations' / f'{name}.md'] = study_tables.table(source.studies[name], anchor)
  for path in MIXED:
    made[path] = realism.table(source.realism)
  made[RESULTS / 'training' / 'gmm.md'] = training_curve.table(source.training, 'avif')
  for more in (
    realism.equal_table(source.realism, EQUAL_RATES),
    bits.table(source.bits),
    made[RESULTS / 'training' / 'gmm.md'],
  ):
    made[RESULTS / 'README.md'] += '\n' + more
  return made


def _missing(root: Path, source: check_tables.Source) -> Iterator[str]:
  """One line for each line that programs would write and that is not there."""
  for path, text in _made(source, root).items():
    there = (root / path).read_text()
    for line in text.splitlines():
      if line not in there.splitlines():
        yield f'{path}: the rows make the line {line[:160]!r}, which is not there'


if __name__ == '__main__':
  sys.exit(guarded('check_numbers', lambda: main(write=parse(define_flags(), __doc__).write)))
