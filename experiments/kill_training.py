"""Kills a training run again and again, and compares it with one that was never broken.

  python -m experiments.kill_training --kills=50 --during_saves=10

Both runs train a small cae. After each SIGKILL the same command goes on; at the end all
parameters, the optimizer's state and the loss of every step must be those of the unbroken run,
bit for bit. Kills come at random moments, some of them while a checkpoint is being written.
"""

import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from compress_jax import cli_fit, training
from compress_jax.checkpoints import Checkpoints, named
from compress_jax.codec import CodecError
from compress_jax.command import guarded, parse
from compress_jax.hashing import digest

_UNSAVED = '*orbax-checkpoint-tmp*'
_TIMED = ('images_per_s',)
_SECONDS_PER_STEP = 0.02  # Of this small model on two cores, saves apart.


def define_flags() -> flags.FlagValues:
  """The flags, in a registry of their own."""
  values = flags.FlagValues()
  flags.DEFINE_integer('kills', 50, 'How many.', 1, flag_values=values)
  flags.DEFINE_integer('during_saves', 10, 'Of them, during a save.', 0, flag_values=values)
  flags.DEFINE_integer('steps', 600, 'Of the run.', 1, flag_values=values)
  flags.DEFINE_integer('seed', 0, 'Of the moments.', 0, flag_values=values)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', flag_values=values)
  return values


def command(folder: Path, steps: int) -> list[str]:
  """A run that saves often."""
  options = ['--method=cae', '--set=widths=(4,8,8)', '--set=linear=True', '--noevaluate']
  often = ['--batch=4', '--crop=64', '--log_every=1', '--save_every=5']
  what = [f'--workdir={folder}', f'--steps={steps}', *options, *often]
  return [sys.executable, 'run.py', '--mode=train', *what]


def start(folder: Path, steps: int) -> subprocess.Popen:
  """The run as a process of its own."""
  nowhere, pipe = subprocess.DEVNULL, subprocess.PIPE
  return subprocess.Popen(command(folder, steps), stdout=nowhere, stderr=pipe)


def kill(folder: Path, steps: int, progress: float, saving: bool) -> bool:
  """Runs until `progress` new steps are done, then kills, if asked in the next save.

  Args:
    progress: steps beyond those of the last kill; the fraction is one of the time a step takes,
      so that kills come in the middle of steps as well.

  Returns:
    Whether the run was still alive.
  """
  goal = _rows(folder) + int(progress)
  process = start(folder, steps)
  while process.poll() is None and _rows(folder) < goal:
    time.sleep(0.001)
  time.sleep((progress - int(progress)) * _SECONDS_PER_STEP)
  while saving and process.poll() is None and not list((folder / 'checkpoints').glob(_UNSAVED)):
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
  plan = cli_fit.plans.read(folder)
  setup = cli_fit.setup_of(plan, cli_fit.codec_of(plan))
  like = jax.eval_shape(lambda: training.start(*setup.init(), setup.optimizer))
  saves = Checkpoints(folder / 'checkpoints', print)
  state = saves.restore(like)
  saves.close()
  with open(folder / 'train.csv', newline='') as file:
    rows = [{k: v for k, v in row.items() if k not in _TIMED} for row in csv.DictReader(file)]
  return digest(named(jax.tree.map(np.asarray, state))).hex(), rows


def compare(folder: Path, *, steps: int, kills: int, during_saves: int, seed: int = 0) -> int:
  """Breaks a run `kills` times; the number of kills that found it alive.

  Raises:
    CodecError: it is not the unbroken run.
  """
  whole, broken = folder / 'whole', folder / 'broken'
  finish(whole, steps)
  rng, hits = random.Random(seed), 0
  most = steps / (kills + 2)  # All kills together leave a part of the run to go.
  for i in range(kills):
    saving = i < during_saves
    hits += kill(broken, steps, rng.uniform(1, most), saving)
    print(f'kill {i + 1}: after row {_rows(broken)}{", in a save" if saving else ""}', flush=True)
  finish(broken, steps)
  expected, found = result(whole), result(broken)
  if expected[0] != found[0]:
    raise CodecError('parameters or optimizer of the broken run differ')
  if expected[1] != found[1] or len(found[1]) != steps:
    raise CodecError('the metrics of the broken run differ')
  return hits


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
