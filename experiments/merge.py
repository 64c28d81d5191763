"""Replaces codecs of a finished comparison by later measurements of them, and reports all again.

  python -m experiments.merge --into=experiments/results/kodak-crop --new=runs/kodak-crop --page

The rows of each codec in --new, an output of `experiments.kodak`, take the place of those of the
same codec in --into; codecs that are not in --into follow the others. The images, the operating
points and the metrics of a codec must be those of before. results.json then names the command and
the date of each codec. Tables and figures are drawn from all rows.

--page writes the page too. Its pictures are decoded from the files in both folders. A file that is
in neither is encoded anew, and its SHA-256 must be that of its row.
"""

import functools
import hashlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax.cli import comparison
from compress_jax.cli.command import guarded, parse
from compress_jax.cli.flag_types import define_path
from compress_jax.codec import Codec, CodecError, Image, Released
from compress_jax.evaluation.evaluate import protocol_images
from compress_jax.evaluation.journal import Row
from compress_jax.evaluation.measure import Recipe
from compress_jax.images import sets
from compress_jax.recipes import make
from compress_jax.report import curves, figures, page, qualities, tables
from compress_jax.report.published import read_published
from compress_jax.runtime.compilation_cache import enable_cache
from experiments.kodak import PUBLISHED

Meta = dict[str, Any]


def merged(
  meta: Meta, rows: Sequence[Row], new_meta: Meta, new_rows: Sequence[Row]
) -> tuple[Meta, list[Row]]:
  """Returns the description and the rows of a comparison with later measurements in it.

  Args:
    meta: the description of the comparison.
    rows: its rows.
    new_meta: the description of the later measurements.
    new_rows: their rows. They replace all rows of the same codecs.

  Raises:
    CodecError: they are of different protocols, or a codec has not the same images, operating
      points and metrics as before. A codec that is new must have all images.
  """
  if curves.one_protocol(rows) != curves.one_protocol(new_rows):
    raise CodecError(f'{new_rows[0]["protocol"]} and {rows[0]["protocol"]} are not comparable')
  by_codec = _by_codec(rows)
  for codec, found in _by_codec(new_rows).items():
    points = {curves.operating_point(row) for row in found}
    every = set(itertools.product(points, curves.images(rows)))
    wanted = _measured(by_codec[codec]) if codec in by_codec else every
    if differing := sorted(wanted ^ _measured(found)):
      point, image = differing[0]
      raise CodecError(f'{codec} at {point:g} on {image} is not in both comparisons')
    if lost := _metrics(by_codec.get(codec, [])) - _metrics(found):
      raise CodecError(f'the new rows of {codec} lack {", ".join(sorted(lost))}')
    by_codec[codec] = found
  replaced = ', '.join(_by_codec(new_rows))
  command = f'{meta["command"]}; {new_meta["command"]} ({replaced}, {new_meta["date"]})'
  return {**meta, **new_meta, 'command': command}, [r for each in by_codec.values() for r in each]


def run(values: flags.FlagValues) -> int:
  """Merges and writes the results; returns the exit status."""
  if not (values.into and values.new):
    raise flags.Error('--into names the folder of the comparison, and --new that of new rows')
  enable_cache()
  into, new = Path(values.into), Path(values.new)
  meta, rows = tables.read_results(into)
  new_meta, new_rows = tables.read_results(new)
  meta, rows = merged(meta, rows, new_meta, new_rows)
  description, found = sets.default_images(values.images)
  protocol = curves.one_protocol(rows)
  images = {image.name: image for image in protocol_images(found, protocol)}
  absent = {row['image'] for row in rows} - set(images)
  if absent:
    raise CodecError(f'{", ".join(sorted(absent)[:3])} not in {description}')
  published = read_published(PUBLISHED) if description == meta['images'] else []
  if values.page:  # It comes first, because it may fail.
    page.write_page(
      into,
      meta,
      rows,
      originals={name: images[name].load for name in dict.fromkeys(row['image'] for row in rows)},
      decode=functools.partial(_decoded, (new, into), images, _recipes(rows, meta['seed'])),
      preview_budget=values.preview_budget,
      published=published,
    )
  tables.write_results(into, meta, rows, published)
  figures.write_figures(into / 'figures', rows, published)
  print(f'{into}: {len(rows)} rows, {len(new_rows)} of them from {new}')
  return 0


def _decoded(
  folders: Sequence[Path],
  images: Mapping[str, sets.NamedImage],
  recipes: Mapping[tuple[str, float], Recipe],
  row: Row,
) -> Image:
  """Returns the pixels of a row's file, which is read, or encoded anew."""
  name, point = row['codec'], curves.operating_point(row)
  if (name, point) not in recipes:
    raise CodecError(f'{name} at {point:g} is no codec of this version')
  codec, released = _made(recipes[name, point])
  kept = (folder / row['file'] for folder in folders if 'file' in row)
  for path in kept:
    if path.exists() and _is_of(row, data := path.read_bytes()):
      return codec.decode(released, data)
  data = codec.encode(released, images[row['image']].load())
  if not _is_of(row, data):
    raise CodecError(f'{name} at {point:g} no longer makes the file of {row["image"]}')
  return codec.decode(released, data)


@functools.cache
def _made(recipe: Recipe) -> tuple[Codec, Released]:
  return make(recipe)


def _is_of(row: Row, data: bytes) -> bool:
  return hashlib.sha256(data).hexdigest() == row['sha256_file']


def _recipes(rows: Sequence[Row], seed: int) -> dict[tuple[str, float], Recipe]:
  """Returns the recipes of all operating points of the rows."""
  lambdas = sorted({row['lambda'] for row in rows if 'lambda' in row})
  every = comparison.compared(list(_by_codec(rows)), lambdas, {}, seed)
  return {(recipe.codec, recipe.point): recipe for recipe in every}


def _by_codec(rows: Sequence[Row]) -> dict[str, list[Row]]:
  found: dict[str, list[Row]] = {}
  for row in rows:
    found.setdefault(row['codec'], []).append(row)
  return found


def _measured(rows: Sequence[Row]) -> set[tuple[float, str]]:
  """Returns the operating points and images of rows."""
  return {(curves.operating_point(row), row['image']) for row in rows}


def _metrics(rows: Sequence[Row]) -> set[str]:
  """Returns the qualities that any of the rows has."""
  return {each.key for each in qualities.ALL for row in rows if row.get(each.key) is not None}


def define_flags() -> flags.FlagValues:
  """Returns the flags of this program."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  define_path('into', None, 'The folder of the comparison.', **here)
  define_path('new', None, 'The folder of the later measurements.', **here)
  define_path('images', None, 'A folder of images in place of the suite.', **here)
  flags.DEFINE_bool('page', False, 'Write the page too?', **here)
  flags.DEFINE_integer('preview_budget', 4_800_000, 'Bytes of the pictures in the page.', **here)
  flags.DEFINE_bool('help', False, 'Show this help.', short_name='h', **here)
  return values


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  return guarded('merge', lambda: run(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  sys.exit(main())
