"""The figures of the documents are those of the committed rows."""

import json
import shutil

import pytest

from compress_jax.report import curves
from compress_jax.report import tables as report
from experiments import check_numbers, check_sentences, check_tables

ROOT, RESULTS = check_numbers.ROOT, check_numbers.ROOT / check_numbers.RESULTS


@pytest.fixture(autouse=True, scope='module')
def tables_once():
  """The rows are the same in all tests, and their tables take seconds."""
  known, rates = {}, []
  tables, known_rates = report.tables, check_sentences.known_rates

  def cached(rows, published=()):
    key = rows[0]['protocol'], len(rows)
    if key not in known:
      known[key] = tables(rows, published)
    return known[key]

  def cached_rates(*arguments):
    if not rates:
      rates.append(known_rates(*arguments))
    return rates[0]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(report, 'tables', cached)
    patch.setattr(check_sentences, 'known_rates', cached_rates)
    yield


@pytest.mark.slow
def test_every_table_stands_as_its_rows_say():
  assert list(check_numbers.check(ROOT)) == []


def test_sentences_are_found_in_the_documents():
  """A pattern that matches nothing would let every sentence pass."""
  pages = [ROOT / 'README.md', RESULTS / 'README.md', *ROOT.glob('docs/**/*.md')]
  found = [claim for page in pages for claim in check_sentences.claims(page, page.read_text())]
  assert len(found) >= 25


def test_realism_was_measured_on_the_files_of_the_comparison():
  rows = json.loads((RESULTS / 'kodak-full' / 'results.json').read_text())['rows']
  known = {curve.codec: curve for curve in curves.mean_curves(rows)}
  natural = json.loads((RESULTS / 'realism.json').read_text())
  assert natural['meta']['protocol'] == 'full'
  compared = 0
  for row in natural['rows']:
    assert row['images'] == len(curves.images(rows)) == 24
    curve = known.get(row['codec'])  # A model for comparison has no rows there.
    if curve and row['point'] in curve.at:
      i = curve.at.index(row['point'])
      assert row['bpp'] == pytest.approx(curve.bpp[i], rel=1e-6)
      assert row['psnr'] == pytest.approx(curve.psnr[i], abs=1e-4)
      compared += 1
  assert compared >= 3


@pytest.fixture
def copy(tmp_path):
  """The documents and their rows."""
  for path in ('experiments/results', 'experiments/published'):
    shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns('*.png', '*.html'))
  (tmp_path / 'compress_jax' / 'zoo').mkdir(parents=True)
  for card in (ROOT / 'compress_jax' / 'zoo').glob('*.md'):
    shutil.copy(card, tmp_path / 'compress_jax' / 'zoo')
  shutil.copytree(ROOT / 'docs', tmp_path / 'docs', ignore=shutil.ignore_patterns('_build'))
  shutil.copy(ROOT / 'README.md', tmp_path)
  return tmp_path


@pytest.mark.parametrize(
  'document,head,column',
  [
    ('README.md', 'at lambda 0.0035', 1),
    ('README.md', 'at lambda 0.0035', 2),
    ('docs/compressing.md', '`--refine=10` against 0', 1),
    ('docs/methods/kmeans.md', 'bpp and PSNR at lambda 0.0035', 2),
    ('experiments/results/README.md', 'study', 3),
    ('experiments/results/README.md', 'realism distance', 4),
    ('experiments/results/README.md', 'more bits with z zeroed', 1),
    ('experiments/results/README.md', 'photograph', 1),
    ('experiments/results/README.md', 'minutes', 1),
    ('compress_jax/zoo/gan.md', 'PSNR', 2),
    ('compress_jax/zoo/gmm.md', 'optimised JPEG', 3),
    ('experiments/results/kodak-full/tables.md', 'jpeg', 3),
    ('experiments/results/ablations/rates.md', 'curve', 2),
  ],
)
@pytest.mark.slow
def test_a_wrong_figure_is_found(copy, document, head, column):
  path = copy / document
  lines = path.read_text().splitlines()
  at = next(i for i, line in enumerate(lines) if line.startswith('|') and head in line) + 2
  cells = lines[at].split('|')
  digit = next(letter for letter in cells[column + 1] if letter.isdigit())
  cells[column + 1] = cells[column + 1].replace(digit, str((int(digit) + 1) % 10), 1)
  lines[at] = '|'.join(cells)
  path.write_text('\n'.join(lines) + '\n')
  found = list(check_numbers.check(copy))
  assert found and all(line.startswith(document) for line in found)
  assert check_numbers.main(copy) == 1
  assert check_numbers.main(copy, write=True) == 0
  assert path.read_text() == (ROOT / document).read_text()


@pytest.mark.slow
def test_a_table_without_a_rule_is_named(copy):
  text = (copy / 'README.md').read_text() + '\n| mine | bpp |\n|---|---|\n| gmm | 0.1 |\n'
  (copy / 'README.md').write_text(text)
  assert ['no rule for a table of mine | bpp' in line for line in check_numbers.check(copy)] == [
    True
  ]


def test_cells_are_corrected_number_by_number():
  text = '| a | b |\n|---|---|\n| 1 | **−42.9 %** (24.3–28.5 dB; 15 of 24) |\n| 2 | -1 |\n'
  cell = check_tables.Wrong(3, 1, ['+1.0', '24.0', '28.0', '9', '24'], '')
  unknown = check_tables.Wrong(4, 1, [], '')
  assert check_tables.corrected(text, [cell, unknown]) == (
    '| a | b |\n|---|---|\n| 1 | **+1.0 %** (24.0–28.0 dB; 9 of 24) |\n| 2 | -1 |\n'
  )
  minus = cell._replace(numbers=['-1.0', *cell.numbers[1:]])
  assert '**−1.0 %**' in check_tables.corrected(text, [minus])


def test_tables_are_replaced_by_those_with_their_heads():
  text = '# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nText.\n\n| c |\n|---|\n| 3 |\n'
  made = '| a | b |\n|---|---|\n| 4 | 5 |\n| 6 | 7 |\n'
  assert check_tables.with_tables(text, made) == text.replace('| 1 | 2 |', '| 4 | 5 |\n| 6 | 7 |')


def test_the_numbers_of_a_cell_are_read_with_their_signs():
  cell = '**−42.9 %** (24.3–28.5 dB; 15 of 24), +0.0 %, 24.3-28.5'
  assert check_tables.numbers(cell) == [
    '-42.9',
    '24.3',
    '28.5',
    '15',
    '24',
    '+0.0',
    '24.3',
    '28.5',
  ]
