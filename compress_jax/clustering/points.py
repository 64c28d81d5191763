"""Checks of what is to be clustered: points, weights and centroids become f32 arrays."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, CodecError

P = ParamSpec('P')
R = TypeVar('R')
_TINY, _HUGE = 2.0**-100, 2.0**100  # In this range f32 has full precision, and XLA keeps it.


def in_32_bits(call: Callable[P, R]) -> Callable[P, R]:
  """Returns the function as it is where `jax_enable_x64` is off, as points become f32 anyway."""

  @functools.wraps(call)
  def called(*args: P.args, **options: P.kwargs) -> R:
    with jax.enable_x64(False):
      return call(*args, **options)

  return called


def _known(array: Any) -> bool:
  """Returns whether the values of an array can be read: they cannot inside jit, vmap or pmap."""
  return not isinstance(array, jax.core.Tracer)


def _in_place(array: Any) -> bool:
  """Returns whether JAX may read this array without a copy: on a CPU it does, if it is aligned."""
  return isinstance(array, np.ndarray) and array.dtype == np.float32


def finished(result: Any, source: Any) -> Any:
  """Returns `result`, computed to its end if `source` may be read in place.

  The owner of `source` may change it once the call has returned.
  """
  return jax.block_until_ready(result) if _in_place(source) else result


@jax.jit
def _finite(x: Array) -> Array:
  """Returns bool[], whether all values are finite; jit stores no mask of the size of x."""
  return jnp.all(jnp.isfinite(x))


def _all_finite(x: Any) -> bool:
  """Returns whether all values are finite.

  NumPy arrays need neither a compiler nor a mask: minimum and maximum propagate NaN.
  """
  if isinstance(x, np.ndarray):
    return bool(np.isfinite([x.min(), x.max()]).all())
  with jax.ensure_compile_time_eval():  # Known values, though it may be inside jit.
    return bool(_finite(x))


def _numbers(array: Any, name: str) -> Any:
  """Returns an array of real numbers. Raises CodecError for anything else."""
  if isinstance(array, jax.core.Tracer | jax.Array | np.ndarray):
    numbers = array
  else:
    try:
      numbers = np.asarray(array)
    except ValueError as error:
      raise CodecError(f'{name} must be an array of numbers: {error}') from error
  dtype = numbers.dtype
  if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
    raise CodecError(f'{name} must be real numbers, got {dtype}')
  return numbers


class Wide(NamedTuple):
  """Points that f32 cannot hold as they are, shifted and scaled in f64 so that it can."""

  points: np.ndarray  # f32[N, D].
  origin: np.ndarray  # f64[D].
  exponent: int  # points = (the caller's points - origin) * 2^-exponent.

  def into(self, centroids: Any) -> np.ndarray:
    """Returns centroids in the coordinates of `points`, clipped to +-1e30."""
    shifted = np.asarray(centroids, np.float64) - self.origin
    return np.clip(np.ldexp(shifted, -self.exponent), -1e30, 1e30).astype(np.float32)

  def out_of(self, centroids: Any) -> np.ndarray:
    """Returns centroids f64[K, D] in the coordinates of the caller."""
    return np.ldexp(np.asarray(centroids, np.float64), self.exponent) + self.origin

  def squares(self, squares: Any) -> np.ndarray:
    """Returns squared distances f64[...] in the coordinates of the caller."""
    with np.errstate(over='ignore'):
      return np.ldexp(np.asarray(squares, np.float64), 2 * self.exponent)


def rescaled(points: Any) -> Wide | None:
  """Returns points of more digits or a wider range than f32 as a `Wide`; None where f32 holds them.

  Columns whose values lie within 2^-8 of their magnitude would keep too few digits in f32.
  """
  if not _known(points):
    return None
  array = _numbers(points, 'points')
  if isinstance(array, jax.Array) and array.dtype == jnp.float32:
    return None  # It stays on its device.
  array = np.asarray(array)
  small = array.dtype.itemsize <= 2 or array.ndim != 2 or not array.size
  if small or (array.dtype == np.float32 and np.abs([array.min(), array.max()]).max() > _TINY):
    return None
  wide = array.astype(np.float64)
  low, high = wide.min(0), wide.max(0)
  if not np.isfinite([low, high]).all():
    return None  # `checked_points` refuses it.
  size, spread = np.maximum(np.abs(low), np.abs(high)), high / 2 - low / 2
  in_range = _TINY < size.max() < _HUGE or not size.any()
  if in_range and (np.all((spread > size * 2.0**-9) | (size == 0)) or _exact(wide)):
    return None
  origin = np.where(spread <= size * 2.0**-9, low / 2 + high / 2, 0.0)
  exponent = int(np.frexp(np.abs(wide - origin).max())[1])
  shifted = np.ldexp(wide - origin, -exponent).astype(np.float32)
  return Wide(np.ascontiguousarray(shifted), origin, exponent)


def _exact(wide: np.ndarray) -> bool:
  return bool((wide.astype(np.float32) == wide).all())


def checked_points(points: Any, weights: Any) -> tuple[Array, Array]:
  """Returns points and weights as f32 arrays. Raises CodecError for what cannot be clustered."""
  points = _numbers(points, 'points')
  array = points if _in_place(points) else jnp.asarray(points, jnp.float32)
  points = jax.device_put(array, may_alias=True) if _in_place(array) else array
  if points.ndim != 2 or 0 in points.shape:
    raise CodecError(f'points must be a non-empty [N, D] array, got shape {points.shape}')
  if _known(array) and not _all_finite(array):
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
  """Returns centroids [K, d] as an array of JAX, or of NumPy for float64.

  Raises:
    CodecError: the shape is another, or a value is not finite.
  """
  array = _numbers(start, 'centroids')
  start = np.asarray(array, dtype) if dtype == np.float64 else jnp.asarray(array, dtype)
  if start.ndim != 2 or start.shape[0] < 1 or start.shape[1] != d:
    raise CodecError(f'centroids must have shape [K, {d}] with K >= 1, got {start.shape}')
  if _known(start) and not np.isfinite(np.asarray(start)).all():
    raise CodecError('centroids must be finite, got NaN or infinity')
  return start


def check_count(name: str, value: Any, least: int) -> None:
  """Raises CodecError where `value` is not a whole number of at least `least`."""
  if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < least:
    raise CodecError(f'{name} must be a whole number of at least {least}, got {value!r}')
