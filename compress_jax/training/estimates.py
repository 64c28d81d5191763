"""Estimates of the cost of a training run: size, arithmetic, memory and time of its step."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from compress_jax.codec import Params
from compress_jax.training import trainer
from compress_jax.training.objectives import LossFn, State

_TIMED = 3  # Number of steps that are timed.


class Estimate(NamedTuple):
  """The cost of one update on one device with its share of the batch."""

  parameters: int  # Number of parameters.
  flops: float  # Forward and backward, as the compiler counts them.
  bytes: int  # Memory of arguments, results and intermediate values.
  seconds: float  # Measured time.


def estimate(
  params: Params,
  state: State,
  loss: LossFn,
  optimizer: optax.GradientTransformation,
  *,
  batch: int,
  crop: int,
) -> Estimate:
  """Returns the cost of a step: compiles it for grey crops and runs it a few times.

  Args:
    params, state: the initial parameters and state of training.
    loss: one of the losses of `objectives`.
    optimizer: the optimizer of training.
    batch: examples on one device.
    crop: side of a crop in pixels.
  """
  step = trainer.make_train_step(loss, optimizer, seed=0)
  began = trainer.replicated(trainer.start(params, state, optimizer, 1000))
  devices = jax.local_device_count()
  grey = np.full((devices, 1, batch, crop, crop, 3), 128, np.uint8)
  index = np.arange(devices * batch, dtype=np.int32).reshape(devices, batch)
  compiled = step.lower(began, grey, index).compile()
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
  now, _ = jax.block_until_ready(step(began, grey, index))
  since = time.perf_counter()
  for _ in range(_TIMED):
    now, _ = jax.block_until_ready(step(now, grey, index))
  seconds = (time.perf_counter() - since) / _TIMED
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  return Estimate(size, float(cost['flops']), int(used - memory.alias_size_in_bytes), seconds)


def report(cost: Estimate, *, steps: int, pixels: int, log: Callable[[str], Any]) -> None:
  """Logs four lines about a run of `steps` updates of `pixels` pixels per device."""
  log(f'parameters   {cost.parameters:,}')
  log(f'arithmetic   {cost.flops / pixels / 1e3:,.0f} kFLOP per pixel, forward and backward')
  log(f'memory       {cost.bytes / 2**20:,.0f} MiB per device, without the images')
  log(f'time         {cost.seconds:.3f} s per step, {steps * cost.seconds / 3600:.1f} h in all')
