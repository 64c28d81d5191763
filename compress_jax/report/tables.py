"""Files made of rows: results.json, results.csv, CompressAI's result files, Markdown tables.

A row is a mapping, one per coded file:

    method, codec, lambda | quality, image, protocol, width, height, bytes,
    bpp, psnr (dB; None where the pixels are equal), ms_ssim (None on small
    images), encode_s, decode_s, sha256_file, sha256_pixels,
    split (bytes by purpose), file (stored bitstream; may be absent),
    processor (its name and the number of cores; absent in older rows),
    ssimulacra2, lpips (absent where they were not asked for; None without weights, and on
    images that are too small), and in the same way wasserstein, a column only where a row has it
"""

import csv
import io
import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from compress_jax.codec import CodecError
from compress_jax.evaluation.metrics import BDRate
from compress_jax.files.atomic import write_atomically
from compress_jax.methods import METHODS
from compress_jax.report import curves, qualities
from compress_jax.report.curves import Cell, Curve, Row, Wins
from compress_jax.report.published import COMPRESSAI, Published, lpips_lines
from compress_jax.report.qualities import PSNR, Quality

Meta = Mapping[str, Any]
FIELDS = (
  *('method', 'codec', 'lambda', 'quality', 'image', 'protocol', 'width', 'height'),
  *('bytes', 'bpp', 'psnr', 'ms_ssim', 'ssimulacra2', 'lpips', 'encode_s', 'decode_s'),
  *('sha256_file', 'sha256_pixels', 'split', 'file', 'processor'),
)
ON_REQUEST = ('wasserstein',)
OPTIONAL = frozenset({'lambda', 'quality', 'file', 'processor', 'ssimulacra2', 'lpips'})
# Targets of the win counts; wide enough for crops and full images.
PSNR_TARGETS = (24.0, 26.0, 28.0, 30.0, 32.0)
BPP_TARGETS = (0.2, 0.4, 0.8)


def write_results(
  folder: str | os.PathLike, meta: Meta, rows: Sequence[Row], published: Sequence[Published] = ()
) -> None:
  """Writes results.json, results.csv, tables.md, means.md and compressai/*.json.

  Each file is replaced in one step, so a crash leaves the old or the new one.

  Args:
    folder: the folder of the files, which is created if it does not exist.
    meta: how the rows were measured: command, versions, machine, seed.
    rows: the rows, one per coded file.
    published: curves that tables.md compares learned codecs with, on full images only.

  Raises:
    CodecError: a row lacks a field or has an unknown one.
  """
  rows = [checked(row, i) for i, row in enumerate(rows)]
  folder = Path(folder)
  (folder / 'compressai').mkdir(parents=True, exist_ok=True)
  _write(folder / 'results.json', results_json(meta, rows))
  _write(folder / 'results.csv', results_csv(rows))
  _write(folder / 'tables.md', tables(rows, published))
  _write(folder / 'means.md', means_table(rows))
  for curve in curves.mean_curves(rows):
    name = re.sub(r'[^\w.-]+', '-', curve.codec)
    _write(folder / 'compressai' / f'{name}.json', json.dumps(compressai(curve, rows), indent=2))


