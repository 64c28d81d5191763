"""The training loop: dispatch steps, look at the metrics, save, validate, stop in order."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, repeat
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from compress_jax.codec import CodecError, Metrics
from compress_jax.runtime import processes
from compress_jax.training.losses import PEAK
from compress_jax.training.trainer import Step, TrainState, compile_ahead, replicated

FAILING = 20  # Updates in a row that are not finite, before a run is given up.
_TIMED = 1, 5  # Dispatches after which `Watch.ending` is asked; the first compiles.
Means = dict[str, float]


class Saves(Protocol):
  """Where states go: see `checkpoints`."""

  def save(self, step: int, tree: Any) -> None: ...  # noqa: D102

  def score(self, step: int, value: float) -> None: ...  # noqa: D102


class Rhythm(NamedTuple):
  """Numbers of steps between logs, checkpoints and validations."""

  steps: int  # All of them.
  inner: int = 1  # Per dispatch.
  log: int = 100
  save: int = 1000
  validate: int = 0  # 0: at the end only.


class Watch(NamedTuple):
  """Functions that the loop calls: to report, to validate, and to ask whether to stop."""

  metrics: Callable[[int, Means, float], None]  # Step, averages since the last call, seconds.
  validate: Callable[[int, TrainState], float] | None = None  # Its score; less is better.
  stopping: Callable[[int], bool] = lambda step: False  # Asked after every dispatch.
  # Steps after which the run ends, where that is a matter of time: asked at times when no step is
  # under way, and after the first and the fifth dispatch.
  ending: Callable[[int], int] | None = None


def fit(
  state: TrainState,
  train_step: Step,
  data: Any,
  index: np.ndarray,
  *,
  rhythm: Rhythm,
  saves: Saves,
  watch: Watch,
) -> TrainState:
  """Trains from where `state` is to the end, or to where it is stopped; then it is saved.

  Args:
    state: is given up to the steps.
    train_step: of `trainer.make_train_step`.
    data: for it; an iterator gives new data for every dispatch.
    index: which examples of the global batch the local devices compute.
    rhythm: when what happens.
    saves: where checkpoints go.
    watch: who is told, and who may stop the run.

  Raises:
    CodecError: too many updates in a row were not finite; no state was saved since the first.
  """
  step = int(state.step)
  feed: Iterator[Any] = data if isinstance(data, Iterator) else repeat(data)
  pending: list[Metrics] = []
  since, stopped = time.monotonic(), False
  total, dispatches = rhythm.steps, 0
  if jax.process_count() > 1 and step < total:
    first = next(feed)
    feed = chain([first], feed)
    compile_ahead(train_step, state, first, index)
    processes.meet()
  while step < total and not stopped:
    inner = min(rhythm.inner, total - step)
    if inner < rhythm.inner:
      raise CodecError(f'{total} steps are no multiple of {rhythm.inner} per dispatch')
    state, metrics = train_step(state, next(feed), index)
    step, dispatches = step + inner, dispatches + 1
    pending.append(metrics)
    if watch.ending and (dispatches in _TIMED or _due(step, inner, rhythm.log)):
      jax.block_until_ready(state.step)
      total = max(step, watch.ending(step) // inner * inner)
      state = state._replace(total=replicated(np.int32(total)))
    stopped = watch.stopping(step)
    due = _due(step, inner, rhythm.log) or step == total or stopped
    # Every process saves where one of them validates: a checkpoint is written by all together.
    validates = (_due(step, inner, rhythm.validate) or step == total) and not stopped
    saving = _due(step, inner, rhythm.save) or step == total or stopped or validates
    if due or saving:
      _refuse(state, step)
    if due:
      means, seconds = _means(pending), time.monotonic() - since
      watch.metrics(step, means | {'skipped': float(state.skipped)}, seconds / len(pending) / inner)
      pending, since = [], time.monotonic()
    if saving:
      saves.save(step, state)
    if validates and watch.validate:  # What is saved outlives a kill during the validation.
      before = time.monotonic()
      saves.score(step, watch.validate(step, state))
      since += time.monotonic() - before
    if validates:
      processes.meet()
  return state


def _due(step: int, inner: int, every: int) -> bool:
  """Did the last dispatch reach or pass a multiple?"""
  return every > 0 and step // every > (step - inner) // every


def _refuse(state: TrainState, step: int) -> None:
  if int(state.failing) >= FAILING:
    raise CodecError(
      f'the last {int(state.failing)} updates before step {step} were not finite; '
      f'the newest checkpoint holds the last good state'
    )


def _means(pending: list[Metrics]) -> Means:
  """Averages over the updates that were made; with `psnr` where there is a squared error."""
  names = dict.fromkeys(chain.from_iterable(pending))
  total = {name: float(np.sum([np.asarray(m[name]) for m in pending])) for name in names}
  updates = total.pop('updates')
  means = {name: value / max(updates, 1) for name, value in total.items()}
  if means.get('mse', 0) > 0:
    means['psnr'] = 10 * math.log10(PEAK**2 / means['mse'])
  return means


def joined(metrics: Mapping[str, float], names: list[str]) -> str:
  """One line of some metrics."""
  return '  '.join(f'{name} {metrics[name]:.4g}' for name in names if name in metrics)


class Pace:
  """How many steps fit into a time, by how long the steps since the first dispatch took."""

  def __init__(self, seconds: float, limit: int) -> None:
    """Training is to end so many seconds from now, or after `limit` steps."""
    self._end, self._limit = time.monotonic() + seconds, limit
    self._since: tuple[int, float] | None = None

  def __call__(self, step: int) -> int:
    """Returns the step after which the time is over."""
    now = time.monotonic()
    if self._since is None:
      self._since = step, now
    first, began = self._since
    if step == first:
      return self._limit
    each = (now - began) / (step - first)
    return min(self._limit, step + max(0, int((self._end - now) / each)))
