"""Coordinates in which K-means works: moved and scaled, so that float32 holds what matters.

Squares of coordinates beyond 2^62 overflow, and those below 2^-63 vanish; a small cloud far from
the origin loses digits in every sum. Both maps are exact: columns move only where the difference
has no rounding error (Sterbenz), and scales are powers of two.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.codec import Array

_RADII = 2.0**-30, 2.0**30  # Those that need no scale; others get the larger one.
_MASSES = 2.0**-20, 2.0**20  # Others are brought to 1.
_HELD = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_FAR = 2.0**50  # Of the coordinates of what is nearest to nothing.


class Frame(NamedTuple):
  """x -> (x - origin) * scale; and weights -> weights * mass."""

  origin: Array  # f32[D].
  scale: Array  # f32[], a power of two.
  mass: Array  # f32[], a power of two.


def frame(points: Array, weights: Array, axis_name: str | None, near: Array | None = None) -> Frame:
  """The frame of the points that weigh something.

  Args:
    points: f32[N, D].
    weights: f32[N].
    axis_name: devices that hold the other rows.
    near: f32[K, D], of which the least is to be in the frame too.
  """
  known = (weights > 0)[:, None]
  low = jnp.min(jnp.where(known, points, jnp.inf), axis=0)
  high = jnp.max(jnp.where(known, points, -jnp.inf), axis=0)
  heaviest = jnp.max(weights)
  if axis_name is not None:
    low, high = lax.pmin(low, axis_name), lax.pmax(high, axis_name)
    heaviest = lax.pmax(heaviest, axis_name)
  low, high = (jnp.where(jnp.isfinite(edge), edge, 0.0) for edge in (low, high))
  middle, radius = low / 2 + high / 2, high / 2 - low / 2
  moved = radius <= jnp.abs(middle) / 2
  origin = jnp.where(moved, middle, 0.0)
  reach = jnp.max(jnp.where(moved, radius, jnp.maximum(jnp.abs(low), jnp.abs(high))))
  if near is not None:
    reach = jnp.maximum(reach, jnp.min(jnp.max(jnp.abs(near - origin), axis=1)))
  return Frame(origin, _scale(reach, _RADII, 30), _scale(heaviest, _MASSES, 0))


def _scale(size: Array, usual: tuple[float, float], target: int) -> Array:
  """A power of two that brings `size` to 2^target, about; 1 where it is in the usual range."""
  _, exponent = jnp.frexp(size)
  scale = jnp.ldexp(jnp.ones_like(size), jnp.clip(target - exponent, -100, 100))
  kept = (size == 0) | ((usual[0] <= size) & (size <= usual[1]))
  return jnp.where(kept, 1.0, scale)


def into(frame: Frame, x: Array) -> Array:
  """f32[..., D] in the coordinates of the frame; what is too far for them is only far."""
  return jnp.clip((x - frame.origin) * frame.scale, -_FAR, _FAR)


def out_of(frame: Frame, x: Array) -> Array:
  """f32[..., D] in the coordinates of the points."""
  return x / frame.scale + frame.origin


def plain(squares: Array, scale: Array, mass: Array | float = 1.0) -> Any:
  """Squares f32[...] of the frame in the units of the points.

  Returns:
    f32[...]; or NumPy's f64[...] where f32 cannot hold them, which inside jit is not known.
  """
  found = squares / scale / scale / mass
  if isinstance(found, jax.core.Tracer) or (float(scale) == 1 and float(mass) == 1):
    return found
  wide = np.asarray(squares, np.float64) / (float(scale) ** 2 * float(mass))
  held = (np.abs(wide) < _HELD[1]) & ((np.abs(wide) > _HELD[0]) | (wide == 0))
  return found if held.all() else wide