def read_results(folder: str | os.PathLike) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Returns (meta, rows) as `write_results` was given them.

  Raises:
    CodecError: there is no readable results.json, or a row in it lacks a field or has an unknown
      one.
  """
  path = Path(folder) / 'results.json'
  try:
    results = json.loads(path.read_text())
    meta, rows = results['meta'], results['rows']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise CodecError(f'no results in {path}: {error}') from error
  return meta, [checked(row, i) for i, row in enumerate(rows)]


def checked(row: Row, index: int = 0) -> dict[str, Any]:
  """Returns a copy of a row in which numbers that are not finite are None.

  Raises:
    CodecError: the row lacks a field or has an unknown one.
  """
  missing = [k for k in FIELDS if k not in row and k not in OPTIONAL]
  unknown = [k for k in row if k not in (*FIELDS, *ON_REQUEST)]
  if missing or unknown or ('lambda' in row) == ('quality' in row):
    wrong = missing or unknown or ['one of lambda and quality']
    verb = 'has unknown' if unknown and not missing else 'lacks'
    raise CodecError(f'row {index} {verb} {", ".join(map(str, wrong))}')
  return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def results_json(meta: Meta, rows: Iterable[Row]) -> str:
  """Returns the JSON text {"meta": ..., "rows": [...]}, with one row per line."""
  lines = ',\n'.join(json.dumps(row, allow_nan=False) for row in rows)
  return f'{{"meta": {json.dumps(meta, indent=1)},\n"rows": [\n{lines}\n]}}\n'


def results_csv(rows: Sequence[Row]) -> str:
  """Returns CSV with one line per row; `split` is JSON, and absent fields are empty."""
  out = io.StringIO()
  asked = [name for name in ON_REQUEST if any(name in row for row in rows)]
  writer = csv.DictWriter(out, (*FIELDS, *asked), lineterminator='\n')
  writer.writeheader()
  for row in rows:
    writer.writerow({**row, 'split': json.dumps(row['split'])})
  return out.getvalue()


def compressai(curve: Curve, rows: Iterable[Row]) -> dict[str, Any]:
  """Returns a mean curve in CompressAI's result format, which its `utils.plot` reads."""
  rows = [row for row in rows if row['codec'] == curve.codec and row['method'] == curve.method]

  def seconds(key: str) -> list[float]:
    return [
      statistics.fmean(r[key] for r in rows if curves.operating_point(r) == at) for at in curve.at
    ]

  protocol = curves.one_protocol(rows)
  count = len(curves.images(rows))
  knob = 'lambda' if 'lambda' in rows[0] else 'quality'
  results: dict[str, Any] = {knob: list(curve.at), 'bpp': list(curve.bpp)}
  results['psnr-rgb'] = list(curve.psnr)
  for key, name in COMPRESSAI.items():
    values = getattr(curve, key)
    if values and all(map(math.isfinite, values)):
      results[name] = list(values)
  results |= {'encoding_time': seconds('encode_s'), 'decoding_time': seconds('decode_s')}
  description = f'{curve.method}, means over {count} images, protocol {protocol}'
  return {'name': curve.codec, 'description': description, 'results': results}


def tables(rows: Sequence[Row], published: Sequence[Published] = ()) -> str:
  """Returns Markdown tables: BD-rates by each quality, win counts and median times."""
  per_image = curves.image_curves(rows)
  parts = [
    (
      'BD-rate of the row against the column (PSNR interval; median of images; images won)',
      bd_table(curves.bd_matrix(rows)),
    ),
    *((f'The same by {quality.name}', _bd_by(rows, quality)) for quality in qualities.ALL[1:]),
    (
      'Images on which a codec needs the fewest bytes, by PSNR',
      wins_table(curves.wins_at_psnr(per_image, PSNR_TARGETS), 'dB'),
    ),
    (
      'Images on which a codec has the highest PSNR, by rate',
      wins_table(curves.wins_at_bpp(per_image, BPP_TARGETS), 'bpp'),
    ),
    ('Median seconds per image', times_table(rows)),
  ]
  learned = [row for row in rows if row['method'] in METHODS]
  if learned and published and curves.one_protocol(rows) == 'full':
    matrix = curves.bd_matrix(learned, [entry.curve for entry in published])
    title = 'BD-rate of the row against published curves (PSNR interval)'
    parts.insert(len(qualities.ALL), (title, bd_table(matrix)))
    head, lines = lpips_lines(curves.mean_curves(learned), published)
    if lines:
      title = 'LPIPS at the rates of published points (interpolated in log bpp)'
      parts.insert(len(qualities.ALL) + 1, (title, _table(head, lines)))
  return '\n'.join(f'**{title}**\n\n{table}' for title, table in parts)


def _bd_by(rows: Sequence[Row], quality: Quality) -> str:
  """Returns the BD-rates by a quality as a Markdown table, or the reason why there are none."""
  reason = qualities.missing(rows, quality)
  return f'{reason}\n' if reason else bd_table(curves.bd_matrix(rows, quality=quality), quality)


def means_table(rows: Sequence[Row]) -> str:
  """Returns a Markdown table of means over images: a line per operating point of each codec.

  There is a column for bpp and one for each quality.
  """
  return _table(*means(rows))


