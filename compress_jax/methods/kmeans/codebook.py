"""Coding of a codebook: each codeword is a quantised 4x4 colour transform.

Codewords are sorted by mean and their means coded as differences. The other 47
coefficients of all codewords are coded one frequency at a time, in the context
of the frequencies before; counts start from a table made on training images and
adapt. The quantiser step of a codeword follows its number of uses: error in a
codeword that a hundred blocks share costs a hundred times as much.
"""

from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.codec import CodecError

Ints = np.ndarray
_SIZE_BITS = 12
MAX_SIZE = 1 << _SIZE_BITS

# Orthonormal DCT-II of length 4, and luma / chroma axes of RGB, times 2^14.
_DCT = np.array(
  [
    [8192, 8192, 8192, 8192],
    [10703, 4433, -4433, -10703],
    [8192, -8192, -8192, 8192],
    [4433, -10703, 10703, -4433],
  ]
)
RGB_AXES = np.array([[9459, 9459, 9459], [11585, 0, -11585], [6689, -13377, 6689]])
_SHIFT = 14
_STEPS = np.array([4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128])  # 4 * 2^(i/2)
_ORDER = sorted(((u, v) for u in range(4) for v in range(4)), key=lambda at: (sum(at), at))
_TOP = 15  # Larger magnitudes, and this one, are coded with an escape.
_MEAN_TOP = 63
_MEAN_CHUNKS = (8, 8, 16, 32, 64)  # Symbols that share a table, which adapts in between.
_MAGNITUDE_BINS = np.array([1, 2, 3, 5, 8, 14])
CONTEXTS = (3, 5, len(_MAGNITUDE_BINS) + 1, _TOP + 1)
_ADAPT = 32.0  # Count that one symbol adds; a prior row sums to that of about 20 symbols.


class Quantised(NamedTuple):
  """A quantised codebook as the file holds it, sorted by mean."""

  means: Ints  # i64[K], in units of the coarsest common step, ascending.
  steps: Ints  # i64[K], indices into the table of steps.
  levels: Ints  # i64[K, 4, 4, C]; [:, 0, 0, 0] is 0: the mean is coded separately.
  mean_step: int  # Index into the table of steps.


def coefficients(codewords: np.ndarray, axes: Ints) -> np.ndarray:
  """Returns the orthonormal transform of f64[K, 4, 4, C], same shape."""
  dct, axes = _DCT / 2.0**_SHIFT, axes / 2.0**_SHIFT
  return np.einsum('ux,vy,kc,nxyc->nuvk', dct, dct, axes, codewords, optimize=True)


def reconstruct(book: Quantised, axes: Ints) -> Ints:
  """Returns i64[K, 4, 4, C], 0..255: the codewords that decoder and encoder use."""
  x = book.levels * _STEPS[book.steps][:, None, None, None]
  x[:, 0, 0, 0] = book.means * _STEPS[book.mean_step]
  for axis, basis in ((1, _DCT), (2, _DCT), (3, axes)):
    # Keep 7 fractional bits between the stages.
    shift = _SHIFT - 7 if axis == 1 else _SHIFT + 7 if axis == 3 else _SHIFT
    x = np.moveaxis(np.moveaxis(x, axis, -1) @ basis, -1, axis)
    x = (x + (1 << shift - 1)) >> shift
  return np.clip(x, 0, 255)


def _step_index(step: np.ndarray) -> Ints:
  index = np.rint(2 * np.log2(np.maximum(step, 1e-9) / _STEPS[0]))
  return np.clip(index, 0, len(_STEPS) - 1).astype(np.int64)


def _best_step(price: np.ndarray) -> Ints:
  """Returns indices of uniform quantiser steps where a unit of squared error costs `price` bits.

  High-rate theory: D = step^2 / 12 and dD/dR = -2 ln2 D. The factor 1.4 allows for the dead
  zone; it was fitted on training images.
  """
  return _step_index(1.4 * np.sqrt(6 / (np.log(2) * np.maximum(price, 1e-12))))


