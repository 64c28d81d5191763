"""The command line's eval: a method on photographs, beside classical codecs at equal size."""

import functools
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax.cli import comparison, files, records
from compress_jax.cli.command import options as method_options
from compress_jax.codec import Image
from compress_jax.evaluation.evaluate import Result, evaluate, jobs_of, protocol_images
from compress_jax.evaluation.journal import Row
from compress_jax.evaluation.measure import Job
from compress_jax.images import sets
from compress_jax.model_zoo import pretrained, seeded
from compress_jax.recipes import anchor_of_size, make, recipe
from compress_jax.runtime import workers

ANCHORS = {'jpeg': 'JPEG', 'jpeg2000': 'JP2', 'webp': 'WebP', 'avif': 'AVIF', 'png': 'PNG'}
# (title, key, format) of a column for the method.
COLUMNS = (
  ('bytes', 'bytes', '{:.0f}'),
  ('bpp', 'bpp', '{:.4f}'),
  ('PSNR', 'psnr', '{:.2f}'),
  ('MS-SSIM', 'ms_ssim', '{:.4f}'),
  ('enc s', 'encode_s', '{:.2f}'),
  ('dec s', 'decode_s', '{:.2f}'),
)
# What --json prints of a row.
KEPT = (
  *('method', 'lambda', 'quality', 'width', 'height', 'bytes', 'bpp', 'psnr', 'ms_ssim'),
  *('encode_s', 'decode_s'),
)
# The words that stand for a missing number: equal pixels, and an image too small for the metric.
WITHOUT = {'psnr': 'lossless', 'ms_ssim': 'too small'}


def run(values: flags.FlagValues) -> int:
  """Prints the overview, or writes the page, that the flags ask for; returns the exit status.

  Raises:
    flags.Error: --methods or --lambdas without the page that they are for.
  """
  if values.report:
    return comparison.run(values)
  if values.methods or values.lambdas:
    raise flags.Error(f'--{"methods" if values.methods else "lambdas"} goes with --report')
  options = method_options(values)
  with records.failing(values.images or '', json=values.json):
    return overview(
      values.method,
      getattr(values, 'lambda'),
      options,
      images=values.images,
      protocol=values.protocol,
      processes=values.workers,
      seed=values.seed,
      output=values.output,
      read=files.reader(values),
      json=values.json,
    )


def overview(
  method: str,
  lmbda: float,
  options: Mapping[str, Any],
  *,
  images: str | None,
  protocol: str,
  processes: int | None,
  seed: int,
  output: str | None = None,
  read: Callable[[str | Path], Image] = sets.load_image,
  json: bool = False,
) -> int:
  """Prints how a method does on each image and on average; returns 1 if anything failed, else 0.

  Args:
    method: its name.
    lmbda: the operating point.
    options: of the method.
    images: a folder or a file; None for those of `sets.default_images`.
    protocol: 'full' or 'crop', see `protocol_images`.
    processes: how many measure at a time; None chooses.
    seed: of everything random.
    output: a folder for rows and files; None keeps neither.
    read: reads an image; it can be sent to another process.
    json: print a line of JSON for each file and for each failure instead.

  Raises:
    CodecError: there is no such codec, or there are no images.
  """
  seeded_options = seeded(method, options, seed)
  pretrained(method, lmbda=lmbda, **seeded_options)  # Complains before any work.
  left_out: list[str] = []
  description, found = sets.default_images(images, report=left_out.append, read=read)
  measured_images = protocol_images(found, protocol)
  if not json:
    print(f'Images: {description}{", their 256x256 centre crops" if protocol == "crop" else ""}')
  chosen = recipe(method, lmbda=lmbda, **seeded_options)
  with tempfile.TemporaryDirectory() as folder:
    measure = functools.partial(
      evaluate,
      make=make,
      output=Path(output or folder),
      protocol=protocol,
      processes=processes or workers.default_processes(),
    )
    ours = measure(jobs_of([chosen], measured_images))
    theirs = measure(_anchor_jobs(ours, measured_images), timing_repeats=0)
  if json:
    return _json(ours, theirs, left_out, output)
  print(f'{method} at lambda {lmbda:g}, and the PSNR of others at that size')
  print(table(ours.rows, theirs.rows))
  if output:
    print(f'Rows and files are in {output}')
  return _status(ours, theirs, left_out)


def _json(ours: Result, theirs: Result, left_out: Sequence[str], output: str | None) -> int:
  """Prints a record of each file and each failure; returns 1 if there is a failure."""
  for row in (*ours.rows, *theirs.rows):
    names = {'file': row['image'], 'output': str(Path(output) / row['file']) if output else None}
    seconds = row['encode_s'] + row['decode_s']
    records.write({**names, **{key: row[key] for key in KEPT if key in row}, 'seconds': seconds})
  for line in (*left_out, *ours.failures, *theirs.failures):
    records.failed_line(line)
  return _status(ours, theirs, left_out)


def _anchor_jobs(ours: Result, images: Sequence[sets.NamedImage]) -> list[Job]:
  """Every classical codec on every image, at the size of our file; PNG has but one."""
  load = {image.name: image.load for image in images}
  return [
    Job(anchor_of_size(name, row['bytes']), row['image'], load[row['image']])
    for name in ANCHORS
    for row in ours.rows
  ]


def table(ours: Sequence[Row], theirs: Sequence[Row]) -> str:
  """A line per image, then the mean of each column and the anchors' own bits per pixel.

  Args:
    ours: one row per image.
    theirs: of every anchor, one row per image, at the nearest size.
  """
  titles = [title for title, _, _ in COLUMNS] + list(ANCHORS.values())
  lines = [['image', *titles]]
  for row in ours:
    lines.append([row['image'], *_cells([row], [r for r in theirs if r['image'] == row['image']])])
  if len(ours) > 1:
    lines.append(['mean', *_cells(ours, theirs)])
  sizes = [_mean(_of(theirs, name), 'bpp', '{:.4f}') for name in ANCHORS]
  lines.append(['bpp of the others', *[''] * len(COLUMNS), *sizes])
  return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
  """Text in columns: the first to the left, the others to the right."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    for line in lines
  )


def _cells(ours: Sequence[Row], theirs: Sequence[Row]) -> list[str]:
  own = [_mean(ours, key, form) for _, key, form in COLUMNS]
  return own + [_mean(_of(theirs, name), 'psnr', '{:.2f}') for name in ANCHORS]


def _of(rows: Sequence[Row], method: str) -> list[Row]:
  return [row for row in rows if row['method'] == method]


def _mean(rows: Sequence[Row], key: str, form: str) -> str:
  """The mean of a column over the rows that have a number, and how many have none.

  An infinite PSNR has no mean: `34.90 +1 lossless` is the mean of the others.
  """
  values = [row[key] for row in rows]
  numbers = [value for value in values if value is not None and math.isfinite(value)]
  mean, without = form.format(statistics.fmean(numbers)) if numbers else '', WITHOUT.get(key, '-')
  if not values or len(numbers) == len(values):
    return mean or '-'
  return f'{mean} +{len(values) - len(numbers)} {without}' if mean else without


def _status(ours: Result, theirs: Result, left_out: Sequence[str]) -> int:
  """Names the failures and what was left out; 1 if there is any."""
  failures = [*left_out, *ours.failures, *theirs.failures]
  for line in failures:
    print(f'error: {line}', file=sys.stderr)
  if left_out:
    print(f'{len(left_out)} files or folders were left out, see above', file=sys.stderr)
  return 1 if failures else 0
