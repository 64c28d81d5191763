"""Discretised Gaussian mixtures as integer tables, and coding with them.

The model is that of Cheng et al. (CVPR 2020, section 3.3): a symbol's probability is the mass of a
mixture of Gaussians between its edges. Every value is an exact integer in float64, so that all
machines build the same tables.

A table covers the window in which nearly all of the mixture lies, and has an escape for the rest.
In the layout `BINS`, wide windows are divided into bins: one table tells the bin, and another the
symbol within it. Both together are far shorter than a table of all symbols.

Symbols are in the stream in order of their window's shape, then of position; all bins of a shape
come before the symbols within them. After all symbols come the sides of those that escaped, then
their distances.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.exact import escapes, tables

Ints = np.ndarray  # i64
Array = Any  # np.ndarray or jax.Array; f64, exact integers.

_FLOOR = 2.0**-14  # Share of the total that all entries of a table divide evenly.
_NEGLIGIBLE = 2.0**-12  # Components below this share of the largest weight widen no window.
_UNIT = 2.0**tables.FRACTION
_CHUNK = 2**15  # Table entries that are built at a time, so that they stay in the cache.
_GROUP = 2**20  # Table entries that `write_steps` keeps in memory.
# The table of all windows of one symbol: at most one in 16,000 symbols is expected outside of them.
_SINGLE = np.array([2.0**14 - 1, 1.0])
_ENDING = 32  # Bits that the end of a stream may lack.


class Mixture(NamedTuple):
  """K weighted Gaussians for each of n symbols."""

  mean: Array  # f64[n, K], in 2^-8 symbols, at most 2^23 in magnitude.
  index: Array  # i64 or f64[n, K], 0..179: the scale is tables.SCALES[index].
  weight: Array  # f64[n, K], 0..2^15, one of each n positive.


class Layout(NamedTuple):
  """The shapes that windows can have, from the narrowest to the widest."""

  bins: Ints  # i64[S], the bins of a window.
  width: Ints  # i64[S], the symbols of a bin; 1 if one table tells the symbol.


SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)  # Entries of a table; the last is the escape.
SYMBOLS = Layout(np.array(SIZES) - 1, np.ones(len(SIZES), np.int64))
# Windows of 16 to 2,048 symbols have about as many bins as symbols in a bin.
_POWERS = np.arange(4, 12)
BINS = Layout(
  np.concatenate([[1, 3, 7], 2 ** (_POWERS - _POWERS // 2)]),
  np.concatenate([[1, 1, 1], 2 ** (_POWERS // 2)]),
)
# The least cost of a symbol, in bits: a table of the smallest size has its whole mass in one entry.
MIN_BITS = -math.log2((1 + _FLOOR / SIZES[0]) / (1 + _FLOOR))


def least_bits(n: int) -> float:
  """Returns the least bits of a payload that holds `n` symbols; it is negative for few symbols."""
  return n * MIN_BITS - _ENDING


def _columns(mixture: Mixture, xp: ModuleType = np) -> Mixture:
  """Returns the fields as arrays [K, n], contiguous for fast sums over K and indexing of n."""
  columns = (xp.asarray(field).T for field in mixture)
  return Mixture(*(map(np.ascontiguousarray, columns) if xp is np else columns))


class _Terms(NamedTuple):
  """Numbers that give the mass of n mixtures below an edge."""

  factor: Array  # f64[K, n]; the place of an edge in PHI is edge * factor + offset.
  offset: Array  # f64[K, n]
  weight: Array  # f64[K, n]


def _terms(columns: Mixture, xp: ModuleType = np) -> _Terms:
  factor = xp.asarray(tables.INV * 2.0**-16)[columns.index.astype(xp.int32)]
  return _Terms(factor, len(tables.PHI) // 2 + 0.5 - columns.mean * factor, columns.weight)


def _at(terms: _Terms, part: slice | Ints) -> _Terms:
  """Returns the terms of some of the mixtures."""
  return _Terms(*(term[:, part] for term in terms))


def _mass(terms: _Terms, edges: Array, xp: ModuleType = np) -> Array:
  """Returns the mixture's mass f64[L, n] below edges f64[L, n], times 2^24 * the weights."""
  factor, offset, weight = (term[:, None] for term in terms)
  places = xp.clip(edges * factor + offset, 0.0, len(tables.PHI) - 1.0)
  return (xp.take(xp.asarray(tables.PHI), places.astype(xp.int32), mode='clip') * weight).sum(0)