def _contexts(levels: Ints, u: int, v: int, k: int) -> Ints:
  """Returns i64[K], the size class of the neighbours of coefficient (u, v, k)."""
  size = np.abs(levels)
  near = np.zeros(len(levels), np.int64)
  if u:
    near += 2 * size[:, u - 1, v, k]
  if v:
    near += 2 * size[:, u, v - 1, k]
  if u and v:
    near += size[:, u - 1, v - 1, k]
  for other in range(k):
    near += size[:, u, v, other]
  return np.searchsorted(_MAGNITUDE_BINS, near, side='right')


def positions(channels: int) -> list[tuple[int, int, int]]:
  """Returns every (u, v, channel) except that of the mean, low frequencies first."""
  return [(u, v, k) for u, v in _ORDER for k in range(channels) if (u, v, k) != (0, 0, 0)]


def _rows(counts: np.ndarray, u: int, v: int, k: int) -> np.ndarray:
  return counts[k, min(u + v, CONTEXTS[1] - 1)]


def _choose(x: np.ndarray, price: np.ndarray, rows: np.ndarray) -> Ints:
  """Returns levels for coefficients `x`, in steps.

  Each is rounded, one lower or zero, whichever costs least.
  """
  bits = -np.log2(rows / rows.sum(-1, keepdims=True))
  rounded = np.rint(np.abs(x)).astype(np.int64)
  n = np.arange(len(x))
  cost = []
  candidates = [rounded, np.maximum(rounded - 1, 0), np.zeros_like(rounded)]
  for size in candidates:
    escape = np.where(size >= _TOP, 2 * np.log2(np.maximum(size - _TOP + 1, 1)) + 1, 0)
    rate = bits[n, np.minimum(size, _TOP)] + (size > 0) + escape
    cost.append(price * (np.abs(x) - size) ** 2 + rate)
  best = np.choose(np.argmin(cost, 0), candidates)
  return np.where(x < 0, -best, best)


def _adapt(counts: np.ndarray, context: Ints, symbols: Ints) -> None:
  np.add.at(counts, (context, symbols), _ADAPT)


def quantise(
  codewords: np.ndarray, uses: np.ndarray, price: np.ndarray, prior: np.ndarray, axes: Ints
) -> Quantised:
  """Returns the quantised codebook with the least bits + price * uses * squared error.

  Args:
    codewords: f64[K, 4, 4, C].
    uses: f64[K], number of blocks that each codeword stands for.
    price: f64[C], bits per unit of squared error along each colour axis.
    prior: f64[CONTEXTS], initial counts.
    axes: i64[C, C], orthonormal colour axes times 2^14.
  """
  x = coefficients(codewords, axes)
  order = np.argsort(x[:, 0, 0, 0], kind='stable')
  x, uses = x[order], np.maximum(uses[order], 0.5)
  mean_step = int(_best_step(price[0] * np.median(uses, keepdims=True))[0])
  steps = _best_step(price.mean() * uses)
  means = np.rint(np.maximum(x[:, 0, 0, 0], 0) / _STEPS[mean_step]).astype(np.int64)
  levels = np.zeros(x.shape, np.int64)
  squared = uses * _STEPS[steps].astype(np.float64) ** 2
  counts = prior.astype(np.float64)
  for u, v, k in positions(x.shape[-1]):
    context, table = _contexts(levels, u, v, k), _rows(counts, u, v, k)
    exact = x[:, u, v, k] / _STEPS[steps]
    levels[:, u, v, k] = _choose(exact, price[k] * squared, table[context])
    _adapt(table, context, np.minimum(np.abs(levels[:, u, v, k]), _TOP))
  return Quantised(means, steps, levels, mean_step)


def _chunks(n: int) -> list[slice]:
  starts: list[slice] = []
  at = 0
  while at < n:
    size = _MEAN_CHUNKS[min(len(starts), len(_MEAN_CHUNKS) - 1)]
    starts.append(slice(at, min(at + size, n)))
    at += size
  return starts


def _mean_counts(size: int) -> np.ndarray:
  """Returns counts of the differences of means, for means spread over about 0..1767 / 16 steps."""
  return np.floor(coder.geometric(110 / size, _MEAN_TOP + 1) / 2.0**15) + 1


