"""Integer tables and symbols to words and back, on constriction's range coder.

A table is a row of non-negative integer counts, held as float64 so that every
step of the coder's arithmetic is exact and the same on all machines. Their sum
must stay below 2**53; a symbol with count 0 costs about 24 bits.
"""

import math

import constriction
import numpy as np

from compress_jax.codec import CodecError

Ints = np.ndarray  # i64[...]
Tables = np.ndarray  # f64[N, K] or f64[K], integers.

_FAMILY = constriction.stream.model.Categorical(perfect=False)
_BIT = np.ones(2)
_MAX_ESCAPE_BITS = 24
_SLACK_BITS = 96.0  # What the coder may look ahead past the last word.


def ideal_bits(symbols: Ints, tables: Tables) -> Ints:
  """f64[N]: the code length of each symbol, -log2 of its share of its table."""
  chosen = np.take_along_axis(tables, symbols[:, None].astype(np.int64), -1)[:, 0]
  # The coder leaves no probability under 2^-24.
  return -np.log2(np.maximum(chosen / tables.sum(-1), 2.0**-24))


class Writer:
  """Collects symbols; `finish` returns the bytes."""

  def __init__(self) -> None:
    self._coder = constriction.stream.queue.RangeEncoder()

  def put(self, symbols: Ints, tables: Tables) -> None:
    """Codes i64[N] by f64[N, K], or all by one f64[K]."""
    symbols = np.asarray(symbols, np.int32)
    tables = np.broadcast_to(tables, (len(symbols), tables.shape[-1]))
    assert (tables.sum(-1) > 0).all() and (tables >= 0).all()
    self._coder.encode(symbols, _FAMILY, np.ascontiguousarray(tables))

  def put_bits(self, value: int, width: int) -> None:
    """Codes the low `width` bits of a number, most significant first."""
    self.put(np.array([value >> i & 1 for i in reversed(range(width))], np.int64), _BIT)

  def put_escape(self, value: int) -> None:
    """Codes a non-negative integer by an exponential Golomb code."""
    width = (value + 1).bit_length()
    self.put(np.array([0] * (width - 1) + [1], np.int64), _BIT)
    self.put_bits(value + 1, width - 1)

  def finish(self) -> bytes:
    """Little-endian words without the zero bytes that end the last one."""
    data = self._coder.get_compressed().astype('<u4').tobytes()
    last = data[-4:].rstrip(b'\0') or data[-4:-3]
    return data[:-4] + last


class Reader:
  """Reads what a Writer wrote; `bits` is the code length read so far."""

  def __init__(self, data: bytes) -> None:
    words = np.frombuffer(data + bytes(-len(data) % 4), '<u4').astype(np.uint32)
    self._coder = constriction.stream.queue.RangeDecoder(words)
    self._limit = 32 * len(words) + _SLACK_BITS
    self.bits = 0.0

  def get(self, tables: Tables, n: int | None = None) -> Ints:
    """i64[N] coded by f64[N, K], or `n` symbols coded by one f64[K].

    Raises:
      CodecError: the data holds fewer symbols than that.
    """
    tables = np.broadcast_to(tables, (len(tables) if n is None else n, tables.shape[-1]))
    if not len(tables):
      return np.zeros(0, np.int64)
    try:
      symbols = self._coder.decode(_FAMILY, np.ascontiguousarray(tables)).astype(np.int64)
    except AssertionError:  # How constriction says that no symbol has such a code.
      raise CodecError('payload does not decode: the file is damaged') from None
    self.bits += float(ideal_bits(symbols, tables).sum())
    if self.bits > self._limit:  # The coder itself invents symbols past the end.
      raise CodecError('payload ends early: the file is damaged')
    return symbols

  def get_bits(self, width: int) -> int:
    """The number that `put_bits` wrote."""
    value = 0
    for bit in self.get(_BIT, width):
      value = value << 1 | int(bit)
    return value

  def get_escape(self) -> int:
    """The integer that `put_escape` wrote.

    Raises:
      CodecError: it is longer than any that an encoder writes.
    """
    width = 0
    while not self.get(_BIT, 1)[0]:
      width += 1
      if width > _MAX_ESCAPE_BITS:
        raise CodecError('escape code without end: the file is damaged')
    return (1 << width | self.get_bits(width)) - 1

  def finish(self) -> None:
    """Raises CodecError unless the payload has been read to its end."""
    if not self._coder.maybe_exhausted():
      raise CodecError('payload has bytes left over: the file is damaged')


def entropy_floor(tables: Tables, shift: int = 9) -> Tables:
  """Adds at least 2^-shift of each row's peak to it, spread over its symbols.

  No symbol is then free of charge, so the length of a payload bounds the number
  of symbols in it, and a small file cannot claim a large image.
  """
  peak = tables.max(-1, keepdims=True)
  return tables + np.floor(peak / (tables.shape[-1] * 2.0**shift)) + 1


def geometric(mean: float, size: int) -> Tables:
  """f64[size]: integer counts that fall by the same factor, of about this mean."""
  # Multiplication and floor of doubles are the same everywhere; powers are not.
  ratio = math.floor(65536 * mean / (1 + mean)) / 65536
  counts = np.empty(size)
  value = 2.0**24
  for i in range(size):
    counts[i] = math.floor(value) + 1
    value = value * ratio
  return counts