def cumulative(mixture: Mixture, edges: Array, xp: ModuleType = np) -> Array:
  """Returns the mass f64[n, L] below edges f64[n, L], times 2^24 * the weights.

  Edges are in units of 2^-8 symbols.
  """
  return _mass(_terms(_columns(mixture, xp), xp), edges.T, xp).T


def _edges(low: Array, n: int, width: int, xp: ModuleType = np) -> Array:
  """Returns the first edges f64[n, m] of m windows whose bins have `width` symbols."""
  return xp.arange(n)[:, None] * (_UNIT * width) + (low * _UNIT - _UNIT / 2)


def _counts(terms: _Terms, low: Array, size: int, width: int = 1, xp: ModuleType = np) -> Array:
  """Returns the transpose f64[L, n] of `counts`, for bins of `width` symbols."""
  mass = _mass(terms, _edges(low, size, width, xp), xp)
  total = terms.weight.sum(0) * 2.0**24
  escape = total - (mass[-1:] - mass[:1])
  floor = xp.floor(total * (_FLOOR / size)) + 1
  return xp.concatenate([mass[1:] - mass[:-1], escape]) + floor


def _within(terms: _Terms, low: Ints, width: int) -> Array:
  """Returns tables f64[width, n] of the symbols in bins, of which the first is `low` i64[n]."""
  mass = _mass(terms, _edges(low, width + 1, 1))
  return mass[1:] - mass[:-1] + (np.floor((mass[-1] - mass[0]) * (_FLOOR / width)) + 1)


def counts(mixture: Mixture, low: Array, size: int, xp: ModuleType = np) -> Array:
  """Returns tables f64[n, L]: the frequency of each symbol of a window, and last of all others.

  Args:
    mixture: the mixtures of n symbols.
    low: i64[n], the first symbol of each window.
    size: L, one more than the symbols of a window.
    xp: numpy or jax.numpy.
  """
  return _counts(_terms(_columns(mixture, xp), xp), low, size, xp=xp).T


def windows(mixture: Mixture, layout: Layout = SYMBOLS) -> tuple[Ints, Ints]:
  """Returns the first symbol i64[n] of each window, and the index i64[n] of its shape.

  A window extends 4 sigma to either side of every component that is not negligible, up to the
  widest shape.
  """
  return _windows(_columns(mixture), layout)


def _windows(columns: Mixture, layout: Layout) -> tuple[Ints, Ints]:
  reach = tables.REACH.take(columns.index.astype(np.intp))
  reach[columns.weight < _NEGLIGIBLE * columns.weight.max(0)] = -np.inf
  first = np.floor(((columns.mean - reach).min(0) + _UNIT / 2) / _UNIT)
  last = np.floor(((columns.mean + reach).max(0) + _UNIT / 2) / _UNIT)
  span = layout.bins * layout.width
  shape = np.searchsorted(span[:-1].astype(np.float64), last - first + 1)
  low = np.floor((first + last + 1 - span[shape]) / 2)
  return low.astype(np.int64), shape


class _Model(NamedTuple):
  """Parameters of the tables of n symbols."""

  low: Ints  # i64[n], the first symbol of each window.
  sizes: Ints  # i64[n], one more than the symbols of each window: what escapes are counted from.
  order: Ints  # i64[n], the positions of the symbols in the order of the stream.
  terms: _Terms  # In the order of the stream.
  shapes: list[tuple[slice, int, int]]  # In that order: symbols of a shape, its bins, their width.


def _model(mixture: Mixture, layout: Layout) -> _Model:
  columns = _columns(mixture)
  return _sorted(columns, *_windows(columns, layout), layout)


def _sorted(columns: Mixture, low: Ints, shape: Ints, layout: Layout) -> _Model:
  """Returns the model of symbols whose windows are known."""
  order = np.argsort(shape.astype(np.uint8), kind='stable')  # Small integers are sorted faster.
  ends = [0, *np.cumsum(np.bincount(shape, minlength=len(layout.bins))).tolist()]
  parts = (slice(*pair) for pair in itertools.pairwise(ends))
  shapes = zip(parts, layout.bins.tolist(), layout.width.tolist(), strict=True)
  return _Model(
    low,
    (layout.bins * layout.width + 1)[shape],
    order,
    _terms(Mixture(*(column.take(order, 1) for column in columns))),
    [shape for shape in shapes if shape[0].start < shape[0].stop],
  )


