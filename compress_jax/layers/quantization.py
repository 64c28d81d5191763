"""Rounding, and the gains that let one model serve every rate.

A model learns its gains at a few levels; between those they are interpolated geometrically.
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
Price = Callable[[Array], Array]  # Bits of whole or noisy symbols, each.


def lambda_of(level: Array) -> Array:
  """The lambda of f32[...] or i32[...] level bytes."""
  low, high = LAMBDA_RANGE
  return low * (high / low) ** (jnp.asarray(level, jnp.float32) / 255)


def gains(log_gains: Array, level: Array) -> Array:
  """Gains f32[..., C] of level bytes i32[...], from f32[levels, C] at equally spaced ones."""
  last = log_gains.shape[0] - 1
  at = jnp.asarray(level, jnp.float32) * (last / 255)
  below = jnp.clip(at.astype(jnp.int32), 0, max(last - 1, 0))
  share = (at - below.astype(jnp.float32))[..., None]
  return jnp.exp(log_gains[below] * (1 - share) + log_gains[jnp.minimum(below + 1, last)] * share)


def initial_log_gains(levels: int, channels: int, cell: int | None = None) -> Array:
  """f32[levels, channels]: steps in proportion to lambda^-1/2, as D = step^2 / 12 asks for.

  They are around 1, or with a `cell` those of its cosine transform with coefficients of
  variance 1.
  """
  low, high = (0.5 * math.log(edge) for edge in LAMBDA_RANGE)
  steps = jnp.linspace(low, high, levels) if levels > 1 else jnp.zeros(1) + (low + high) / 2
  start = jnp.tile((steps - (low + high) / 2)[:, None], (1, channels))
  if cell is None:
    return start
  return start + jnp.log(dct.basis(cell, channels).deviations / dct.step(MIDDLE))


def straight_through(x: Array) -> Array:
  """round(x) with the gradient of x."""
  return x + lax.stop_gradient(jnp.round(x) - x)


def cheaper(x: Array, bits: Price, worth: float) -> Array:
  """The whole numbers beside x of least squared distance + worth * bits, with the gradient of x.

  Args:
    x: f32[...].
    bits: what whole numbers f32[...] cost, each.
    worth: of a bit, in squared units of x.
  """
  nearest = jnp.round(x)
  other = nearest + jnp.where(x > nearest, 1, -1)
  chosen = cheaper_of(x, nearest, other, bits(nearest) - bits(other), worth)
  return x + lax.stop_gradient(chosen - x)


def cheaper_of(
  x: Any, nearest: Any, other: Any, saved: Any, worth: float, xp: ModuleType = jnp
) -> Any:
  """Returns of the two whole numbers around x that of less squared distance + worth * bits.

  All arrays have the shape of x, and the type of `xp`.

  Args:
    x: what is rounded.
    nearest: the nearest whole number.
    other: the one on the other side of x.
    saved: bits that the other costs less than the nearest.
    worth: of a bit, in squared units of x.
    xp: jax.numpy or numpy.
  """
  farther = 1 - 2 * xp.abs(x - nearest)  # (x - other)^2 - (x - nearest)^2
  return xp.where(worth * saved > farther, other, nearest)


def counted(
  price: Price, symbols: Array, scaled: Array, keys: Array | None, *, exact: bool = False
) -> Array:
  """Bits of each symbol, f32[B, h, w, C].

  Args:
    price: what symbols cost, each for itself.
    symbols: whole numbers.
    scaled: what was rounded to them.
    keys: Key[B] of noise that is added in place of rounding; None: it is not.
    exact: count the whole numbers all the same; noise then only gives `scaled` its gradient. At
      whole numbers the slope of a price says nothing about the way to cheaper ones: it is 0 for
      zeros of a narrow density, however near to the threshold they are.
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
  """Key[B] for each of two uses, or none."""
  if keys is None:
    return None, None
  one, other = jax.vmap(jax.random.split, out_axes=1)(keys)
  return one, other


def noise(keys: Array, x: Array) -> Array:
  """x plus uniform noise from [-1/2, 1/2) (Ballé, Laparra, Simoncelli, ICLR 2017).

  The noise of an example is a function of its key: of keys[i] for x[i].
  """
  draw = lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -0.5, 0.5)  # noqa: E731
  return x + jax.vmap(draw)(keys)
