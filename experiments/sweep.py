"""Trains the models of a study one after the other, and compares their real files.

  python -m experiments.sweep --study=mixtures --steps=20000 --data=DIR

ladder: a model for each lambda. rates: one model of every rate against those.
mixtures: gmm with 1 and 3 Gaussians. attention: gmm with and without it.

A run is what `run.py --mode=train --workdir=OUTPUT/NAME` makes; all of a study have the
same seed, steps and data. Interrupt it at will: the same command goes on where it was,
and studies of one output folder share the runs that they have in common.
"""

import contextlib
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from compress_jax import methods
from compress_jax.cli.command import guarded, parse, settings
from compress_jax.cli.flag_types import define_path, define_paths, define_positive
from compress_jax.codec import CodecError
from compress_jax.evaluation.evaluate import evaluate, jobs_of, protocol_images
from compress_jax.evaluation.journal import Row
from compress_jax.evaluation.measure import Recipe
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets
from compress_jax.model_zoo import check_options, lambda_range
from compress_jax.recipes import make, recipe
from compress_jax.report import curves
from compress_jax.report import tables as reports
from compress_jax.runtime import workers
from compress_jax.training import plans

STUDIES = ('ladder', 'rates', 'mixtures', 'attention')
LAMBDAS = ('0.0018', '0.0035', '0.0067', '0.013', '0.025', '0.0483')
PROGRAM = Path(__file__).parent.parent / 'run.py'
MODEL, FLAGS = 'model.safetensors', 'flags.json'
_PASSED = ('method', 'preset', 'seed', 'steps', 'batch', 'crop', 'lr', 'precision')


class Run(NamedTuple):
  """A model to train, and where to measure it."""

  name: str  # Name of its folder.
  label: str  # Name of its curve, which models of one rate share.
  options: Mapping[str, Any]  # Options of the method, in addition to those of the preset.
  lambdas: tuple[float, ...]  # Operating points; that of the training for a model of one rate.


Train = Callable[[Sequence[str]], int]  # From a command to its exit status.


def define_flags() -> flags.FlagValues:
  """The flags of a sweep."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  whole: dict[str, Any] = {'lower_bound': 1, **here}
  flags.DEFINE_enum('study', None, STUDIES, 'What is compared.', **here)
  flags.DEFINE_enum('method', 'gmm', ('cae', 'gmm', 'gan'), 'Of all runs.', **here)
  flags.DEFINE_string('preset', 'tiny', 'A size of the method.', **here)
  flags.DEFINE_multi_string('set', [], 'An option of all runs, as key=value.', **here)
  define_paths('data', 'A folder of images to train on; repeatable.', **here)
  flags.DEFINE_integer('steps', None, "Updates of each run, else the preset's.", **whole)
  flags.DEFINE_integer('batch', None, "Crops per update, else the preset's.", **whole)
  flags.DEFINE_integer('crop', None, "Pixels of a crop's side, else the preset's.", **whole)
  define_positive('lr', None, 'Peak of the learning rate.', **here)
  flags.DEFINE_enum(
    'precision', None, ('float32', 'bfloat16'), 'Number format of activations.', **here
  )
  flags.DEFINE_integer('seed', 0, 'Of every run.', 0, **here)
  flags.DEFINE_list('lambdas', list(LAMBDAS), 'Operating points.', **here)
  define_path('output', 'runs/sweep', 'A folder for the runs and the tables.', **here)
  define_path('images', None, 'A folder to measure on in place of the suite.', **here)
  flags.DEFINE_enum('protocol', 'crop', ('crop', 'full'), '256x256 crops, or all of it?', **here)
  flags.DEFINE_integer('limit', None, 'Only so many images.', **whole)
  flags.DEFINE_integer('workers', None, 'Processes that measure at a time.', **whole)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a study; returns the exit status."""
  return guarded('sweep', lambda: sweep(parse(define_flags(), __doc__, argv)))


