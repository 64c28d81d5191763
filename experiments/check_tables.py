"""The tables of the documents, and the rule by which each kind of table is worked out from rows.

`check_numbers` applies them.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compress_jax.report import curves, qualities
from experiments import check_sentences, realism, study_tables, training_curve

# The curves that BD-rates are against, by study.
STUDIES = {
  'context': 'serial',
  'attention': 'no-attention',
  'mixtures': 'mixtures-1',
  'rates': 'fixed-rates',
  'rates-shortcuts': 'fixed-rates',
  'levels': 'levels-even',
  'shortcuts': 'linear-path',
  'balanced': 'equal-weights',
  'augment': 'usual-crops',
  'crop': '128-by-4',
}
# Tables with bits, PSNR or BD-rates in their heads that no committed row tells.
NO_ROWS = (
  'images whose grey file is no larger',
  'seeding, K=256, 24 crops x 5 seeds',
  'N=128, 0.85 bpp',
  'N=192, 0.85 bpp',
)
NAMES = check_sentences.CLASSICAL | {
  'JPEG with default tables': 'jpeg-default',
  '`gmm` with `--refine=10`': 'gmm-refined',
}
# A hyphen between two numbers is a range.
_NUMBER = re.compile(r'(?:(?<!\d)[-+−])?\d+(?:\.\d+)?')


Rows = Sequence[dict[str, Any]]
Numbers = Sequence[str]
Expected = Mapping[int, Sequence[float]]  # By column, in the order of the cell's numbers.


class Table(NamedTuple):
  """A table of a document."""

  document: Path
  line: int  # The line of its first row, from 1.
  head: tuple[str, ...]
  rows: list[list[str]]


class Source(NamedTuple):
  """The committed rows."""

  full: Rows
  crop: Rows
  studies: Mapping[str, Rows]
  realism: Rows
  bits: Rows
  buildings: Rows
  others: Rows  # Photographs from the same source without buildings.
  training: Rows


def tables_of(document: Path, text: str) -> Iterator[Table]:
  """The tables of a document in Markdown."""
  lines = text.splitlines()
  for i, line in enumerate(lines):
    if i and re.fullmatch(r'\|[-:| ]+\|', line) and lines[i - 1].startswith('|'):
      body = []
      for row in lines[i + 1 :]:
        if not row.startswith('|'):
          break
        body.append(_cells(row))
      yield Table(document, i + 2, tuple(_cells(lines[i - 1])), body)


def _cells(line: str) -> list[str]:
  return [cell.strip() for cell in line.strip().strip('|').split('|')]


class Wrong(NamedTuple):
  """A cell that differs from its row, or a table that cannot be checked."""

  line: int
  column: int
  numbers: Numbers  # The right numbers of the cell; empty if they are not known.
  text: str


def wrong(table: Table, source: Source) -> Iterator[Wrong]:
  """Yields what is wrong in a table."""
  checker = CHECKERS.get(table.head)
  if checker is None:
    head = ' '.join(table.head)
    if any(word in head for word in ('bpp', 'BD-rate', 'PSNR')) and not {*table.head} & {*NO_ROWS}:
      text = f'{table.document}:{table.line}: no rule for a table of {" | ".join(table.head)}'
      yield Wrong(table.line, 0, (), text)
    return
  for line, row in enumerate(table.rows, table.line):
    where = f'{table.document}:{line}'
    try:
      expected = checker(table, row, source)
    except (LookupError, ValueError):
      yield Wrong(line, 0, (), f'{where}: no rows are there for {row[0]}')
      continue
    for column, values in expected.items():
      found = numbers(row[column])
      made = [_rounded(value, text) for value, text in zip(values, found, strict=False)]
      if found != made or len(values) != len(found):
        known = made if len(values) == len(found) else []
        wanted = ' '.join(known or [f'{value:g}' for value in values])
        yield Wrong(line, column, known, f'{where}: {row[0]}: {row[column]} should be {wanted}')


def numbers(cell: str) -> list[str]:
  """The numbers of a cell; a hyphen between two is a range."""
  return [text.replace('−', '-') for text in _NUMBER.findall(cell)]


def corrected(text: str, mistakes: Sequence[Wrong]) -> str:
  """Returns a document whose cells have the numbers that they should have."""
  lines = text.splitlines(keepends=True)
  for line, column, wanted, _ in mistakes:
    if wanted:
      cells = lines[line - 1].split('|')
      minus = '−' if '−' in cells[column + 1] else '-'
      each = iter(wanted)
      cells[column + 1] = _NUMBER.sub(lambda _: next(each).replace('-', minus), cells[column + 1])  # noqa: B023
      lines[line - 1] = '|'.join(cells)
  return ''.join(lines)


def with_tables(text: str, made: str) -> str:
  """Returns a document in which tables with the heads of those in `made` are replaced by these."""
  new = {block[0]: block for table, block in _blocks(made) if table}
  blocks = [new.get(block[0], block) if table else block for table, block in _blocks(text)]
  return '\n'.join(itertools.chain(*blocks)) + '\n'


def _blocks(text: str) -> Iterator[tuple[bool, list[str]]]:
  """Yields the lines of a document in blocks, and whether a block is a table."""
  for table, lines in itertools.groupby(text.splitlines(), lambda line: line.startswith('|')):
    yield table, list(lines)


def _rounded(value: float, text: str) -> str:
  """A value with the sign and the digits that a text has."""
  digits = len(text.partition('.')[2])
  return f'{value:+.{digits}f}' if text[0] in '+-' else f'{value:.{digits}f}'


def _codec(cell: str) -> str:
  """The codec that the first cell of a row names."""
  if cell in NAMES:
    return NAMES[cell]
  quoted = re.match(r'`([^`]+)`', cell)
  return quoted.group(1) if quoted else cell


def _curve(rows: Rows, codec: str) -> curves.Curve:
  own = [row for row in rows if row['codec'] == codec]
  return curves.mean_curves(own)[0]


def _at(rows: Rows, codec: str, lmbda: float) -> tuple[float, float]:
  """bpp and PSNR in dB."""
  curve = _curve(rows, codec)
  i = curve.at.index(lmbda)
  return curve.bpp[i], curve.psnr[i]


def _against(rows: Rows, codec: str, anchor: str) -> curves.Cell:
  pair = [row for row in rows if row['codec'] in (codec, anchor)]
  for (cell,) in curves.bd_matrix(pair, [_curve(rows, anchor)]):
    if cell.codec == codec:
      return cell
  raise ValueError(f'no rows of {codec}')


def _bd(rows: Rows, codec: str, anchor: str) -> list[float]:
  """A BD-rate in per cent and its interval in dB."""
  mean = _against(rows, codec, anchor).mean
  return [mean.percent, mean.low, mean.high] if mean else []


def _whole(table: Table, row: list[str], source: Source) -> Expected:
  return _against_jpeg(source.full, row)


def _crops(table: Table, row: list[str], source: Source) -> Expected:
  return _against_jpeg(source.crop, row)


def _against_jpeg(rows: Rows, row: list[str]) -> Expected:
  """A BD-rate and, where the row has them, bpp and PSNR at lambda 0.0035."""
  codec = _codec(row[0])
  expected: dict[int, Sequence[float]] = {1: _bd(rows, codec, 'jpeg')}
  if row[2]:
    expected[2] = _at(rows, codec, 0.0035)
  return expected


def _refined(table: Table, row: list[str], source: Source) -> Expected:
  method, _, size = row[0].partition(', ')
  rows = {'crops': source.crop, 'whole': source.full}[size]
  cell = _against(rows, f'{method}-refined', method)
  return {1: [*_bd(rows, f'{method}-refined', method), cell.better, cell.images]}


def _study(table: Table, row: list[str], source: Source) -> Expected:
  study, codec = row[:2]
  found = study_tables.compared(source.studies[study], STUDIES[study])[codec]
  cell = found.cell
  assert cell.mean
  seeds = [percent for percent in found.seeds if percent is not None]
  return {3: [cell.mean.percent], 4: seeds, 5: [cell.better, cell.images]}


def _training(table: Table, row: list[str], source: Source) -> Expected:
  del table
  points = training_curve.points(source.training, 'avif')
  point = {f'{each.minutes:g}': each for each in points}[row[0]]
  bd, cell = point.cell.mean, point.cell
  assert bd
  slope = [] if point.slope is None else [point.slope]
  return {1: [bd.percent, bd.low, bd.high], 2: [cell.better, cell.images], 3: slope}


def _card(table: Table, row: list[str], source: Source) -> Expected:
  """By lambda: bpp, PSNR, and JPEG's PSNR at that rate."""
  method = table.document.stem
  codec = method if len(table.head) > 3 else f'{method}-refined'
  bpp, psnr = _at(source.full, codec, float(row[0]))
  expected: dict[int, Sequence[float]] = {1: [bpp], 2: [psnr]}
  if table.head[-1].startswith('optimised JPEG'):
    jpeg = _curve(source.full, 'jpeg')
    expected[len(row) - 1] = [float(np.interp(bpp, jpeg.bpp, jpeg.psnr))]
  return expected