def _chunks(
  make: Callable[[_Terms, Ints], Array], terms: _Terms, low: Ints, size: int
) -> Iterator[tuple[slice, Array]]:
  """Yields chunks of symbols with their tables f64[m, size], the transpose of what `make` makes."""
  step = max(_CHUNK // size, 1)
  for start in range(0, len(low), step):
    part = slice(start, start + step)
    yield part, make(_at(terms, part), low[part]).T


# Called with tables f64[m, L], or one table f64[L], and the entries i64[m] that a writer knows;
# returns the entries.
_Code = Callable[[Array, Ints], Ints]


def _visit(model: _Model, code: _Code, known: Ints) -> Ints:
  """Calls `code` for all tables in the order of the stream.

  Args:
    model: the tables.
    code: writes or reads entries.
    known: i64[n], the entries of a writer, as if there was one table for all symbols; a reader does
      not look at them.

  Returns:
    i64[n], the entries that `code` returned, in the same form.
  """
  entries = np.empty(len(known), np.int64)
  for part, bins, width in model.shapes:
    if bins == 1:
      entries[part] = code(_SINGLE, known[part])
    else:
      low, wanted, coded = model.low[model.order[part]], known[part], entries[part]
      terms = _at(model.terms, part)
      make = functools.partial(_counts, size=bins + 1, width=width)
      for few, rows in _chunks(make, terms, low, bins + 1):
        coded[few] = code(rows, wanted[few] // width)
      if width > 1:
        inside = np.flatnonzero(coded < bins)
        coded *= width
        first = coded[inside]
        make = functools.partial(_within, width=width)
        for few, rows in _chunks(make, _at(terms, inside), low[inside] + first, width):
          coded[inside[few]] += code(rows, (wanted[inside] - first)[few])
  return entries


def read(reader: coder.Reader, mixture: Mixture, layout: Layout = SYMBOLS) -> Ints:
  """Returns the symbols i64[n] that `write` coded.

  Raises:
    CodecError: the data holds fewer symbols, or one beyond escapes.LIMIT.
  """
  model = _model(mixture, layout)
  entries = np.zeros(len(model.low), np.int64)
  entries[model.order] = _visit(model, lambda rows, some: reader.get(rows, len(some)), entries)
  symbols = model.low + escapes.get(reader, entries, model.sizes)
  escapes.check(symbols)
  return symbols


def write(writer: coder.Writer, mixture: Mixture, symbols: Ints, layout: Layout = SYMBOLS) -> None:
  """Codes symbols i64[n] with the tables of their mixtures.

  Raises:
    CodecError: a symbol exceeds escapes.LIMIT in magnitude.
  """
  _write(writer, _model(mixture, layout), symbols)


def _write(writer: coder.Writer, model: _Model, symbols: Ints) -> None:
  escapes.check(symbols)
  places = symbols - model.low

  def put(rows: Array, entries: Ints) -> Ints:
    writer.put(entries, rows)
    return entries

  _visit(model, put, escapes.entries(places, model.sizes)[model.order])
  escapes.put(writer, places, model.sizes)


def write_steps(writer: coder.Writer, mixture: Mixture, symbols: Ints, bounds: Ints) -> None:
  """Codes symbols as `write` would for each slice bounds[i]:bounds[i + 1] in turn, but faster.

  The tables of many slices are built together.

  Raises:
    CodecError: a symbol exceeds escapes.LIMIT in magnitude.
  """
  columns = _columns(mixture)
  low, shape = _windows(columns, SYMBOLS)
  filled = np.append(0, np.cumsum(np.array(SIZES)[shape]))[bounds]
  first = 0
  while first < len(bounds) - 1:
    full = int(np.searchsorted(filled, filled[first] + _GROUP, 'right')) - 1
    last = max(full, first + 1)
    span = slice(bounds[first], bounds[last])
    part = Mixture(*(column[:, span] for column in columns))
    model = _sorted(part, low[span], shape[span], SYMBOLS)
    if last == first + 1:
      _write(writer, model, symbols[span])
    else:
      _write_group(writer, model, symbols[span], bounds[first : last + 1] - bounds[first])
    first = last


def _write_group(writer: coder.Writer, model: _Model, symbols: Ints, bounds: Ints) -> None:
  """Codes symbols as `write_steps` does, with the tables of all steps in memory."""
  escapes.check(symbols)
  places = symbols - model.low
  entries = escapes.entries(places, model.sizes)
  queues = []
  for part, bins, _ in model.shapes:
    members = model.order[part]
    make = functools.partial(_counts, size=bins + 1)
    chunks = _chunks(make, _at(model.terms, part), model.low[members], bins + 1)
    rows = np.concatenate([few for _, few in chunks])
    queues.append((entries[members], rows, np.searchsorted(members, bounds)))
  for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
    for chosen, rows, cuts in queues:
      span = slice(cuts[i], cuts[i + 1])
      writer.put(chosen[span], rows[span])
    escapes.put(writer, places[start:stop], model.sizes[start:stop])