def _step_counts(common: int) -> np.ndarray:
  distance = np.abs(np.arange(len(_STEPS)) - common)
  return np.floor(512.0 / (1 + distance * distance)) + 1


def write(writer: coder.Writer, book: Quantised, prior: np.ndarray) -> None:
  """Codes size, means, steps and levels of a codebook."""
  size = len(book.means)
  writer.put_bits(size - 1, _SIZE_BITS)
  writer.put_bits(book.mean_step, 4)
  jumps = np.diff(book.means, prepend=0)
  _write_adaptive(writer, np.minimum(jumps, _MEAN_TOP), _mean_counts(size))
  writer.put_escapes(jumps[jumps >= _MEAN_TOP] - _MEAN_TOP)
  _write_adaptive(writer, book.steps, _step_counts(book.mean_step))
  counts = prior.astype(np.float64)
  for u, v, k in positions(book.levels.shape[-1]):
    level = book.levels[:, u, v, k]
    context, table = _contexts(book.levels, u, v, k), _rows(counts, u, v, k)
    symbols = np.minimum(np.abs(level), _TOP)
    writer.put(symbols, table[context])
    writer.put_escapes(np.abs(level[symbols == _TOP]) - _TOP)
    writer.put((level[level != 0] < 0).astype(np.int64), np.ones(2))
    _adapt(table, context, symbols)


def read(reader: coder.Reader, channels: int, most: int, prior: np.ndarray) -> Quantised:
  """Decodes a codebook that `write` coded.

  Raises:
    CodecError: the data is damaged, or has more than `most` codewords.
  """
  size = reader.get_bits(_SIZE_BITS) + 1
  if size > most:
    raise CodecError(f'{size} codewords for {most} blocks: the file is damaged')
  mean_step = reader.get_bits(4)
  if mean_step >= len(_STEPS):
    raise CodecError(f'no step has the number {mean_step}: the file is damaged')
  jumps = _read_adaptive(reader, size, _mean_counts(size))
  jumps[jumps == _MEAN_TOP] += reader.get_escapes(int((jumps == _MEAN_TOP).sum()))
  steps = _read_adaptive(reader, size, _step_counts(mean_step))
  levels = np.zeros((size, 4, 4, channels), np.int64)
  counts = prior.astype(np.float64)
  for u, v, k in positions(channels):
    context, table = _contexts(levels, u, v, k), _rows(counts, u, v, k)
    symbols = reader.get(table[context])
    values = symbols.copy()
    values[symbols == _TOP] += reader.get_escapes(int((symbols == _TOP).sum()))
    used = values != 0
    values[used] *= 1 - 2 * reader.get(np.ones(2), int(used.sum()))
    levels[:, u, v, k] = values
    _adapt(table, context, symbols)
  return Quantised(np.cumsum(jumps), steps, levels, mean_step)


def _write_adaptive(writer: coder.Writer, symbols: Ints, counts: np.ndarray) -> None:
  for part in _chunks(len(symbols)):
    writer.put(symbols[part], counts)
    counts = counts + _ADAPT * np.bincount(symbols[part], minlength=len(counts))


def _read_adaptive(reader: coder.Reader, n: int, counts: np.ndarray) -> Ints:
  symbols = np.zeros(n, np.int64)
  for part in _chunks(n):
    symbols[part] = reader.get(counts, part.stop - part.start)
    counts = counts + _ADAPT * np.bincount(symbols[part], minlength=len(counts))
  return symbols


def count(book: Quantised, counts: np.ndarray) -> None:
  """Adds the symbols of a codebook to the counts f64[CONTEXTS] that train a prior."""
  for u, v, k in positions(book.levels.shape[-1]):
    symbols = np.minimum(np.abs(book.levels[:, u, v, k]), _TOP)
    np.add.at(_rows(counts, u, v, k), (_contexts(book.levels, u, v, k), symbols), 1)


def flat_prior() -> np.ndarray:
  """Returns untrained initial counts, f64[CONTEXTS], which halve with each size."""
  row = np.floor(512 * 0.5 ** np.arange(_TOP + 1)) + 8
  return np.broadcast_to(row, CONTEXTS).copy()
