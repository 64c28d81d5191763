"""What can be clustered: points, weights and centroids as f32 arrays, checked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, CodecError


def _known(array: Any) -> bool:
  """Whether values can be looked at: not inside jit, vmap or pmap."""
  return not isinstance(array, jax.core.Tracer)


def _in_place(array: Any) -> bool:
  """Whether JAX may read this array where it lies: it does so on a CPU, if it is aligned."""
  return isinstance(array, np.ndarray) and array.dtype == np.float32


def settled(result: Any, given: Any) -> Any:
  """`result`, finished if `given` may be read in place: its owner may change it from now on."""
  return jax.block_until_ready(result) if _in_place(given) else result


@jax.jit
def _finite(x: Array) -> Array:
  """bool[]; jitted so that no mask of the size of x is stored."""
  return jnp.all(jnp.isfinite(x))


def _all_finite(x: Any) -> bool:
  """Least and greatest pass NaN on; for NumPy arrays they need neither a compiler nor a mask."""
  if isinstance(x, np.ndarray):
    return bool(np.isfinite([x.min(), x.max()]).all())
  return bool(_finite(x))


def checked_points(points: Any, weights: Any) -> tuple[Array, Array]:
  """Points and weights as f32 arrays. Raises CodecError for what cannot be clustered."""
  given = points if _in_place(points) else jnp.asarray(points, jnp.float32)
  points = jax.device_put(given, may_alias=True) if _in_place(given) else given
  if points.ndim != 2 or 0 in points.shape:
    raise CodecError(f'points must be a non-empty [N, D] array, got shape {points.shape}')
  if _known(given) and not _all_finite(given):
    raise CodecError('points must be finite, got NaN or infinity')
  if weights is None:
    return points, jnp.ones(points.shape[0])
  weights = jnp.asarray(weights, jnp.float32)
  if weights.shape != points.shape[:1]:
    raise CodecError(f'weights must have shape {points.shape[:1]}, got {weights.shape}')
  if _known(weights) and not bool((jnp.isfinite(weights) & (weights >= 0)).all()):
    raise CodecError(f'weights must be finite and not negative, got {float(jnp.min(weights))}')
  return points, weights


def checked_start(start: Any, d: int) -> Array:
  """Centroids f32[K, d]. Raises CodecError where they are not."""
  start = jnp.asarray(start, jnp.float32)
  if start.ndim != 2 or start.shape[0] < 1 or start.shape[1] != d:
    raise CodecError(f'centroids must have shape [K, {d}] with K >= 1, got {start.shape}')
  if _known(start) and not bool(jnp.isfinite(start).all()):
    raise CodecError('centroids must be finite, got NaN or infinity')
  return start
