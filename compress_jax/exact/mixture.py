"""Discretised Gaussian mixtures as integer tables, and coding with them.

The model is that of Cheng et al. (CVPR 2020, section 3.3): a symbol's probability is the mass of a
mixture of Gaussians between its edges. Every value is an exact integer in float64, so that all
machines build the same tables.

A table covers the window in which nearly all of the mixture lies, and has an escape for the rest.
Symbols are in the stream in order of their table's size, then of position. After all symbols come
the sides of those that escaped, then their distances.
"""

import itertools
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.exact import escapes, tables

Ints = np.ndarray  # i64
Array = Any  # np.ndarray or jax.Array; f64, exact integers.

SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)  # Entries of a table; the last is the escape.
_FLOOR = 2.0**-14  # Share of the total that all entries of a table divide evenly.
_NEGLIGIBLE = 2.0**-12  # Components below this share of the largest weight widen no window.
_UNIT = 2.0**tables.FRACTION
_SIZES = np.array(SIZES)
_CHUNK = 2**15  # Table entries that are built at a time, so that they stay in the cache.
_GROUP = 2**20  # Table entries that `write_steps` keeps in memory.
# The least cost of a symbol, in bits: a table of the smallest size has its whole mass in one entry.
MIN_BITS = -math.log2((1 + _FLOOR / SIZES[0]) / (1 + _FLOOR))
_ENDING = 32  # Bits that the end of a stream may lack.


class Mixture(NamedTuple):
  """K weighted Gaussians for each of n symbols."""

  mean: Array  # f64[n, K], in 2^-8 symbols, at most 2^23 in magnitude.
  index: Array  # i64 or f64[n, K], 0..179: the scale is tables.SCALES[index].
  weight: Array  # f64[n, K], 0..2^15, one of each n positive.


def least_bits(n: int) -> float:
  """Returns the least bits of a payload that holds `n` symbols; it is negative for few symbols."""
  return n * MIN_BITS - _ENDING


def _columns(mixture: Mixture, xp: ModuleType = np) -> Mixture:
  """Returns the fields as arrays [K, n], contiguous for fast sums over K and indexing of n."""
  columns = (xp.asarray(field).T for field in mixture)
  return Mixture(*(map(np.ascontiguousarray, columns) if xp is np else columns))


def _terms(columns: Mixture, xp: ModuleType = np) -> Array:
  """Returns factor, offset and weight, f64[3, K, n].

  The place of an edge in PHI is edge * factor + offset.
  """
  factor = xp.asarray(tables.INV * 2.0**-16)[columns.index.astype(xp.int32)]
  offset = len(tables.PHI) // 2 + 0.5 - columns.mean * factor
  return xp.stack([factor, offset, columns.weight])


def _mass(terms: Array, edges: Array, xp: ModuleType = np) -> Array:
  """Returns the mixture's mass f64[L, n] below edges f64[L, n], times 2^24 * the weights."""
  factor, offset, weight = terms[:, :, None]
  places = xp.clip(edges * factor + offset, 0.0, len(tables.PHI) - 1.0)
  return (xp.take(xp.asarray(tables.PHI), places.astype(xp.int32), mode='clip') * weight).sum(0)


def cumulative(mixture: Mixture, edges: Array, xp: ModuleType = np) -> Array:
  """Returns the mass f64[n, L] below edges f64[n, L], times 2^24 * the weights.

  Edges are in units of 2^-8 symbols.
  """
  return _mass(_terms(_columns(mixture, xp), xp), edges.T, xp).T


def _counts(terms: Array, low: Array, size: int, xp: ModuleType = np) -> Array:
  """Returns the transpose f64[L, n] of `counts`."""
  edges = xp.arange(size)[:, None] * _UNIT + (low * _UNIT - _UNIT / 2)
  mass = _mass(terms, edges, xp)
  total = terms[2].sum(0) * 2.0**24
  escape = total - (mass[-1:] - mass[:1])
  floor = xp.floor(total * (_FLOOR / size)) + 1
  return xp.concatenate([mass[1:] - mass[:-1], escape]) + floor


def counts(mixture: Mixture, low: Array, size: int, xp: ModuleType = np) -> Array:
  """Returns tables f64[n, L]: the frequency of each symbol of a window, and last of all others.

  Args:
    mixture: the mixtures of n symbols.
    low: i64[n], the first symbol of each window.
    size: L, one of SIZES.
    xp: numpy or jax.numpy.
  """
  return _counts(_terms(_columns(mixture, xp), xp), low, size, xp).T


def windows(mixture: Mixture) -> tuple[Ints, Ints]:
  """Returns the first symbol i64[n] of each window, and its size as an index i64[n] into SIZES.

  A window extends 4 sigma to either side of every component that is not negligible, up to the
  largest size.
  """
  return _windows(_columns(mixture))


