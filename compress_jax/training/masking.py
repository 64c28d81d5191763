"""Channels of the latents that are enabled one after the other while a codec learns.

L. Theis, W. Shi, A. Cunningham, F. Huszár, "Lossy image compression with compressive
autoencoders", ICLR 2017, on incremental training: a mask lets two coefficients through at
first, and one more whenever training has stopped to help. The paper does not say how that is
decided. Here the mask is a function of the step, so that a run can be broken and go on.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from compress_jax import codec
from compress_jax.codec import Array, Key, Metrics, Params
from compress_jax.training.objectives import Apply, LossFn, State

FIRST = 2  # Channels that are on from the start.


def mask_of(step: Any, channels: int, every: int) -> Array:
  """bool[C]: the first two channels, and one more after every `every` steps."""
  return jnp.arange(channels) < FIRST + jnp.asarray(step) // every


def steps_until_all(channels: int, every: int) -> int:
  """The first step at which all channels are on."""
  return max(channels - FIRST, 0) * every


def incremental(
  apply: codec.Apply, loss_of: Callable[[Apply], LossFn], *, channels: int, every: int
) -> LossFn:
  """The loss of a codec whose channels are enabled one after the other.

  Args:
    apply: of a codec, with a mask: channels that are off send zeros and cost no bits.
    loss_of: makes the loss of an `apply` without a mask.
    channels: of the latents.
    every: steps from one channel to the next.
  """

  def loss(
    params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    mask = mask_of(step, channels, every)
    shown = lambda params, x, level, keys: apply(params, x, level, keys, mask=mask)  # noqa: E731
    return loss_of(shown)(params, state, x, keys, step)

  return loss
