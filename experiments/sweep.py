"""Trains the models of a study one after the other, and compares their real files.

  python -m experiments.sweep --study=mixtures --seeds=0,1 --steps=20000 --data=DIR

The studies are listed in `experiments.studies`.

A run is what `run.py --mode=train --workdir=OUTPUT/NAME` makes; all of a study have the
same seeds, steps and data, and differ in one thing. Interrupt it at will: the same command
goes on where it was, and studies of one output folder share the runs that they have in common.
"""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax import methods
from compress_jax.cli.command import guarded, parse, settings
from compress_jax.cli.flag_types import define_path, define_paths, define_positive
from compress_jax.codec import CodecError
from compress_jax.evaluation.evaluate import evaluate, jobs_of, protocol_images
from compress_jax.evaluation.measure import Recipe
from compress_jax.files.atomic import write_atomically
from compress_jax.images import sets
from compress_jax.model_zoo import check_options, lambda_range
from compress_jax.recipes import make, recipe
from compress_jax.report import tables as reports
from compress_jax.runtime import workers
from compress_jax.training import plans
from experiments import study_tables
from experiments.studies import FLAGS, STUDIES, Arm, Run, arms_of, base_of, runs_of

LAMBDAS = ('0.0018', '0.0035', '0.0067', '0.013', '0.025', '0.0483')
PROGRAM = Path(__file__).parent.parent / 'run.py'
MODEL, COMMAND = 'model.safetensors', 'flags.json'
_PASSED = ('method', 'preset', 'steps', 'batch', 'crop', 'lr', 'precision')


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
  flags.DEFINE_list(
    'seeds', ['0'], 'Seeds; each model of a study is trained once per seed.', **here
  )
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
  _check(values, [Arm('base', {}, ())])
  base = base_of(values)
  arms = arms_of(values.study, _lambdas(values), base)
  runs, output = runs_of(arms, _seeds(values), base), Path(values.output)
  _check(values, arms)
  commands = {run.name: command(values, run) for run in runs}
  description, found = sets.default_images(values.images)
  for run in runs:
    settle(output / run.name, commands[run.name])
  for i, run in enumerate(runs):
    print(f'run {i + 1} of {len(runs)}: {output / run.name}', flush=True)
    finish(output / run.name, commands[run.name], train or trained)
  images = protocol_images(found, values.protocol, values.limit)
  return _measure(values, runs, images, {'images': description, 'study': values.study})


def _check(values: flags.FlagValues, arms: Sequence[Arm]) -> None:
  """Raises CodecError or flags.Error where a study or an option is not one of the method."""
  common, factory = settings(values.set), methods.method(values.method).codec
  preset = methods.method(values.method).preset(values.preset).options
  for arm in arms:
    if both := common.keys() & arm.varied.keys():
      raise flags.Error(f'--set={both.pop()}=... is what --study={values.study} varies')
    options = {name: value for name, value in arm.varied.items() if name not in FLAGS}
    options = {**common, **options}
    plans.pop_fields(options)
    check_options(values.method, factory, options)
    factory(**{**preset, **options})  # Complains of what does not go together.


def _seeds(values: flags.FlagValues) -> tuple[int, ...]:
  if not values.seeds or not all(text.isdecimal() for text in values.seeds):
    raise flags.Error(f'--seeds={",".join(values.seeds)}: these are whole numbers from 0')
  return tuple(sorted({int(text) for text in values.seeds}))


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
  chosen = {name: values[name].value for name in _PASSED if values[name].value is not None}
  chosen |= {name: value for name, value in run.varied.items() if name in FLAGS}
  options = {name: value for name, value in run.varied.items() if name not in FLAGS}
  arguments = [f'--{name}={value}' for name, value in {**chosen, 'seed': run.seed}.items()]
  arguments += [f'--data={folder}' for folder in values.data]
  arguments += [f'--set={pair}' for pair in values.set]
  arguments += [f'--set={key}={value}' for key, value in options.items()]
  if options.get('levels') == 1:
    arguments.append(f'--lambda={run.lambdas[0]!r}')
  return arguments


def settle(folder: Path, arguments: Sequence[str]) -> None:
  """Writes a run's flags into its folder; those of a run that has begun have to be the same.

  Raises:
    CodecError: they are not.
  """
  path = folder / COMMAND
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
      process.terminate()  # A terminal signals it too; a signal to this process alone does not.
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
    text = study_tables.table(result.rows, study_tables.arm(runs[0].label))
    write_atomically(folder / 'study.md', text.encode(errors='backslashreplace'), overwrite=True)
    print(text)
  return 1 if result.failures else 0


if __name__ == '__main__':
  signal.signal(signal.SIGTERM, signal.default_int_handler)  # Leaves no training behind.
  sys.exit(main())
