"""A comparison of several codecs at several rates on photographs, and its page.

`--mode=eval --report` and `experiments.kodak`, the comparison on Kodak, share this module.
"""

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax import baselines
from compress_jax.cli import coding
from compress_jax.cli.command import check_new, command_line
from compress_jax.cli.command import options as method_options
from compress_jax.cli.flag_types import expanded, numbers
from compress_jax.codec import CodecError, Image
from compress_jax.evaluation import chosen_metrics
from compress_jax.evaluation.evaluate import evaluate, jobs_of, protocol_images
from compress_jax.evaluation.measure import Recipe
from compress_jax.images import sets
from compress_jax.methods import METHODS
from compress_jax.model_zoo import decoder, pretrained, seeded
from compress_jax.recipes import anchor, make, model_file, recipe
from compress_jax.runtime import workers
from compress_jax.runtime.extras import require

LAMBDAS = ('0.0009', '0.0018', '0.0035', '0.0067', '0.013')
ANCHORS = ('jpeg', 'jpeg2000', 'webp', 'avif', 'jxl')  # Beside the method where none are named.
LIBRARIES = ('jax', 'jaxlib', 'numpy', 'pillow', 'constriction')
# The codecs of a method that are compared: label -> options.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
  'kmeans': {
    'kmeans-paper': {'codebook': 'image', 'refine': 0},
    'kmeans-image': {'codebook': 'image'},
    'kmeans-universal': {'codebook': 'universal'},
  },
}
# Only where they are named: ten passes of gradients per file.
REFINED = {f'{method}-refined': (method, {'refine': 10}) for method in ('cae', 'gan', 'gmm')}


def run(values: flags.FlagValues) -> int:
  """Measures the codecs of --methods at --lambdas, and writes the page that --report names.

  Returns:
    1 if any file failed or was left out, else 0.

  Raises:
    flags.Error: the flags contradict each other, or --report names no page.
    CodecError: there is no such codec, there are no images, or nothing could be measured.
  """
  target = Path(values.report)
  if target.suffix.lower() not in ('.html', '.htm'):
    raise flags.Error(f'--report={target} is the name of a page and ends in .html')
  if values.json:
    raise flags.Error('--report and --json exclude each other: a page is no record')
  if values.methods and (values.model or values.refine):
    name = 'model' if values.model else 'refine'
    raise flags.Error(
      f'--methods names its models and refined codecs itself, as LABEL=METHOD:MODEL and '
      f'gmm-refined, without --{name}'
    )
  if values['lambda'].present:
    raise flags.Error('--report shows several rates: --lambdas=0.0035,0.013 names them')
  require('report', 'jinja2', 'plotly', 'ssimulacra2')
  check_new(target, force=True)
  names, absent = available(values.methods or [values.method, *ANCHORS])
  lambdas = numbers('lambdas', values.lambdas or LAMBDAS)
  chosen = compared(names, lambdas, method_options(values), values.seed)
  left_out: list[str] = []
  _, originals = sets.default_images(
    values.images, report=left_out.append, read=coding.reader(values)
  )
  with contextlib.ExitStack() as stack:
    folder = values.output or stack.enter_context(tempfile.TemporaryDirectory())
    failures = _write(values, target, Path(folder), chosen, originals, absent)
  for line in [f'left out: {line}' for line in absent] + [
    f'error: {line}' for line in (*left_out, *failures)
  ]:
    print(line, file=sys.stderr)
  return 1 if left_out or failures else 0


def _write(
  values: flags.FlagValues,
  target: Path,
  folder: Path,
  chosen: Sequence[Recipe],
  originals: Sequence[sets.NamedImage],
  absent: Sequence[str],
) -> list[str]:
  """Measures all operating points and writes the page; returns one line per failure."""
  from compress_jax.report import page, tables

  images = protocol_images(list(originals), values.protocol)
  metrics = chosen_metrics.choose(chosen_metrics.EXTRA)
  parallel = values.workers or workers.default_processes()
  print(f'{len(images)} images, {len(chosen)} operating points -> {target}')
  result = evaluate(
    jobs_of(chosen, images),
    make,
    output=folder,
    protocol=values.protocol,
    processes=parallel,
    chosen=metrics,
  )
  if not result.rows:
    raise CodecError('; '.join(result.failures[:3]) or 'there is nothing to measure')
  meta = {
    'command': command_line(f'compress-jax --report={Path(values.report).name}', values),
    **how(),
    'metrics': dict(zip(metrics.names, metrics.about, strict=True)),
    **{'protocol': values.protocol, 'seed': values.seed, 'processes': parallel},
    **{'left out': list(absent), 'failures': result.failures},
  }
  links = []
  if values.output:
    tables.write_results(folder, meta, result.rows)
    links = [os.path.relpath(folder / name, target.parent) for name in page.RESULTS]
  page.write_page(
    target.parent,
    meta,
    result.rows,
    originals={image.name: image.load for image in images},
    decode=decoding(folder, chosen),
    name=target.name,
    links=links,
  )
  print(f'{target}: {target.stat().st_size / 1e6:.1f} MB, {len(result.rows)} files measured')
  return result.failures