def sweep(values: flags.FlagValues, train: Train | None = None) -> int:
  """Trains what is not there yet, measures all models; 1 if any file failed.

  Raises:
    CodecError: a run fails, or its folder holds one of other flags.
    flags.Error: a flag is missing or wrong.
  """
  if not values.study:
    raise flags.Error(f'--study is missing: {", ".join(STUDIES)}')
  methods.method(values.method).preset(values.preset)  # Complains before anything is written.
  runs, output = runs_of(values.study, _lambdas(values)), Path(values.output)
  common = settings(values.set)
  for run in runs:
    check_options(values.method, methods.method(values.method).codec, {**common, **run.options})
    if both := common.keys() & run.options.keys():
      raise flags.Error(f'--set={both.pop()}=... is what --study={values.study} varies')
  commands = {run.name: command(values, run) for run in runs}
  description, found = sets.default_images(values.images)
  for run in runs:
    settle(output / run.name, commands[run.name])
  for i, run in enumerate(runs):
    print(f'run {i + 1} of {len(runs)}: {output / run.name}', flush=True)
    finish(output / run.name, commands[run.name], train or trained)
  images = protocol_images(found, values.protocol, values.limit)
  return _measure(values, runs, images, {'images': description, 'study': values.study})


def runs_of(study: str, lambdas: tuple[float, ...]) -> list[Run]:
  """The runs of a study; the first curve is what the others are compared with.

  The run `base` has the method's own options: every rate, and of gmm 3 Gaussians and attention.
  """
  fixed = [Run(f'fixed-{lmbda:g}', 'fixed-rates', {'levels': 1}, (lmbda,)) for lmbda in lambdas]
  return {
    'ladder': fixed,
    'rates': [*fixed, Run('base', 'every-rate', {}, lambdas)],
    'mixtures': [
      Run('mixtures-1', 'mixtures-1', {'mixtures': 1}, lambdas),
      Run('base', 'mixtures-3', {}, lambdas),
    ],
    'attention': [
      Run('no-attention', 'no-attention', {'attention': False}, lambdas),
      Run('base', 'attention', {}, lambdas),
    ],
  }[study]


def _lambdas(values: flags.FlagValues) -> tuple[float, ...]:
  try:
    found = tuple(sorted({float(text) for text in values.lambdas}))
  except ValueError as error:
    raise flags.Error(f'--lambdas: {error}') from error
  low, high = lambda_range(values.method)
  for lmbda in found:
    if not low <= lmbda <= high:
      raise flags.Error(f'--lambdas: {lmbda:g} is not between {low:g} and {high:g}')
  if not found:
    raise flags.Error('--lambdas is empty')
  return found


def command(values: flags.FlagValues, run: Run) -> list[str]:
  """The flags of `run.py` that decide a run, without its folder."""
  arguments = [
    f'--{name}={values[name].value}' for name in _PASSED if values[name].value is not None
  ]
  arguments += [f'--data={folder}' for folder in values.data]
  arguments += [f'--set={pair}' for pair in values.set]
  arguments += [f'--set={key}={value}' for key, value in run.options.items()]
  if run.options.get('levels') == 1:
    arguments.append(f'--lambda={run.lambdas[0]!r}')
  return arguments


def settle(folder: Path, arguments: Sequence[str]) -> None:
  """Writes a run's flags into its folder; those of a run that has begun have to be the same.

  Raises:
    CodecError: they are not.
  """
  path = folder / FLAGS
  if not any((folder / name).exists() for name in (plans.FILE, MODEL)):
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(list(arguments), indent=2).encode() + b'\n', overwrite=True)
    return
  try:
    before = json.loads(path.read_text())
    differing = sorted(set(before) ^ set(arguments))
  except (OSError, ValueError, TypeError) as error:
    raise CodecError(f'{folder} holds a run that is not of a sweep ({error})') from error
  if differing:
    was = ' '.join(flag for flag in differing if flag in before) or 'without that'
    now = ' '.join(flag for flag in differing if flag in arguments) or 'without that'
    raise CodecError(f'{folder} holds a run {was}, not {now}: another --output begins anew')


