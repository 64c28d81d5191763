"""What can be clustered: points, weights and centroids as f32 arrays, checked."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, CodecError

_TINY, _HUGE = 2.0**-100, 2.0**100  # Between them f32 has all of its digits, and XLA keeps them.


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
  with jax.ensure_compile_time_eval():  # Known values, though it may be inside jit.
    return bool(_finite(x))


def _numbers(array: Any, what: str) -> Any:
  """An array of real numbers. Raises CodecError for anything else."""
  if isinstance(array, jax.core.Tracer | jax.Array | np.ndarray):
    found = array
  else:
    try:
      found = np.asarray(array)
    except ValueError as error:
      raise CodecError(f'{what} must be an array of numbers: {error}') from error
  dtype = found.dtype
  if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
    raise CodecError(f'{what} must be real numbers, got {dtype}')
  return found


class Wide(NamedTuple):
  """Points that f32 cannot hold as they are, moved and scaled in f64 so that it can."""

  points: np.ndarray  # f32[N, D].
  origin: np.ndarray  # f64[D].
  exponent: int  # points = (given - origin) * 2^-exponent

  def into(self, given: Any) -> np.ndarray:
    """Centroids in the coordinates of `points`; what is too far for f32 is only far."""
    moved = np.asarray(given, np.float64) - self.origin
    return np.clip(np.ldexp(moved, -self.exponent), -1e30, 1e30).astype(np.float32)

  def out_of(self, centroids: Any) -> np.ndarray:
    """Centroids f64[K, D] in the coordinates that were given."""
    return np.ldexp(np.asarray(centroids, np.float64), self.exponent) + self.origin

  def squares(self, found: Any) -> np.ndarray:
    """Squared distances f64[...] in the coordinates that were given."""
    with np.errstate(over='ignore'):
      return np.ldexp(np.asarray(found, np.float64), 2 * self.exponent)


def widened(points: Any) -> Wide | None:
  """Points of more digits or a wider range than f32, in f32; None where that holds them.

  Cells of a column that lie within 2^-8 of its size would share too few digits.
  """
  if not _known(points):
    return None
  given = _numbers(points, 'points')
  if isinstance(given, jax.Array) and given.dtype == jnp.float32:
    return None  # It stays on its device.
  given = np.asarray(given)
  small = given.dtype.itemsize <= 2 or given.ndim != 2 or not given.size
  if small or (given.dtype == np.float32 and np.abs([given.min(), given.max()]).max() > _TINY):
    return None
  wide = given.astype(np.float64)
  low, high = wide.min(0), wide.max(0)
  if not np.isfinite([low, high]).all():
    return None  # `checked_points` refuses it.
  size, spread = np.maximum(np.abs(low), np.abs(high)), high / 2 - low / 2
  held = _TINY < size.max() < _HUGE or not size.any()
  if held and (np.all((spread > size * 2.0**-9) | (size == 0)) or _exact(wide)):
    return None
  origin = np.where(spread <= size * 2.0**-9, low / 2 + high / 2, 0.0)
  exponent = int(np.frexp(np.abs(wide - origin).max())[1])
  moved = np.ldexp(wide - origin, -exponent).astype(np.float32)
  return Wide(np.ascontiguousarray(moved), origin, exponent)


def _exact(wide: np.ndarray) -> bool:
  return bool((wide.astype(np.float32) == wide).all())


def checked_points(points: Any, weights: Any) -> tuple[Array, Array]:
  """Points and weights as f32 arrays. Raises CodecError for what cannot be clustered."""
  points = _numbers(points, 'points')
  given = points if _in_place(points) else jnp.asarray(points, jnp.float32)
  points = jax.device_put(given, may_alias=True) if _in_place(given) else given
  if points.ndim != 2 or 0 in points.shape:
    raise CodecError(f'points must be a non-empty [N, D] array, got shape {points.shape}')
  if _known(given) and not _all_finite(given):
    raise CodecError('points must be finite, got NaN or infinity')
  if weights is None:
    return points, jnp.ones(points.shape[0])
  weights = _numbers(weights, 'weights')
  weights = jnp.asarray(weights, jnp.float32)
  if weights.shape != points.shape[:1]:
    raise CodecError(f'weights must have shape {points.shape[:1]}, got {weights.shape}')
  if _known(weights):
    values = np.asarray(weights)
    if not (np.isfinite(values) & (values >= 0)).all():
      raise CodecError(f'weights must be finite and not negative, got {float(values.min())}')
    if not (values > 0).any():
      raise CodecError('some point must have a weight above 0')
  return points, weights


def checked_start(start: Any, d: int, dtype: Any = np.float32) -> Any:
  """Centroids [K, d], of NumPy where they are to be f64. Raises CodecError where they are not."""
  given = _numbers(start, 'centroids')
  start = np.asarray(given, dtype) if dtype == np.float64 else jnp.asarray(given, dtype)
  if start.ndim != 2 or start.shape[0] < 1 or start.shape[1] != d:
    raise CodecError(f'centroids must have shape [K, {d}] with K >= 1, got {start.shape}')
  if _known(start) and not np.isfinite(np.asarray(start)).all():
    raise CodecError('centroids must be finite, got NaN or infinity')
  return start


def check_count(name: str, value: Any, least: int) -> None:
  """Raises CodecError where a number of things is no whole number of at least `least`."""
  if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < least:
    raise CodecError(f'{name} must be a whole number of at least {least}, got {value!r}')
