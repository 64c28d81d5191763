"""The training loop: dispatches steps, reports metrics, saves, validates and stops."""

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

FAILING = 20  # Number of consecutive updates that are not finite before a run is aborted.
_TIMED = 1, 5  # Dispatches after which `Watch.ending` is called; the first one compiles.
Means = dict[str, float]


class Saves(Protocol):
  """The interface by which states are saved, see `checkpoints`."""

  def save(self, step: int, tree: Any) -> None:
    """Writes the state of a step."""

  def score(self, step: int, value: float) -> None:
    """Writes the score of a step that was saved; less is better."""


class Rhythm(NamedTuple):
  """The number of steps of a run, and how often it logs, saves and validates."""

  steps: int  # Number of steps of the run.
  inner: int = 1  # Steps per dispatch.
  log: int = 100  # Steps between reports of metrics.
  save: int = 1000  # Steps between checkpoints.
  validate: int = 0  # Steps between validations; 0 validates only at the end.


class Watch(NamedTuple):
  """Functions that the loop calls to report, to validate, and to ask whether to stop."""

  # Receives the step, averages since the last call, and seconds per step.
  metrics: Callable[[int, Means, float], None]
  validate: Callable[[int, TrainState], float] | None = None  # Returns a score; less is better.
  stopping: Callable[[int], bool] = lambda step: False  # Called after every dispatch.
  # Returns the step after which the run ends, where that depends on the time. It is called with
  # every log, and after the first and the fifth dispatch, when no step is running.
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
  """Trains from the step of `state` to the end, or until it is stopped, and saves the state.

  Args:
    state: the initial state; the steps donate its arrays.
    train_step: the result of `trainer.make_train_step`.
    data: input of `train_step`; an iterator gives new data for every dispatch.
    index: the examples of the global batch that the local devices compute.
    rhythm: how often the loop logs, saves and validates.
    saves: writes checkpoints.
    watch: functions for reports, validation and stopping.

  Returns:
    The last state.

  Raises:
    CodecError: too many consecutive updates were not finite; no state was saved since the first.
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
    # Every process saves where one of them validates: all of them write a checkpoint together.
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
    if validates and watch.validate:  # The checkpoint exists if the validation is killed.
      before = time.monotonic()
      saves.score(step, watch.validate(step, state))
      since += time.monotonic() - before
    if validates:
      processes.meet()
  return state


def _due(step: int, inner: int, every: int) -> bool:
  """Returns whether the last dispatch reached or passed a multiple of `every` steps."""
  return every > 0 and step // every > (step - inner) // every


def _refuse(state: TrainState, step: int) -> None:
  if int(state.failing) >= FAILING:
    raise CodecError(
      f'the last {int(state.failing)} updates before step {step} were not finite; '
      f'the newest checkpoint holds the last good state'
    )


def _means(pending: list[Metrics]) -> Means:
  """Returns averages over the updates that were made, with `psnr` if there is a squared error."""
  names = dict.fromkeys(chain.from_iterable(pending))
  total = {name: float(np.sum([np.asarray(m[name]) for m in pending])) for name in names}
  updates = total.pop('updates')
  means = {name: value / max(updates, 1) for name, value in total.items()}
  if means.get('mse', 0) > 0:
    means['psnr'] = 10 * math.log10(PEAK**2 / means['mse'])
  return means


def metrics_line(metrics: Mapping[str, float], names: list[str]) -> str:
  """Returns one line of the named metrics."""
  return '  '.join(f'{name} {metrics[name]:.4g}' for name in names if name in metrics)


class Pace:
  """The number of steps that fit into a time limit, from the time of earlier steps.

  The first dispatch does not count, because it compiles.
  """

  def __init__(self, seconds: float, limit: int) -> None:
    """Starts the clock: training ends after `seconds` from now, or after `limit` steps."""
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
