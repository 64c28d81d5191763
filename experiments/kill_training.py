"""Kills a training run again and again, and compares it with one that was never broken.

  python -m experiments.kill_training --kills=50 --during_saves=10

Both runs train a small cae. After each SIGKILL the same command goes on; at the end all
parameters, the optimizer's state and the loss of every step must be those of the unbroken run,
bit for bit. Kills come at random moments, some of them while a checkpoint is being written.

Between two kills the run is also started with JAX_ENABLE_X64=1, with an optimizer of another
structure, which has to refuse, and with a damaged newest checkpoint, which has to stay as it is.
On its last way it is exported again and again.
"""

import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from compress_jax.cli import fit
from compress_jax.cli.command import guarded, parse
from compress_jax.cli.fit import CHECKPOINTS
from compress_jax.codec import CodecError
from compress_jax.files.digests import digest, digest_of_files
from compress_jax.training import resume
from compress_jax.training.checkpoints import Checkpoints, named

_UNSAVED = '*orbax-checkpoint-tmp*'
_TIMED = ('images_per_s',)
# The program with an optimizer of another structure.
_OTHER_OPTIMIZER = """
import optax
from compress_jax.cli import fit as cli_fit, main as cli
setup_of, optimizer = cli_fit.setup_of, optax.sgd(1e-3, momentum=0.9)
cli_fit.setup_of = lambda *given: setup_of(*given)._replace(optimizer=optimizer)
raise SystemExit(cli.main())
"""
_SECONDS_PER_STEP = 0.02  # For this small model on two cores, without saving.


def define_flags() -> flags.FlagValues:
  """The flags, in a registry of their own."""
  values = flags.FlagValues()
  flags.DEFINE_integer('kills', 50, 'How many.', 1, flag_values=values)
  flags.DEFINE_integer('during_saves', 10, 'Of them, during a save.', 0, flag_values=values)
  flags.DEFINE_integer('steps', 600, 'Of the run.', 1, flag_values=values)
  flags.DEFINE_integer('seed', 0, 'Of the moments.', 0, flag_values=values)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', flag_values=values)
  return values


def flags_of(folder: Path, steps: int) -> list[str]:
  """Those of a run that saves often."""
  options = ['--method=cae', '--set=widths=(4,8,8)', '--set=linear=True', '--noevaluate']
  often = ['--batch=4', '--crop=64', '--log_every=1', '--save_every=5']
  return ['--mode=train', f'--workdir={folder}', f'--steps={steps}', *options, *often]


