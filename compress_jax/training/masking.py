"""Incremental training: channels of the latents are enabled one after the other.

L. Theis, W. Shi, A. Cunningham, F. Huszár, "Lossy image compression with compressive
autoencoders", ICLR 2017: a mask enables two coefficients at
first, and one more whenever training has stopped to improve. The paper does not say how that is
decided. Here the mask is a function of the step, so that a run can be interrupted and continued.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from compress_jax import codec
from compress_jax.codec import Array, Key, Metrics, Params
from compress_jax.training.objectives import Apply, State, Weighted

FIRST = 2  # Number of channels that are enabled from the start.


def mask_of(step: Any, channels: int, every: int) -> Array:
  """Returns bool[C]: true for the first two channels, and for one more every `every` steps."""
  return jnp.arange(channels) < FIRST + jnp.asarray(step) // every


def steps_until_all(channels: int, every: int) -> int:
  """Returns the first step at which all channels are enabled."""
  return max(channels - FIRST, 0) * every


def incremental(
  apply: codec.Apply, loss_of: Callable[[Apply], Weighted], *, channels: int, every: int
) -> Weighted:
  """Returns the loss of a codec whose channels are enabled one after the other.

  Args:
    apply: the forward pass of a codec, with a mask: disabled channels send zeros and cost no bits.
    loss_of: returns the loss of an `apply` without a mask.
    channels: number of channels of the latents.
    every: steps from one channel to the next.
  """

  def masked(step: Array) -> Weighted:
    mask = mask_of(step, channels, every)
    return loss_of(lambda params, x, level, keys: apply(params, x, level, keys, mask=mask))

  def loss(
    weights: Any, params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    return masked(step).of(weights, params, state, x, keys, step)

  return Weighted(loss, loss_of(apply).weights)
