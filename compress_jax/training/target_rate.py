"""Training towards a rate, as HiFiC does: the rate weighs more above a target than below it.

F. Mentzer, G. Toderici, M. Tschannen, E. Agustsson, "High-fidelity generative image compression",
NeurIPS 2020, and configs.py of the authors. The paper weighs the rate, and here lambda weighs the
distortion: a weight w of the rate is lambda = 0.00234375 / w. Above its targets of 0.14, 0.30 and
0.45 bpp the paper's weights are 2, 1 and 1/2, the lambdas 0.0012, 0.0023 and 0.0047.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# The weight of the MSE on the 0..255 scale at every rate: 0.75 * 0.1 / 32 in configs.py of the
# authors, 0.075 * 2^-5 in the paper.
MSE_WEIGHT = 0.75 * 0.1 / 32
# The paper's weight of the rate below the target is 2^-4; the authors' configs.py has 2^-6.
BELOW = MSE_WEIGHT / 2.0**-4
# In the first 50,000 of its 1,000,000 steps HiFiC asks for more bits and weighs them less.
RELAXED_STEPS, RELAXED_SHARE = 50_000, 20
RELAXED_TARGET, RELAXED_LAMBDA = 0.20 / 0.14, 2.0


class Target(NamedTuple):
  """A target rate and the lambdas on either side of it."""

  bpp: float  # The target in bits per pixel.
  above: float  # Lambda of batches that take more bits.
  below: float = BELOW  # Lambda of batches that take fewer.
  relaxed: int = 0  # Number of steps at the start with a higher target and half the rate's weight.
  axis: str | None = None  # Name of the mapped axis of devices; None for a single device.


def relaxed_steps(steps: int) -> int:
  """Returns how many steps at the start of a run are relaxed: a twentieth, 50,000 at most."""
  return min(RELAXED_STEPS, steps // RELAXED_SHARE)


def lambda_at(target: Target, bpp: Array, step: Array) -> Array:
  """Returns the lambda f32[] of a batch that takes so many bits per pixel, at a step of training.

  Args:
    target: the target rate.
    bpp: f32[], rate of the batch, with latents rounded as files round them.
    step: i32[], updates before this one.
  """
  early = step < target.relaxed
  wanted = target.bpp * jnp.where(early, RELAXED_TARGET, 1.0)
  lmbda = jnp.where(bpp > wanted, target.above, target.below)
  return lmbda * jnp.where(early, RELAXED_LAMBDA, 1.0)


def controlled(target: Target, bits: Callable[[], Array], pixels: int, step: Array) -> dict:
  """Returns the lambda of a batch and the rate that decided it, as metrics.

  Args:
    target: the target rate.
    bits: returns f32[B], the bits of the examples with rounded latents; no gradient goes there.
    pixels: number of pixels of each example.
    step: i32[], updates before this one.

  Returns:
    {'lambda': f32[], 'bpp_rounded': f32[]}, equal on all devices.
  """
  bpp = jnp.mean(lax.stop_gradient(bits())) / pixels
  if target.axis is not None:
    bpp = lax.pmean(bpp, target.axis)
  return {'lambda': lambda_at(target, bpp, step), 'bpp_rounded': bpp}