def means(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
  """Returns the head and the lines of a table of means over images at each operating point.

  The cells of a quality that all rows lack hold the reason, such as 'no weights'.
  """
  head = ['codec', 'setting', 'bpp', *(quality.name for quality in qualities.ALL)]
  reasons = {quality.key: qualities.missing(rows, quality) for quality in qualities.ALL}
  lines = []
  for curve in curves.mean_curves(rows):
    no_numbers = [math.nan] * len(curve.bpp)
    for i, (at, bpp) in enumerate(zip(curve.at, curve.bpp, strict=True)):
      line = [curve.codec, f'{at:g}', f'{bpp:.4f}']
      for quality in qualities.ALL:
        value = (getattr(curve, quality.key) or no_numbers)[i]
        text = f'{value:{quality.form}}'.replace('-', '−') if math.isfinite(value) else '–'
        line.append(reasons[quality.key] or text)
      lines.append(line)
  return head, lines


def bd_table(matrix: Sequence[Sequence[Cell]], quality: Quality = PSNR) -> str:
  """Returns BD-rates as a Markdown table, each with the interval that it covers."""
  if not matrix:
    return ''
  head = ['', *(cell.anchor for cell in matrix[0])]
  return _table(
    head, [[line[0].codec, *(bd_text(cell, quality) for cell in line)] for line in matrix]
  )


def bd_text(cell: Cell, quality: Quality = PSNR) -> str:
  """Returns the text of a cell of the BD-rate matrix."""
  if cell.anchor == cell.codec:
    return ''
  if cell.mean is None:
    return 'no overlap'
  text = f'{percent(cell.mean.percent)} ({span(cell.mean, quality)}'
  if cell.median is not None:
    text += f'; {percent(cell.median)}; {cell.better}/{cell.images}'
  return text + ')'


def span(found: BDRate, quality: Quality = PSNR) -> str:
  """Returns the interval of a BD-rate as text, such as 28.0–36.5 dB, on its quality's scale."""
  between = ' to ' if found.low < 0 else '–'
  return f'{found.low:.1f}{between}{found.high:.1f}{quality.unit}'.replace('-', '−')


def percent(value: float) -> str:
  """Returns a number as a percentage with a sign and a true minus, such as −12.3 %."""
  return f'{value:+.1f} %'.replace('-', '−')


def wins_table(wins: Wins, unit: str) -> str:
  """Returns win counts as a Markdown table."""
  head = ['', *(f'{t:g} {unit}' for t in wins.targets)]
  lines = [[codec, *map(str, counts)] for codec, counts in wins.counts.items()]
  return _table(head, [*lines, ['of images', *map(str, wins.images)]])


class Times(NamedTuple):
  """Medians over the rows of a codec."""

  encode: float  # Seconds.
  decode: float  # Seconds.
  megapixels: float
  processor: str  # Empty if all codecs were measured on the same one.


def times(rows: Iterable[Row]) -> dict[str, Times]:
  """Returns the times of each codec."""
  rows, out = list(rows), {}
  for _, codec in curves.codecs(rows):
    group = [row for row in rows if row['codec'] == codec]
    encode, decode = (statistics.median(r[k] for r in group) for k in ('encode_s', 'decode_s'))
    megapixels = statistics.median(r['width'] * r['height'] for r in group) / 1e6
    processors = sorted({row.get('processor', 'not recorded') for row in group})
    out[codec] = Times(encode, decode, megapixels, '; '.join(processors))
  if len({each.processor for each in out.values()}) == 1:
    out = {codec: each._replace(processor='') for codec, each in out.items()}
  return out


def times_table(rows: Iterable[Row]) -> str:
  """Returns median times as a Markdown table; it names processors if the codecs differ in them."""
  found = times(rows)
  several = any(each.processor for each in found.values())
  lines = [
    [name, f'{each.encode:.3g}', f'{each.decode:.3g}', *[each.processor] * several]
    for name, each in found.items()
  ]
  return _table(['', 'encode', 'decode', *['processor'] * several], lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
  rule = ['---', *['--:'] * (len(head) - 1)]
  return ''.join(f'| {" | ".join(line)} |\n' for line in [head, rule, *lines])


def _write(path: Path, text: str) -> None:
  write_atomically(path, text.encode(errors='backslashreplace'), overwrite=True)