def _natural(table: Table, row: list[str], source: Source) -> Expected:
  point = row[0], float(row[1])
  found = {(each['codec'], each['point']): each for each in source.realism}[point]
  far = [found[name] for name in ('distance', 'low', 'high')]
  expected: dict[int, Sequence[float]] = {2: [found['bpp']], 3: [found['psnr']], 4: far}
  for column, name in enumerate(('ssimulacra2', 'lpips')[: len(row) - 5], 5):
    expected[column] = [] if found[name] is None else [found[name]]
  return expected


def _equal(table: Table, row: list[str], source: Source) -> Expected:
  between = realism.at_rate(source.realism, row[1], float(row[0]))
  if between is None:
    raise LookupError
  far = [between[name] for name in ('distance', 'low', 'high')]
  last = {4: [between['ssimulacra2']], 5: [between['lpips']]}
  return {2: [between['psnr']], 3: far, **last}


def _building(table: Table, row: list[str], source: Source) -> Expected:
  """Returns the BD-rates of gmm that a row of the buildings table has to show.

  They are against AVIF and JPEG by PSNR, and against AVIF by SSIMULACRA2.
  """
  own = [each for each in source.buildings if each['image'] == f'bsds_{row[0]}']
  rows = own or (source.buildings if row[0] == 'all five' else source.others)
  seen = [each for each in rows if each['codec'] in ('gmm', 'avif')]
  [[_, cell], _] = curves.bd_matrix(seen, quality=qualities.SSIMULACRA2)
  assert cell.mean
  return {1: _bd(rows, 'gmm', 'avif'), 2: _bd(rows, 'gmm', 'jpeg'), 3: [cell.mean.percent]}


_RATE = ('lambda', 'bpp', 'PSNR')
_SEEN = 'against AVIF by SSIMULACRA2'
_JPEG = 'optimised JPEG at that rate'
CHECKERS: dict[tuple[str, ...], Callable[[Table, list[str], Source], Expected]] = {
  ('codec', 'BD-rate against JPEG', 'at lambda 0.0035', 'parameters', 'encode, decode'): _whole,
  (*('codec', 'BD-rate against JPEG', 'bpp and PSNR at lambda 0.0035', 'encode, decode'),): _crops,
  ('`--refine=10` against 0', 'BD-rate, 24 Kodak images', 'seconds to encode an image'): _refined,
  ('study', 'curve', 'what it is', 'BD-rate', 'single seeds', 'images won'): _study,
  tuple(_cells(training_curve.head('avif'))): _training,
  (*_RATE, _JPEG): _card,
  _RATE: _card,
  (*('photograph', 'BD-rate of gmm against AVIF', 'against JPEG'), _SEEN): _building,
  tuple(_cells(realism.HEAD.splitlines()[0])): _natural,
  tuple(_cells(realism.WIDE_HEAD.splitlines()[0])): _natural,
  tuple(_cells(realism.EQUAL_HEAD.splitlines()[0])): _equal,
}