def available(names: Sequence[str]) -> tuple[list[str], list[str]]:
  """Returns the codecs that can run here, and one line for each that cannot, with the reason.

  A classical codec cannot run if its plugin is not installed. All other names are returned, also
  those of unknown codecs.
  """
  reasons = {name: baselines.missing(name) for name in names if name in baselines.CODECS}
  absent = {name: reason for name, reason in reasons.items() if reason}
  return (
    [name for name in names if name not in absent],
    [f'{name} {reason}' for name, reason in absent.items()],
  )


def compared(
  names: Sequence[str], lambdas: Sequence[float], options: dict[str, Any], seed: int
) -> list[Recipe]:
  """Returns the operating points of methods, variants of methods and classical codecs.

  Args:
    names: names in METHODS, VARIANTS, REFINED and `baselines.CODECS`, and LABEL=METHOD:MODEL.
    lambdas: the operating points of methods; those of classical codecs are their qualities.
    options: keyword arguments that all methods get.
    seed: the seed of all that is random.

  Raises:
    CodecError: there is no such codec or option, two codecs have one name, or `options` names a
      model where `names` do.
  """
  recipes = []
  seen: dict[str, tuple[str, dict[str, Any]]] = {}
  for name in names:
    if name in baselines.CODECS:
      recipes += [anchor(name, quality) for quality in baselines.CODECS[name].qualities]
      continue
    for label, (method, defaults) in variants(name).items():
      if label in baselines.CODECS:
        raise CodecError(f'{label!r} is the name of a classical codec')
      if 'model' in options and 'model' in defaults:
        raise CodecError(f'{name} and an option both name a model')
      every = seeded(method, {**defaults, **options}, seed)
      if seen.setdefault(label, (method, every)) != (method, every):
        raise CodecError(f'two codecs are named {label!r}; LABEL=METHOD:MODEL names one of them')
      for lmbda in lambdas:
        pretrained(method, lmbda=lmbda, **every)  # Complains before any work.
        recipes.append(recipe(method, lmbda=lmbda, label=label, **every))
  return list(dict.fromkeys(recipes))


def variants(name: str) -> dict[str, tuple[str, dict[str, Any]]]:
  """Returns {label: (method, options)} of a method, one of its variants, or a model file.

  Raises:
    CodecError: there is no such codec.
  """
  every = {
    label: (method, options)
    for method, group in VARIANTS.items()
    for label, options in group.items()
  }
  if name in every:
    return {name: every[name]}
  if name in VARIANTS:
    return {label: every[label] for label in VARIANTS[name]}
  if name in REFINED:
    return {name: REFINED[name]}
  if name in METHODS:
    return {name: (name, {})}
  named, _, model = name.partition(':')  # The path of the model may have more of both signs.
  label, _, method = named.rpartition('=')
  if model and method in METHODS:
    return {label or method: (method, {'model': expanded(model)})}
  known = ', '.join([*METHODS, *every, *REFINED, *baselines.CODECS])
  raise CodecError(f'no codec {name!r}; there are: {known}, and LABEL=METHOD:MODEL')


def how() -> dict[str, Any]:
  """Returns the date, the machine and the versions that rows are made with, but no host's name."""
  return {
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'machine': f'{platform.machine()}, {workers.cores()} cores, {platform.system()}',
    'versions': {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in LIBRARIES},
    },
  }


def decoding(folder: Path, chosen: Sequence[Recipe]) -> Callable[[Mapping[str, Any]], Image]:
  """Returns a function that decodes the file of a row to u8[H, W, 3].

  Args:
    folder: the folder to which `evaluate` wrote the files.
    chosen: the operating points of the rows, which name their models.
  """
  models = {each.codec: model_file(dict(each.options)) for each in chosen}

  @functools.cache
  def of(method: str, model: str | None) -> Callable[[bytes], Image]:
    return decoder(method, **({'model': model} if model else {}))

  def decode(row: Mapping[str, Any]) -> Image:
    return of(row['method'], models.get(row['codec']))((folder / row['file']).read_bytes())

  return decode
