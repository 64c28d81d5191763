"""Coordinates in which K-means computes: points are shifted and scaled to fit float32.

Squares of coordinates beyond 2^62 overflow, and those below 2^-63 vanish; a small cloud far from
the origin loses digits in every sum. Shift and scale are both exact: columns are shifted only where
the difference has no rounding error (Sterbenz), and scales are powers of two.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.codec import Array

_RADII = 2.0**-30, 2.0**30  # Radii in this range need no scale; others are scaled to 2^30.
_MASSES = 2.0**-20, 2.0**20  # Largest weights outside this range are scaled to 1.
_FLOAT32_RANGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_FAR = 2.0**50  # Coordinates are clipped here: such a point or centroid is nearest to nothing.


class Frame(NamedTuple):
  """A shift and two scales: x -> (x - origin) * scale, and weights -> weights * mass."""

  origin: Array  # f32[D].
  scale: Array  # f32[], a power of two.
  mass: Array  # f32[], a power of two.


def frame(points: Array, weights: Array, axis_name: str | None, near: Array | None = None) -> Frame:
  """Returns the frame of the points whose weight is not zero.

  Args:
    points: f32[N, D].
    weights: f32[N].
    axis_name: the mapped axis over which rows are distributed; None without one.
    near: f32[K, D]; the row of smallest magnitude has to fit into the frame too.
  """
  weighted = (weights > 0)[:, None]
  low = jnp.min(jnp.where(weighted, points, jnp.inf), axis=0)
  high = jnp.max(jnp.where(weighted, points, -jnp.inf), axis=0)
  heaviest = jnp.max(weights)
  if axis_name is not None:
    low, high = lax.pmin(low, axis_name), lax.pmax(high, axis_name)
    heaviest = lax.pmax(heaviest, axis_name)
  low, high = (jnp.where(jnp.isfinite(edge), edge, 0.0) for edge in (low, high))
  middle, radius = low / 2 + high / 2, high / 2 - low / 2
  shifted = radius <= jnp.abs(middle) / 2
  origin = jnp.where(shifted, middle, 0.0)
  reach = jnp.max(jnp.where(shifted, radius, jnp.maximum(jnp.abs(low), jnp.abs(high))))
  if near is not None:
    reach = jnp.maximum(reach, jnp.min(jnp.max(jnp.abs(near - origin), axis=1)))
  return Frame(origin, _scale(reach, _RADII, 30), _scale(heaviest, _MASSES, 0))


def _scale(size: Array, usual: tuple[float, float], target: int) -> Array:
  """Returns the power of two that brings `size` to about 2^target; 1 inside the `usual` range."""
  _, exponent = jnp.frexp(size)
  scale = jnp.ldexp(jnp.ones_like(size), jnp.clip(target - exponent, -100, 100))
  kept = (size == 0) | ((usual[0] <= size) & (size <= usual[1]))
  return jnp.where(kept, 1.0, scale)


def into(frame: Frame, x: Array) -> Array:
  """Returns f32[..., D] in the coordinates of the frame, clipped to +-2^50."""
  return jnp.clip((x - frame.origin) * frame.scale, -_FAR, _FAR)


def out_of(frame: Frame, x: Array) -> Array:
  """Returns f32[..., D] of the frame in the coordinates of the points."""
  return x / frame.scale + frame.origin


def unscaled(squares: Array, scale: Array, mass: Array | float = 1.0) -> Any:
  """Returns squares f32[...] of the frame in the units of the points.

  The result is f32[...]; outside jit it is NumPy's f64[...] where float32 cannot hold the values.
  """
  result = squares / scale / scale / mass
  if isinstance(result, jax.core.Tracer) or (float(scale) == 1 and float(mass) == 1):
    return result
  wide = np.asarray(squares, np.float64) / (float(scale) ** 2 * float(mass))
  fits = (np.abs(wide) < _FLOAT32_RANGE[1]) & ((np.abs(wide) > _FLOAT32_RANGE[0]) | (wide == 0))
  return result if fits.all() else wide
