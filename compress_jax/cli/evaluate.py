"""--mode=eval of the command line: measures a method beside classical codecs of equal size."""

import functools
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax.cli import coding, comparison, records
from compress_jax.cli.command import options as method_options
from compress_jax.codec import Image
from compress_jax.evaluation.evaluate import (
  Result,
  evaluate,
  job_label,
  jobs_of,
  protocol_images,
)
from compress_jax.evaluation.journal import Row
from compress_jax.evaluation.measure import Job
from compress_jax.images import sets
from compress_jax.model_zoo import pretrained, seeded
from compress_jax.recipes import anchor_of_size, make, recipe
from compress_jax.runtime import workers

# Classical codecs beside the method, and the titles of their columns.
ANCHORS = {
  **{'jpeg': 'JPEG', 'jpeg2000': 'JP2', 'webp': 'WebP', 'avif': 'AVIF', 'jxl': 'JXL'},
  'png': 'PNG',
}
# (title, key, format) of a column for the method.
COLUMNS = (
  ('bytes', 'bytes', '{:.0f}'),
  ('bpp', 'bpp', '{:.4f}'),
  ('PSNR', 'psnr', '{:.2f}'),
  ('MS-SSIM', 'ms_ssim', '{:.4f}'),
  ('enc s', 'encode_s', '{:.2f}'),
  ('dec s', 'decode_s', '{:.2f}'),
)
# Keys of a row that --json prints.
KEPT = (
  *('method', 'lambda', 'width', 'height', 'bytes', 'bpp', 'psnr', 'ms_ssim'),
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
      read=coding.reader(values),
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
  """Prints measurements of a method per image and on average; returns 1 on failures, else 0.

  Args:
    method: the name of the method.
    lmbda: the operating point.
    options: keyword arguments of the method's factory.
    images: a folder or a file; None measures the images of `sets.default_images`.
    protocol: 'full' or 'crop', see `protocol_images`.
    processes: the number of processes that measure; None chooses.
    seed: the seed of all that is random.
    output: a folder for rows and files; None keeps neither.
    read: reads an image; it has to be picklable.
    json: whether to print one line of JSON per file and failure in place of the table.

  Raises:
    CodecError: there is no such codec, or there are no images.
  """
  seeded_options = seeded(method, options, seed)
  pretrained(method, lmbda=lmbda, **seeded_options)  # Complains before any work.
  left_out: list[str] = []
  description, originals = sets.default_images(images, report=left_out.append, read=read)
  measured_images = protocol_images(originals, protocol)
  if not json:
    print(f'Images: {description}{", their 256x256 centre crops" if protocol == "crop" else ""}')
  anchors, absent = comparison.available(list(ANCHORS))
  for line in absent:
    print(f'left out: {line}', file=sys.stderr)
  chosen = recipe(method, lmbda=lmbda, **seeded_options)
  with tempfile.TemporaryDirectory() as folder:
    measure = functools.partial(
      evaluate,
      make=make,
      output=Path(output or folder),
      protocol=protocol,
      processes=processes or workers.default_processes(),
    )
    jobs = jobs_of([chosen], measured_images)
    ours = measure(jobs)
    jobs += _anchor_jobs(anchors, ours, measured_images)
    theirs = measure(jobs[len(measured_images) :], timing_repeats=0)
  if json:
    return _json(ours, theirs, left_out, output, {job_label(job): job.image for job in jobs})
  print(f'{method} at lambda {lmbda:g}, and the PSNR of others at that size')
  print(table(ours.rows, theirs.rows, anchors))
  if output:
    print(f'Rows and files are in {output}')
  return _status(ours, theirs, left_out)


def _json(
  ours: Result,
  theirs: Result,
  left_out: Sequence[str],
  output: str | None,
  images: Mapping[str, str],
) -> int:
  """Prints a JSON record of each file and each failure; returns 1 if there is a failure.

  `images` are the names of images by the labels of their jobs, with which failures begin.
  """
  for row in (*ours.rows, *theirs.rows):
    names = {'file': row['image'], 'output': str(Path(output) / row['file']) if output else None}
    seconds = row['encode_s'] + row['decode_s']
    records.write({**names, **{key: row[key] for key in KEPT if key in row}, 'seconds': seconds})
  for line in left_out:
    records.failed_line(line)
  for line in (*ours.failures, *theirs.failures):
    label = max((job for job in images if line.startswith(f'{job}: ')), key=len, default='')
    if label:
      records.failed(images[label], line.removeprefix(f'{label}: '))
    else:  # The image could not be read: the message begins with its path.
      records.failed_line(line)
  return _status(ours, theirs, left_out)


def _anchor_jobs(
  anchors: Sequence[str], ours: Result, images: Sequence[sets.NamedImage]
) -> list[Job]:
  """Returns a job for each classical codec and image, at the size of our file.

  PNG is lossless and has only one size.
  """
  load = {image.name: image.load for image in images}
  return [
    Job(anchor_of_size(name, row['bytes']), row['image'], load[row['image']])
    for name in anchors
    for row in ours.rows
  ]


def table(ours: Sequence[Row], theirs: Sequence[Row], anchors: Sequence[str]) -> str:
  """Returns a table: a line per image, the mean of each column, and the anchors' bits per pixel.

  Args:
    ours: one row per image, of the measured method.
    theirs: one row per image and anchor, at the size nearest to ours.
    anchors: names of the classical codecs that have a column.
  """
  titles = [title for title, _, _ in COLUMNS] + [ANCHORS[name] for name in anchors]
  lines = [['image', *titles]]
  for row in ours:
    same = [r for r in theirs if r['image'] == row['image']]
    lines.append([row['image'], *_cells([row], same, anchors)])
  if len(ours) > 1:
    lines.append(['mean', *_cells(ours, theirs, anchors)])
  sizes = [_mean(_of(theirs, name), 'bpp', '{:.4f}') for name in anchors]
  lines.append(['bpp of the others', *[''] * len(COLUMNS), *sizes])
  return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
  """Returns text in columns: the first is aligned to the left, the others to the right."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    for line in lines
  )


def _cells(ours: Sequence[Row], theirs: Sequence[Row], anchors: Sequence[str]) -> list[str]:
  measured = [_mean(ours, key, form) for _, key, form in COLUMNS]
  return measured + [_mean(_of(theirs, name), 'psnr', '{:.2f}') for name in anchors]


def _of(rows: Sequence[Row], method: str) -> list[Row]:
  return [row for row in rows if row['method'] == method]


def _mean(rows: Sequence[Row], key: str, form: str) -> str:
  """Returns the mean of a column over the rows with a finite number, and the count of others.

  The text `34.90 +1 lossless` is the mean of all but one image, whose PSNR is infinite.
  """
  values = [row[key] for row in rows]
  numbers = [value for value in values if value is not None and math.isfinite(value)]
  mean, without = form.format(statistics.fmean(numbers)) if numbers else '', WITHOUT.get(key, '-')
  if not values or len(numbers) == len(values):
    return mean or '-'
  return f'{mean} +{len(values) - len(numbers)} {without}' if mean else without


def _status(ours: Result, theirs: Result, left_out: Sequence[str]) -> int:
  """Prints the failures and the files that were left out; returns 1 if there are any, else 0."""
  failures = [*left_out, *ours.failures, *theirs.failures]
  for line in failures:
    print(f'error: {line}', file=sys.stderr)
  if left_out:
    print(f'{len(left_out)} files or folders were left out, see above', file=sys.stderr)
  return 1 if failures else 0