def start(
  folder: Path, steps: int, *, program: Sequence[str] = ('run.py',), **settings: str
) -> subprocess.Popen:
  """The run as a process of its own, in an environment with such settings."""
  return subprocess.Popen(
    [sys.executable, *program, *flags_of(folder, steps)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    env={**os.environ, **settings},
  )


def kill(folder: Path, steps: int, progress: float, saving: bool = False, **settings: str) -> bool:
  """Runs until `progress` new steps are done, then kills, if asked in the next save.

  Args:
    progress: steps beyond those of the last kill; the fraction is one of the time a step takes,
      so that kills come in the middle of steps as well.
    saving: whether to wait for the next save.
    settings: of the environment.

  Returns:
    Whether the run was still alive.
  """
  goal = _rows(folder) + int(progress)
  process = start(folder, steps, **settings)
  while process.poll() is None and _rows(folder) < goal:
    time.sleep(0.001)
  time.sleep((progress - int(progress)) * _SECONDS_PER_STEP)
  while saving and process.poll() is None and not list((folder / CHECKPOINTS).rglob(_UNSAVED)):
    time.sleep(0.0005)
  alive = process.poll() is None
  process.kill()
  process.communicate()
  return alive


def finish(folder: Path, steps: int) -> None:
  """Runs to the end.

  Raises:
    CodecError: the run failed.
  """
  process = start(folder, steps)
  _, errors = process.communicate()
  if process.returncode:
    raise CodecError(f'the run failed: {errors.decode().strip().splitlines()[-1]}')


def result(folder: Path) -> tuple[str, list[dict[str, str]]]:
  """The digest of the last state, and the metrics of every step."""
  plan = fit.plans.read(folder)
  setup = fit.setup_of(plan, fit.codec_of(plan))
  state = Checkpoints(folder / CHECKPOINTS, print).restore(resume.form_of(setup))
  with open(folder / 'train.csv', newline='') as file:
    rows = [{k: v for k, v in row.items() if k not in _TIMED} for row in csv.DictReader(file)]
  return digest(named(jax.tree.map(np.asarray, state))).hex(), rows


def start_otherwise(folder: Path, steps: int, progress: float) -> list[Path]:
  """Starts a run that was killed in ways in which it did not begin, and kills it.

  Returns:
    A damaged checkpoint and its copy, which have to be equal ever after.

  Raises:
    CodecError: something was lost.
  """
  saved = newest_step(folder)
  if not kill(folder, steps, progress, JAX_ENABLE_X64='1') or newest_step(folder) < saved:
    raise CodecError('the run does not go on with JAX_ENABLE_X64=1')
  before = contents(folder / CHECKPOINTS)
  process = start(folder, steps, program=('-c', _OTHER_OPTIMIZER))
  _, errors = process.communicate()
  if process.returncode != 1 or b'none can be read' not in errors:
    raise CodecError(f'another optimizer is not refused: {errors.decode()[-300:]}')
  if contents(folder / CHECKPOINTS) != before:
    raise CodecError('another optimizer changed the checkpoints')
  damaged = folder / CHECKPOINTS / str(newest_step(folder))
  largest = max((p for p in damaged.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)
  shutil.copytree(damaged, copy := folder / 'damaged')
  if not kill(folder, steps, progress):
    raise CodecError('the run does not go on from the checkpoint before a damaged one')
  return [damaged, copy]


def finish_exporting(folder: Path, steps: int) -> int:
  """Runs to the end while another program exports the run; how often that was.

  Raises:
    CodecError: one of the two failed.
  """
  ended, failed, done = threading.Event(), list[str](), list[int]()
  model = folder / 'exported.safetensors'
  what = ['--mode=export', f'--workdir={folder}', f'--output={model}', '--force']

  def export() -> None:
    while not (ended.is_set() and done):
      found = subprocess.run([sys.executable, 'run.py', *what], capture_output=True)
      done.append(found.returncode)
      if found.returncode:
        failed.append(found.stderr.decode()[-300:])

  thread = threading.Thread(target=export)
  thread.start()
  try:
    finish(folder, steps)
  finally:
    ended.set()
    thread.join()
  if failed:
    raise CodecError(f'the export of a run that trains failed: {failed[0]}')
  return len(done)


def compare(folder: Path, *, steps: int, kills: int, during_saves: int, seed: int = 0) -> int:
  """Breaks a run `kills` times; the number of kills that found it alive.

  Raises:
    CodecError: it is not the unbroken run.
  """
  whole, broken = folder / 'whole', folder / 'broken'
  finish(whole, steps)
  rng, hits = random.Random(seed), 0
  most = steps / (kills + 4)  # All kills together leave a part of the run to go.
  for i in range(kills):
    saving = i < during_saves
    hits += kill(broken, steps, rng.uniform(1, most), saving)
    print(f'kill {i + 1}: after row {_rows(broken)}{", in a save" if saving else ""}', flush=True)
  while newest_step(broken) < 10:  # Two of them.
    kill(broken, steps, most, saving=True)
  damaged, copy = start_otherwise(broken, steps, min(most, 2))
  print(f'other settings, another optimizer, a damaged checkpoint: after row {_rows(broken)}')
  print(f'exported {finish_exporting(broken, steps)} times on the last way')
  if contents(damaged) != contents(copy):
    raise CodecError(f'{damaged} was damaged, and was changed')
  expected, found = result(whole), result(broken)
  if expected[0] != found[0]:
    raise CodecError('parameters or optimizer of the broken run differ')
  if expected[1] != found[1] or len(found[1]) != steps:
    raise CodecError('the metrics of the broken run differ')
  return hits


def newest_step(folder: Path) -> int:
  """The last checkpoint of a run, -1 if there is none yet."""
  found = (folder / CHECKPOINTS).rglob('*')
  return max((int(p.name) for p in found if p.is_dir() and p.name.isdecimal()), default=-1)


def contents(folder: Path) -> dict[str, str]:
  """The digests of all files below a folder, by name."""
  files = sorted(path for path in folder.rglob('*') if path.is_file())
  return {str(path.relative_to(folder)): digest_of_files([path]) for path in files}


def _rows(folder: Path) -> int:
  """The last step in the table of metrics."""
  path = folder / 'train.csv'
  lines = path.read_bytes().split(b'\n')[:-1] if path.exists() else []
  return int(lines[-1].split(b',')[0]) if len(lines) > 1 else 0


def run(values: flags.FlagValues) -> int:
  """Prints what became of the kills."""
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  with tempfile.TemporaryDirectory() as folder:
    hits = compare(
      Path(folder),
      steps=values.steps,
      kills=values.kills,
      during_saves=values.during_saves,
      seed=values.seed,
    )
  print(f'{hits} kills of {values.kills} hit a living run; the result is the same bit for bit')
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit status."""
  return guarded('kill_training', lambda: run(parse(define_flags(), __doc__, argv)))


if __name__ == '__main__':
  raise SystemExit(main())
