"""One HTML page with plot, viewer and tables; it works from a file and loads no other file.

The template, the style and the scripts are in `templates/`; plotly.js comes out of the plotly
package. Tables are rendered here and readable without JavaScript.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import jinja2
from plotly.offline import get_plotlyjs

from compress_jax.codec import Image
from compress_jax.files.atomic import write_atomically
from compress_jax.methods import METHODS
from compress_jax.report import curves, figures, qualities, tables
from compress_jax.report.byte_split import part_colours, splits
from compress_jax.report.curves import Cell, Curve, Row
from compress_jax.report.palette import display, looks
from compress_jax.report.previews import CUT_TO, LEVELS, Previews, previews
from compress_jax.report.published import Published
from compress_jax.report.tables import Meta

ANCHOR = 'jpeg'  # The codec that the headline compares with.
PREVIEW_BUDGET = 4_800_000  # Bytes; with plotly.js the page stays under 10 MB.
RESULTS = ('results.csv', 'results.json')  # Files that `tables.write_results` writes.
_SCRIPTS = ('common.js', 'plot.js', 'viewer.js', 'bd.js')


def write_page(
  folder: str | os.PathLike,
  meta: Meta,
  rows: Sequence[Row],
  *,
  originals: Mapping[str, Callable[[], Image]],
  decode: Callable[[Row], Image],
  preview_budget: int = PREVIEW_BUDGET,
  levels: Sequence[float] = LEVELS,
  published: Sequence[Published] = (),
  name: str = 'index.html',
  links: Sequence[str] = RESULTS,
) -> Path:
  """Writes the page and returns its path.

  Args:
    folder: the folder of the page, which is created if it does not exist.
    meta: versions, machine, seed and date for the end of the page. Its 'title', if any, is the
      page's heading.
    rows: the rows of one protocol.
    originals: functions by image name that load u8[H, W, 3], cropped as the protocol says.
    decode: returns the pixels of a row's file.
    preview_budget: the limit of the bytes of all pictures in the page.
    levels: target bits per pixel of the viewer, in order of priority.
    published: curves of the literature, which are drawn on full images only.
    name: the name of the page in the folder.
    links: paths from the folder to files with all rows; empty if there are none.

  Raises:
    CodecError: there are no rows, or those of several protocols.
  """
  rows = [tables.checked(row, i) for i, row in enumerate(rows)]
  pictures = previews(
    rows, originals=originals, decode=decode, budget=preview_budget, levels=levels
  )
  html = render(meta, rows, pictures, published, links)
  path = Path(folder) / name
  path.parent.mkdir(parents=True, exist_ok=True)
  write_atomically(path, html.encode(errors='backslashreplace'), overwrite=True)
  return path


def render(
  meta: Meta,
  rows: Sequence[Row],
  pictures: Previews,
  published: Sequence[Published] = (),
  links: Sequence[str] = RESULTS,
) -> str:
  """Returns the text of the page; see `write_page`."""
  loader = jinja2.PackageLoader('compress_jax.report')
  environment = jinja2.Environment(
    loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters |= {'percent': tables.percent, 'display': display, 'seconds': seconds}
  environment.filters['span'] = tables.span

  def source(name: str) -> str:
    return loader.get_source(environment, name)[0]

  per_image = curves.image_curves(rows)
  parts = splits(rows)
  literature = list(published) if curves.one_protocol(rows) == 'full' else []
  pairs = curves.codecs(rows)
  reasons = {quality.key: qualities.missing(rows, quality) for quality in qualities.ALL[1:]}
  measured = [quality for quality in qualities.ALL if not reasons.get(quality.key)]
  matrices = [(each, curves.bd_matrix(rows, quality=each)) for each in measured]
  return environment.get_template('page.html').render(
    title=meta.get('title', 'Image codecs on real files'),
    subtitle=figures.describe(rows),
    meta={k: v for k, v in meta.items() if k != 'title'},
    data=page_data(rows, pictures, literature),
    style=source('page.css'),
    scripts=[get_plotlyjs(), *map(source, _SCRIPTS)],
    matrices=matrices,
    qualities=qualities.ALL,
    reasons=reasons,
    cards=[cell for line in matrices[0][1] for cell in line if _headline(cell)],
    own={c: v for (m, c), v in zip(pairs, looks(pairs).values(), strict=True) if m in METHODS},
    heat=heat,
    wins=[
      ('Fewest bytes for at least', 'dB', curves.wins_at_psnr(per_image, tables.PSNR_TARGETS)),
      ('Highest PSNR for at most', 'bpp', curves.wins_at_bpp(per_image, tables.BPP_TARGETS)),
    ],
    splits=parts,
    widest=max((sum(p.values()) for points in parts.values() for _, p in points), default=1),
    part_colours=part_colours(parts),
    times=tables.times(rows),
    lossless=lossless_rates(rows),
    published=literature,
    incomplete=curves.incomplete(rows),
    left_out=pictures.left_out,
    cut_to=CUT_TO if pictures.cut else 0,
    has_viewer=bool(pictures.choices),
    links=[(quote(PurePath(link).as_posix()), PurePath(link).name) for link in links],
    means=tables.means(rows),
  )


def page_data(
  rows: Sequence[Row], pictures: Previews, published: Sequence[Published]
) -> dict[str, Any]:
  """Returns the data that the scripts of the page read, ready for JSON."""
  pairs = curves.codecs(rows)
  seen = looks(pairs)
  knobs = {row['codec']: 'λ' if 'lambda' in row else 'quality' for row in rows}
  mean = curves.mean_curves(rows)
  return {
    'codecs': [
      {
        'id': codec,
        'name': display(codec),
        'learned': method in METHODS,
        'knob': knobs[codec],
        'shown': not curves.variant(method),
        **seen[codec]._asdict(),
      }
      for method, codec in pairs
      if any(c.codec == codec for c in mean)
    ],
    'qualities': [
      {
        **{'key': quality.key, 'name': quality.name, 'axis': quality.axis, 'unit': quality.unit},
        **{'digits': int(quality.form[1]), 'without': qualities.missing(rows, quality)},
      }
      for quality in qualities.ALL
    ],
    'mean': _points(mean),
    'images': {name: _points(found) for name, found in curves.image_curves(rows).items()},
    'published': [
      {'name': p.curve.codec, **_columns(p.curve), 'shown': 'all' in p.figures} for p in published
    ],
    'pictures': pictures.pictures,
    'originals': pictures.originals,
    'choices': {
      image: {
        level: {codec: [key, *_numbers(row)] for codec, (key, row) in found.items()}
        for level, found in by_level.items()
      }
      for image, by_level in pictures.choices.items()
    },
  }


def heat(cell: Cell) -> float:
  """Returns the strength of a cell's tint in 0..1; half or double the bits give 1."""
  return 0.0 if cell.mean is None else min(1.0, abs(math.log2(1 + cell.mean.percent / 100)))


