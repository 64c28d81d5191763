"""Entropy coding of symbols by integer tables, on constriction's range coder.

A table is a row of non-negative integer counts, held as float64 so that every
step of the coder's arithmetic is exact and the same on all machines. Their sum
must stay below 2**53; a symbol with count 0 costs about 24 bits.
"""

import math
from typing import Any

import constriction
import numpy as np

from compress_jax.codec import CodecError

Ints = np.ndarray  # i64[...]
Tables = np.ndarray  # f64[N, K] or f64[K], integers.

_FAMILY = constriction.stream.model.Categorical(perfect=False)
_BIT = np.ones(2)
_ESCAPE_WIDTHS = 11  # Escaped numbers have up to 10 bits after their leading one.
_PRECISION = 2.0**24  # The unit of constriction's probabilities is 1 / _PRECISION.
_SLACK_BITS = 96.0  # Bits that the coder may read past the last word.


def ideal_bits(symbols: Ints, tables: Tables) -> Ints:
  """Returns f64[N], the code length of each symbol: -log2 of its share of its table.

  The coder reserves one of 2^24 parts for every symbol and divides the others by the counts.
  """
  chosen = tables[symbols] if tables.ndim == 1 else tables[np.arange(len(symbols)), symbols]
  free = _PRECISION - tables.shape[-1]
  return 24 - np.log2(chosen / tables.sum(-1) * free + 1)


def _model(tables: Tables) -> tuple[Any, ...]:
  """Returns constriction's arguments beside the symbols; f64[K] is not copied N times."""
  tables = np.ascontiguousarray(tables)
  if tables.ndim == 1:
    return (constriction.stream.model.Categorical(tables, perfect=False),)
  return (_FAMILY, tables)


class Writer:
  """Collects symbols; `finish` returns the bytes."""

  def __init__(self) -> None:
    self._coder = constriction.stream.queue.RangeEncoder()

  def put(self, symbols: Ints, tables: Tables) -> None:
    """Codes symbols i64[N] by tables f64[N, K], or all by one table f64[K]."""
    assert tables.min(initial=0) >= 0  # Rows without a positive sum are constriction's own error.
    self._coder.encode(np.asarray(symbols, np.int32), *_model(tables))

  def put_bits(self, value: int, width: int) -> None:
    """Codes the low `width` bits of a number, most significant first."""
    self.put(np.array([value >> i & 1 for i in reversed(range(width))], np.int64), _BIT)

  def put_escapes(self, values: Ints, *, widths: int = _ESCAPE_WIDTHS) -> None:
    """Codes i64[N], 0..2^widths - 2: the number of bits of each, then the bits from the highest."""
    values = np.asarray(values, np.int64) + 1
    width = np.frexp(values)[1] - 1
    self.put(width, np.ones(widths))
    for bit in reversed(range(width.max(initial=0))):
      self.put(values[width > bit] >> bit & 1, _BIT)

  def finish(self) -> bytes:
    """Returns little-endian words without the zero bytes that end the last one."""
    data = self._coder.get_compressed().astype('<u4').tobytes()
    last = data[-4:].rstrip(b'\0') or data[-4:-3]
    return data[:-4] + last


class Reader:
  """Decodes symbols that a Writer coded; `bits` is the code length read so far."""

  def __init__(self, data: bytes) -> None:
    words = np.frombuffer(data + bytes(-len(data) % 4), '<u4').astype(np.uint32)
    self._coder = constriction.stream.queue.RangeDecoder(words)
    self._padded = data.endswith(b'\0') and len(data) % 4 != 1  # No encoder writes such an end.
    self._limit = 32 * len(words) + _SLACK_BITS
    self.bits = 0.0

  def get(self, tables: Tables, n: int | None = None) -> Ints:
    """Decodes i64[N] by tables f64[N, K], or `n` symbols by one table f64[K].

    Raises:
      CodecError: the data holds fewer symbols than that.
    """
    if not (len(tables) if n is None else n):
      return np.zeros(0, np.int64)
    model = _model(tables)
    amount = (n,) if tables.ndim == 1 else ()
    try:
      symbols = self._coder.decode(*model, *amount).astype(np.int64)
    except AssertionError:  # constriction raises it where no symbol has such a code.
      raise CodecError('payload does not decode: the file is damaged') from None
    self.bits += float(ideal_bits(symbols, tables).sum())
    # The coder returns arbitrary symbols past the end. 1 %: its probabilities are rounded.
    if self.bits > 1.01 * self._limit:
      raise CodecError('payload ends early: the file is damaged')
    return symbols

  def get_bits(self, width: int) -> int:
    """Decodes the number that `put_bits` coded."""
    value = 0
    for bit in self.get(_BIT, width):
      value = value << 1 | int(bit)
    return value

  def get_escapes(self, n: int, *, widths: int = _ESCAPE_WIDTHS) -> Ints:
    """Decodes i64[n] that `put_escapes` coded."""
    width, values = self.get(np.ones(widths), n), np.ones(n, np.int64)
    for bit in reversed(range(width.max(initial=0))):
      longer = width > bit
      values[longer] = values[longer] << 1 | self.get(_BIT, int(longer.sum()))
    return values - 1

  def finish(self) -> None:
    """Raises CodecError unless the payload ends where the last symbol does.

    An added word may remain undetected if the checksum was corrected too.
    """
    if self._padded or not self._coder.maybe_exhausted():
      raise CodecError('payload has bytes left over: the file is damaged')


def entropy_floor(tables: Tables, shift: int = 9) -> Tables:
  """Returns tables with at least 2^-shift of each row's peak added, spread over its symbols.

  Every symbol then costs bits, so the length of a payload bounds the number
  of symbols in it, and a small file cannot claim a large image.
  """
  peak = tables.max(-1, keepdims=True)
  return tables + np.floor(peak / (tables.shape[-1] * 2.0**shift)) + 1


def geometric(mean: float, size: int) -> Tables:
  """Returns f64[size], integer counts of a geometric distribution of about this mean."""
  # Multiplication and floor of doubles are the same everywhere; powers are not.
  ratio = math.floor(65536 * mean / (1 + mean)) / 65536
  counts = np.empty(size)
  value = 2.0**24
  for i in range(size):
    counts[i] = math.floor(value) + 1
    value = value * ratio
  return counts
