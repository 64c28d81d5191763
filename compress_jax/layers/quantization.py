"""Rounding, and the gains with which one model covers every rate.

A model learns its gains at a few levels; between these they are interpolated geometrically.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from compress_jax.codec import LAMBDA_RANGE, MIDDLE
from compress_jax.layers import dct

Array = jax.Array
Price = Callable[[Array], Array]  # Returns the bits of each rounded or noisy symbol.


def lambda_of(level: Array) -> Array:
  """Returns the lambdas f32[...] of level bytes f32[...] or i32[...]."""
  low, high = LAMBDA_RANGE
  return low * (high / low) ** (jnp.asarray(level, jnp.float32) / 255)


def gains(log_gains: Array, level: Array) -> Array:
  """Returns the gains f32[..., C] of level bytes i32[...].

  `log_gains` f32[levels, C] are their logarithms at equally spaced levels.
  """
  last = log_gains.shape[0] - 1
  at = jnp.asarray(level, jnp.float32) * (last / 255)
  below = jnp.clip(at.astype(jnp.int32), 0, max(last - 1, 0))
  share = (at - below.astype(jnp.float32))[..., None]
  return jnp.exp(log_gains[below] * (1 - share) + log_gains[jnp.minimum(below + 1, last)] * share)


def initial_log_gains(levels: int, channels: int, cell: int | None = None) -> Array:
  """Returns initial log-gains f32[levels, channels], with steps in proportion to lambda^-1/2.

  This proportion follows from D = step^2 / 12. The gains are around 1; with a `cell` they are those
  of its cosine transform with coefficients of variance 1.
  """
  low, high = (0.5 * math.log(edge) for edge in LAMBDA_RANGE)
  steps = jnp.linspace(low, high, levels) if levels > 1 else jnp.zeros(1) + (low + high) / 2
  start = jnp.tile((steps - (low + high) / 2)[:, None], (1, channels))
  if cell is None:
    return start
  return start + jnp.log(dct.basis(cell, channels).deviations / dct.step(MIDDLE))


def straight_through(x: Array) -> Array:
  """Returns round(x) with the gradient of x."""
  return x + lax.stop_gradient(jnp.round(x) - x)


def cheaper(x: Array, bits: Price, worth: float) -> Array:
  """Returns the integers beside x of least squared distance + worth * bits.

  The result has the gradient of x.

  Args:
    x: f32[...], the values that are rounded.
    bits: returns the bits of each integer f32[...].
    worth: the worth of a bit, in squared units of x.
  """
  nearest = jnp.round(x)
  other = nearest + jnp.where(x > nearest, 1, -1)
  chosen = cheaper_of(x, nearest, other, bits(nearest) - bits(other), worth)
  return x + lax.stop_gradient(chosen - x)


def cheaper_of(
  x: Any, nearest: Any, other: Any, saved: Any, worth: float, xp: ModuleType = jnp
) -> Any:
  """Returns the one of two integers around x with less squared distance + worth * bits.

  All arrays have the shape of x, and the type of `xp`.

  Args:
    x: the values that are rounded.
    nearest: the nearest integers.
    other: the integers on the other side of x.
    saved: bits that `other` saves compared with `nearest`.
    worth: the worth of a bit, in squared units of x.
    xp: jax.numpy or numpy.
  """
  farther = 1 - 2 * xp.abs(x - nearest)  # (x - other)^2 - (x - nearest)^2
  return xp.where(worth * saved > farther, other, nearest)


def counted(
  price: Price, symbols: Array, scaled: Array, keys: Array | None, *, exact: bool = False
) -> Array:
  """Returns the bits f32[B, h, w, C] of each symbol.

  Args:
    price: returns the bits of each symbol.
    symbols: f32[B, h, w, C], integers.
    scaled: f32[B, h, w, C], the values that were rounded to them.
    keys: Key[B] of noise that replaces rounding; None counts the integers.
    exact: whether to count the integers even with keys. Noise then determines only the gradient
      with respect to `scaled`. The slope of a price at an integer does not lead to cheaper
      integers: it is 0 at zeros of a narrow density, however near to the threshold the value is.
  """
  if keys is None:
    return price(symbols)
  noisy = noise(keys, scaled)
  if not exact:
    return price(noisy)
  (slope,) = jax.vjp(price, noisy)[1](jnp.ones_like(noisy))
  way = lax.stop_gradient(slope) * (scaled - lax.stop_gradient(scaled))  # 0, with that gradient.
  return price(lax.stop_gradient(symbols)) + way


def split(keys: Array | None) -> tuple[Array | None, Array | None]:
  """Splits Key[B] into two of the same shape; returns (None, None) for None."""
  if keys is None:
    return None, None
  one, other = jax.vmap(jax.random.split, out_axes=1)(keys)
  return one, other


def noise(keys: Array, x: Array) -> Array:
  """Adds uniform noise from [-1/2, 1/2) to x (Ballé, Laparra, Simoncelli, ICLR 2017).

  The noise of x[i] depends only on keys[i].
  """
  draw = lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -0.5, 0.5)  # noqa: E731
  return x + jax.vmap(draw)(keys)
