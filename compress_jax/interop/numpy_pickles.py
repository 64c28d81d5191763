"""Reading of NumPy arrays in pickles as data: nothing in the file is run.

An array is pickled as a call of `_reconstruct(ndarray, (0,), b'b')`, whose result gets the state
(version, shape, dtype, whether in Fortran's order, bytes); a dtype as a call of
`dtype('f4', False, True)` with a state whose second entry is the order of bytes
(numpy/core/src/multiarray/methods.c, array_reduce and array_setstate; descriptor.c,
arraydescr_setstate).
"""

import math
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from compress_jax.codec import CodecError
from compress_jax.interop import pickles

_TYPES = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1')
_ORDERS = ('<', '>', '|', '=')
_MAX_SIDE = 2**40  # Larger sides are refused as damage.


class _Type:
  """A dtype that is being read."""

  def __init__(self, kind: Any = None, *_: Any) -> None:
    if kind not in _TYPES:
      shown = repr(kind[:40]) if isinstance(kind, str) else type(kind).__name__
      raise CodecError(f'refused: an array holds {shown}, not numbers')
    self.dtype = np.dtype(kind)

  def build(self, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) < 2 or state[1] not in _ORDERS:
      raise CodecError('damaged pickle: a dtype has no order of bytes')
    self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
  """An array that is being read."""

  def __init__(self, *_: Any) -> None:
    self.value: np.ndarray | None = None

  def build(self, state: Any) -> None:
    if not isinstance(state, tuple) or len(state) != 5:
      raise CodecError('damaged pickle: an array has no state')
    _, shape, kind, fortran, data = state
    if not isinstance(kind, _Type) or not isinstance(data, bytes) or not _is_shape(shape):
      raise CodecError('damaged pickle: an array is not described by shape, type and bytes')
    if math.prod(shape) * kind.dtype.itemsize != len(data):
      raise CodecError(f'damaged pickle: {len(data)} bytes are no array of {shape}')
    flat = np.frombuffer(data, kind.dtype)
    self.value = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


# NumPy 2 has moved the module, and reads and writes both names.
_NAMES: pickles.Names = {
  'numpy.ndarray': None,
  'numpy.dtype': _Type,
  'numpy.core.multiarray._reconstruct': _Array,
  'numpy._core.multiarray._reconstruct': _Array,
}


def load(stream: IO[bytes], *, max_bytes: int | None = None) -> dict[str, np.ndarray]:
  """Returns the arrays of a nested table by their paths, such as 'AlexNet_0/Conv_0/kernel'.

  Arrays are read-only views of bytes of the stream.

  Raises:
    CodecError: not the pickle of such a table, a damaged one, one of more than `max_bytes`,
      or one that asks for more than arrays.
  """
  table = pickles.load(stream, names=_NAMES, build=_build, max_bytes=max_bytes)
  if not isinstance(table, dict):
    raise CodecError(f'pickle of a {type(table).__name__}, not of a table of arrays')
  return dict(_flat(table))


def _build(value: Any, state: Any) -> None:
  if isinstance(value, _Type | _Array):
    value.build(state)


def _is_shape(shape: Any) -> bool:
  sides = shape if isinstance(shape, tuple) else (None,)
  return len(sides) <= 8 and all(type(n) is int and 0 <= n < _MAX_SIDE for n in sides)


def _flat(
  table: Mapping[Any, Any], prefix: str = '', depth: int = 0
) -> list[tuple[str, np.ndarray]]:
  arrays: list[tuple[str, np.ndarray]] = []
  for key, value in table.items():
    if isinstance(value, dict) and depth < 8:
      arrays += _flat(value, f'{prefix}{key}/', depth + 1)
    elif isinstance(value, _Array) and value.value is not None:
      arrays.append((f'{prefix}{key}', value.value))
    else:
      raise CodecError(f'{prefix}{key} of the pickle is no array')
  return arrays