def seconds(value: float) -> str:
  """Returns a time as text, in seconds or milliseconds."""
  return f'{1000 * value:.3g} ms' if value < 1 else f'{value:.3g} s'


def lossless_rates(rows: Sequence[Row]) -> dict[str, float]:
  """Returns {codec: mean bpp} of the lossless codecs."""
  by_codec: dict[str, list[float]] = {}
  for row in rows:
    if curves.lossless(row):
      by_codec.setdefault(row['codec'], []).append(row['bpp'])
  return {codec: sum(rates) / len(rates) for codec, rates in by_codec.items()}


def _headline(cell: Cell) -> bool:
  shown = cell.codec != ANCHOR and not curves.variant(cell.codec)
  return cell.anchor == ANCHOR and shown and cell.mean is not None


def _points(found: Sequence[Curve]) -> dict[str, dict[str, list[Any]]]:
  return {curve.codec: {'at': list(curve.at), **_columns(curve)} for curve in found}


def _columns(curve: Curve) -> dict[str, list[Any]]:
  columns: dict[str, list[Any]] = {'bpp': [round(v, 5) for v in curve.bpp]}
  for quality in qualities.ALL:
    values = getattr(curve, quality.key) or [math.nan] * len(curve.bpp)
    columns[quality.key] = [_scaled(value, quality) for value in values]
  return columns


def _numbers(row: Row) -> list[Any]:
  """Returns bytes, bpp, operating point and qualities of a row, in the order of `qualities.ALL`."""
  values = [row.get(quality.key) for quality in qualities.ALL]
  return [
    *(row['bytes'], round(row['bpp'], 4), curves.operating_point(row)),
    *(None if value is None else round(value, 5) for value in values),
  ]


def _scaled(value: float, quality: qualities.Quality) -> float | None:
  """Returns a quality on the scale of figures; None if it is not finite."""
  scaled = math.nan if math.isnan(value) else quality.scale(value)
  return round(scaled, 3) if math.isfinite(scaled) else None
