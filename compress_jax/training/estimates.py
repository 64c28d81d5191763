"""Estimates of the cost of a training run: size, arithmetic, memory and time of its step."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from compress_jax.codec import Params
from compress_jax.training import trainer
from compress_jax.training.objectives import LossFn, State

_TIMED = 3  # The largest number of steps that are timed.
_LONG = 10.0  # No further step is timed after so many seconds.
_SHARE = 0.9  # The part of the available memory that a step may take.


class Estimate(NamedTuple):
  """The cost of one update on one device with its share of the batch."""

  parameters: int  # Number of parameters.
  flops: float  # Forward and backward, as the compiler counts them.
  bytes: int  # Memory of arguments, results and intermediate values.
  available: int | None  # Memory of the device in bytes; None where it is unknown.
  seconds: float | None  # Measured time; None where the memory is too small.


def estimate(
  init: Callable[[], tuple[Params, State]],
  form: tuple[Params, State],
  loss: LossFn,
  optimizer: optax.GradientTransformation,
  *,
  batch: int,
  crop: int,
) -> Estimate:
  """Returns the cost of a step: compiles it for grey crops, and runs it if the memory suffices.

  Args:
    init: returns the initial parameters and state of training; called only to run the step.
    form: their shapes and types.
    loss: one of the losses of `objectives`.
    optimizer: the optimizer of training.
    batch: examples on one device.
    crop: side of a crop in pixels.
  """
  step = trainer.make_train_step(loss, optimizer, seed=0)
  devices = jax.local_device_count()
  grey = np.full((devices, 1, batch, crop, crop, 3), 128, np.uint8)
  index = np.arange(devices * batch, dtype=np.int32).reshape(devices, batch)
  start = lambda params, state: trainer.start(params, state, optimizer, 1000)  # noqa: E731
  shapes = jax.eval_shape(start, *form)
  compiled = step.lower(shapes, grey, index).compile()
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  arguments, rest = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  used = arguments + rest + memory.output_size_in_bytes - memory.alias_size_in_bytes
  size = sum(leaf.size for leaf in jax.tree.leaves(form[0]))
  found = Estimate(size, float(cost['flops']), int(used), _available(), None)
  # A CPU holds the initial arguments too.
  needed = used if jax.default_backend() != 'cpu' else devices * used + arguments
  if found.available is not None and needed > _SHARE * found.available:
    return found
  return found._replace(seconds=_seconds(step, start(*init()), grey, index))


def _seconds(step: trainer.Step, began: trainer.TrainState, data: Any, index: np.ndarray) -> float:
  """Returns the mean time of a few steps after the first one, or of one that takes long."""
  now, _ = jax.block_until_ready(step(trainer.replicated(began), data, index))
  taken: list[float] = []
  while len(taken) < _TIMED and sum(taken) < _LONG:
    since = time.perf_counter()
    now, _ = jax.block_until_ready(step(now, data, index))
    taken.append(time.perf_counter() - since)
  return sum(taken) / len(taken)


def _available() -> int | None:
  """Returns the bytes of an accelerator, or those of the machine's memory that are free."""
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'bytes_limit' in stats:
    return int(stats['bytes_limit'])
  try:
    lines = Path('/proc/meminfo').read_text().splitlines()
    (found,) = [line.split()[1] for line in lines if line.startswith('MemAvailable:')]
  except (OSError, ValueError):
    return None
  return 1024 * int(found)


def report(
  cost: Estimate,
  *,
  steps: int,
  pixels: int,
  log: Callable[[str], Any],
  minutes: float | None = None,
) -> None:
  """Logs four lines about a run with `pixels` pixels per update and device.

  Args:
    cost: the result of `estimate`.
    steps: updates of the run.
    pixels: pixels of an update on one device.
    log: takes a line.
    minutes: the time after which the run ends, if it does not end with its steps before.
  """
  log(f'parameters   {cost.parameters:,}')
  log(f'arithmetic   {cost.flops / pixels / 1e3:,.0f} kFLOP per pixel, forward and backward')
  log(f'memory       {cost.bytes / 2**20:,.0f} MiB per device, without the images')
  if cost.seconds is not None:
    hours = f'{steps * cost.seconds / 3600:.1f} h in all'
    within = min(steps, 60 * minutes / cost.seconds) if minutes else steps
    count = f'about {within:,.0f} steps in all' if minutes else hours
    log(f'time         {cost.seconds:.3f} s per step, {count}')
  elif cost.available is not None:
    log(f'time         not measured: {cost.available / 2**20:,.0f} MiB are available')