def finish(folder: Path, arguments: Sequence[str], train: Train) -> None:
  """Trains a run to its end, unless it is there.

  Raises:
    CodecError: it does not get there.
  """
  if (folder / MODEL).exists():  # The last thing that a run writes.
    print(f'{folder}: finished before')
    return
  status = train([str(PROGRAM), '--mode=train', f'--workdir={folder}', '--noevaluate', *arguments])
  if status:
    raise CodecError(f'{folder}: the training ended with exit status {status}')
  if not (folder / MODEL).exists():
    raise CodecError(f'{folder}: the training was stopped; the same command goes on')


def trained(arguments: Sequence[str]) -> int:
  """Runs the program as a process; the status of its end. Ctrl-C lets it save what it has."""
  process = subprocess.Popen([sys.executable, *arguments])
  try:
    return process.wait()
  except KeyboardInterrupt:
    with contextlib.suppress(ProcessLookupError):
      process.terminate()  # The terminal arguments it too, but a signal to this process did not.
    process.wait()
    raise


def recipes(method: str, output: Path, runs: Sequence[Run]) -> list[Recipe]:
  """The operating points of all models."""
  return [
    recipe(method, lmbda=lmbda, label=run.label, model=str(output / run.name / MODEL))
    for run in runs
    for lmbda in run.lambdas
  ]


def _measure(
  values: flags.FlagValues,
  runs: Sequence[Run],
  images: Sequence[sets.NamedImage],
  about: Mapping[str, Any],
) -> int:
  """Codes the images with all models, writes and prints the tables."""
  output = Path(values.output)
  folder = output / f'report-{values.study}'
  result = evaluate(
    jobs_of(recipes(values.method, output, runs), images),
    make,
    output=folder,
    protocol=values.protocol,
    processes=values.workers or workers.default_processes(),
  )
  for line in result.failures:
    print(f'error: {line}', file=sys.stderr)
  if result.rows:
    arguments = {run.name: command(values, run) for run in runs}
    meta = {**about, 'runs': arguments, 'failures': result.failures}
    reports.write_results(folder, meta, result.rows)
    text = table(result.rows, runs[0].label)
    write_atomically(folder / 'study.md', text.encode(errors='backslashreplace'), overwrite=True)
    print(text)
  return 1 if result.failures else 0


def table(rows: Sequence[Row], anchor: str) -> str:
  """Means of every operating point and the BD-rate of each curve, in Markdown.

  Args:
    rows: of all models.
    anchor: the curve that the BD-rates are against.
  """
  lines = ['| curve | lambda | bpp | PSNR | MS-SSIM | BD-rate |', '| --- |' + ' --: |' * 5]
  found = {curve.codec: curve for curve in curves.mean_curves(rows)}
  matrix = curves.bd_matrix(rows, [found[anchor]]) if anchor in found else []
  bd = {cell.codec: reports.bd_text(cell) for (cell,) in matrix}
  for codec, curve in found.items():
    points = sorted(zip(curve.at, curve.bpp, curve.psnr, curve.ms_ssim, strict=True))
    for at, bpp, psnr, ms_ssim in points:
      numbers = f'{at:g} | {bpp:.4f} | {psnr:.2f} | {ms_ssim:.4f}'
      lines.append(f'| {codec} | {numbers} | {bd.pop(codec, "")} |')
  count = len(curves.images(rows))
  mean_size = statistics.fmean(row['width'] * row['height'] for row in rows) / 1e6
  lines += ['', f'Means over {count} images of {mean_size:.2f} MP; BD-rates against {anchor}.']
  return '\n'.join([*lines, *curves.incomplete(rows)]) + '\n'


if __name__ == '__main__':
  signal.signal(signal.SIGTERM, signal.default_int_handler)  # Leaves no training behind.
  sys.exit(main())