def _windows(columns: Mixture) -> tuple[Ints, Ints]:
  reach = tables.REACH.take(columns.index.astype(np.intp))
  reach[columns.weight < _NEGLIGIBLE * columns.weight.max(0)] = -np.inf
  first = np.floor(((columns.mean - reach).min(0) + _UNIT / 2) / _UNIT)
  last = np.floor(((columns.mean + reach).max(0) + _UNIT / 2) / _UNIT)
  size_class = np.searchsorted(_SIZES[:-1] - 1.0, last - first + 1)
  low = np.floor((first + last + 2 - _SIZES[size_class]) / 2)
  return low.astype(np.int64), size_class


class _Model(NamedTuple):
  """Parameters of the tables of n symbols."""

  low: Ints  # i64[n], the first symbol of each window.
  sizes: Ints  # i64[n], the sizes of the tables.
  terms: Array  # f64[3, K, n], as `_terms` returns them.


def _model(mixture: Mixture) -> _Model:
  columns = _columns(mixture)
  low, size_class = _windows(columns)
  return _Model(low, _SIZES[size_class], _terms(columns))


def _members(model: _Model) -> Iterator[tuple[int, Ints]]:
  """Yields the sizes that occur, in ascending order, with the positions i64[m] of each."""
  for size in SIZES:
    members = np.flatnonzero(model.sizes == size)
    if len(members):
      yield size, members


def _rows(model: _Model, members: Ints, size: int) -> Iterator[tuple[Ints, Array]]:
  """Yields chunks i64[m] of `members` with their tables f64[m, L]."""
  step = max(_CHUNK // size, 1)
  for start in range(0, len(members), step):
    part = members[start : start + step]
    yield part, _counts(model.terms.take(part, axis=2), model.low[part], size).T


def read(reader: coder.Reader, mixture: Mixture) -> Ints:
  """Returns the symbols i64[n] that `write` coded.

  Raises:
    CodecError: the data holds fewer symbols, or one beyond escapes.LIMIT.
  """
  model = _model(mixture)
  entries = np.empty(len(model.low), np.int64)
  for size, members in _members(model):
    for part, rows in _rows(model, members, size):
      entries[part] = reader.get(rows)
  symbols = model.low + escapes.get(reader, entries, model.sizes)
  escapes.check(symbols)
  return symbols


def write(writer: coder.Writer, mixture: Mixture, symbols: Ints) -> None:
  """Codes symbols i64[n] with the tables of their mixtures.

  Raises:
    CodecError: a symbol exceeds escapes.LIMIT in magnitude.
  """
  _write(writer, _model(mixture), symbols)


def _write(writer: coder.Writer, model: _Model, symbols: Ints) -> None:
  escapes.check(symbols)
  places = symbols - model.low
  entries = escapes.entries(places, model.sizes)
  for size, members in _members(model):
    for part, rows in _rows(model, members, size):
      writer.put(entries[part], rows)
  escapes.put(writer, places, model.sizes)


def write_steps(writer: coder.Writer, mixture: Mixture, symbols: Ints, bounds: Ints) -> None:
  """Codes symbols as `write` would for each slice bounds[i]:bounds[i + 1] in turn, but faster.

  The tables of many slices are built together.

  Raises:
    CodecError: a symbol exceeds escapes.LIMIT in magnitude.
  """
  model = _model(mixture)
  filled = np.concatenate([[0], np.cumsum(model.sizes)])[bounds]
  first = 0
  while first < len(bounds) - 1:
    full = int(np.searchsorted(filled, filled[first] + _GROUP, 'right')) - 1
    last = max(full, first + 1)
    span = slice(bounds[first], bounds[last])
    part = _Model(model.low[span], model.sizes[span], model.terms[:, :, span].copy())
    if last == first + 1:
      _write(writer, part, symbols[span])
    else:
      _write_group(writer, part, symbols[span], bounds[first : last + 1] - bounds[first])
    first = last


def _write_group(writer: coder.Writer, model: _Model, symbols: Ints, bounds: Ints) -> None:
  """Codes symbols as `write_steps` does, with the tables of all steps in memory."""
  escapes.check(symbols)
  places = symbols - model.low
  entries = escapes.entries(places, model.sizes)
  queues = []
  for size, members in _members(model):
    rows = np.concatenate([rows for _, rows in _rows(model, members, size)])
    queues.append((entries[members], rows, np.searchsorted(members, bounds)))
  for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
    for chosen, rows, cuts in queues:
      span = slice(cuts[i], cuts[i + 1])
      writer.put(chosen[span], rows[span])
    escapes.put(writer, places[start:stop], model.sizes[start:stop])
