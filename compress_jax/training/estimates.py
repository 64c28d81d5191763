"""What a training run would take: size, arithmetic, memory and time of its step."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from compress_jax.codec import Params
from compress_jax.training import trainer
from compress_jax.training.objectives import LossFn, State

_TIMED = 3  # Steps.


class Estimate(NamedTuple):
  """Of one update on one device with its share of the batch."""

  parameters: int
  flops: float  # As the compiler counts them, forward and backward.
  bytes: int  # Arguments, results and intermediate values at a time.
  seconds: float  # Measured.


def estimate(
  params: Params,
  state: State,
  loss: LossFn,
  optimizer: optax.GradientTransformation,
  *,
  batch: int,
  crop: int,
) -> Estimate:
  """Compiles a step for grey crops and runs it a few times.

  Args:
    params, state: where training begins.
    loss: of `objectives`.
    optimizer: of training.
    batch: examples on one device.
    crop: pixels of a crop's side.
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


def report(found: Estimate, *, steps: int, pixels: int, log: Callable[[str], Any]) -> None:
  """Four lines about a run of `steps` updates of `pixels` pixels per device."""
  log(f'parameters   {found.parameters:,}')
  log(f'arithmetic   {found.flops / pixels / 1e3:,.0f} kFLOP per pixel, forward and backward')
  log(f'memory       {found.bytes / 2**20:,.0f} MiB per device, without the images')
  log(f'time         {found.seconds:.3f} s per step, {steps * found.seconds / 3600:.1f} h in all')
