"""The folder of a training run: its lock, the files it depends on, its newest checkpoint."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from compress_jax.codec import CodecError
from compress_jax.evaluation import lpips_weights
from compress_jax.files import locks
from compress_jax.files.digests import digest_of_files
from compress_jax.runtime import processes
from compress_jax.training import float_weights, plans, trainer
from compress_jax.training.checkpoints import Checkpoints
from compress_jax.training.float_weights import WEIGHTS
from compress_jax.training.plans import Plan
from compress_jax.training.stages import Setup

MODEL = 'model.safetensors'
Log = Callable[[str], None]


def digests_of(plan: Plan) -> dict[str, str]:
  """Returns the SHA-256 of the files that a plan names, by field, if they exist."""
  files: dict[str, Callable[[], list[Path]]] = {}
  if plan.start:
    files['start'] = lambda: [float_weights.file_of(Path(plan.start or ''))]
  if plan.lpips:
    net = 'vgg' if plan.perceptual == 'wasserstein' else 'alex'
    files['lpips'] = lambda: lpips_weights.files(plan.lpips or '', net)
  digests = {}
  for name, paths in files.items():
    try:
      digests[name] = digest_of_files(paths())
    except (CodecError, OSError):  # An error is raised where the file is needed.
      continue
  return digests


@contextmanager
def held(
  folder: Path, plan: Plan, digests: Mapping[str, str], share: processes.Share
) -> Iterator[None]:
  """Locks the folder of a run inside the `with` block, and records its plan there.

  Raises:
    CodecError: another program holds the lock, or the folder holds a run of another plan.
  """
  with ExitStack() as stack:

    def enter() -> None:
      stack.enter_context(locks.held(folder))
      plans.record(folder, plan, digests)

    processes.by_first(share, enter)
    yield


def form_of(setup: Setup) -> Any:
  """Returns the shapes and types of the arrays in the checkpoints of a run."""
  begin = lambda params, state: trainer.start(params, state, setup.optimizer, 1)  # noqa: E731
  return jax.eval_shape(begin, *setup.form)


def newest(
  folder: Path,
  plan: Plan,
  digests: Mapping[str, str],
  setup: Setup,
  saves: Checkpoints,
  log: Log,
) -> trainer.TrainState | None:
  """Returns the state to continue from; None before the first checkpoint.

  Raises:
    CodecError: there are checkpoints but none can be read, there are results but no checkpoints,
      or a file that is still needed is not the one that the run began with.
  """
  state: trainer.TrainState | None = saves.restore(form_of(setup))
  if state is None:
    keep_results(folder)
    plans.check(folder, 'start', plan.start, digests.get('start'))
    return None
  if not trainer.finished(state):
    log(f'going on from step {int(state.step)}')
    plans.check(folder, 'lpips', plan.lpips, digests.get('lpips'))
  began = plans.began_with(folder).get('start')
  if began not in (None, digests.get('start')):
    how = 'has changed' if 'start' in digests else 'is not there any more'
    log(f'{plan.start} {how} since the run began, which goes on with what it began with')
  return state


def keep_results(folder: Path) -> None:
  """Raises CodecError where a new run would replace the results of another one."""
  for name in (WEIGHTS, MODEL):
    if (folder / name).exists():
      raise CodecError(
        f'{folder} holds {name} but no checkpoint of a run that made it; a run that begins here '
        f'would replace it: choose another --workdir, or move the file away'
      )
