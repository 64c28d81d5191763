"""Coding of symbols outside the window of their table, and the largest symbol.

A table has one entry for each symbol of its window, low .. low + size - 2, and a last one that
stands for all others: the escape. An escape is followed by one bit for the side, and by the
distance from the window.
"""

import numpy as np

from compress_jax import coder
from compress_jax.codec import CodecError

Ints = np.ndarray  # i64

LIMIT = 32767  # The largest symbol.
_WIDTHS = 17  # Distances are below 2^17 - 1: no window of a mixture is farther from a symbol.
_SIDE = np.ones(2)


def check(symbols: Ints) -> None:
  """Raises CodecError if a symbol exceeds LIMIT in magnitude."""
  largest = np.abs(symbols).max(initial=0)
  if largest > LIMIT:
    raise CodecError(f'a symbol of magnitude {largest} exceeds {LIMIT}')


def entries(places: Ints, sizes: Ints | int) -> Ints:
  """Returns the table entries of symbols whose places (symbol - low) are given."""
  return np.where(places < 0, sizes - 1, np.minimum(places, sizes - 1))


def put(writer: coder.Writer, places: Ints, sizes: Ints | int) -> None:
  """Codes the places i64[n] that lie outside their windows."""
  outside = np.flatnonzero(entries(places, sizes) == sizes - 1)
  if len(outside):
    distance = np.where(places < 0, -1 - places, places - sizes + 1)[outside]
    writer.put((places[outside] < 0).astype(np.int64), _SIDE)
    writer.put_escapes(distance, widths=_WIDTHS)


def get(reader: coder.Reader, entries: Ints, sizes: Ints | int) -> Ints:
  """Returns the places i64[n] of symbols whose table entries were read before."""
  outside = np.flatnonzero(entries == sizes - 1)
  places = entries.copy()
  if len(outside):
    below = reader.get(_SIDE, len(outside)) == 1
    distance = reader.get_escapes(len(outside), widths=_WIDTHS)
    places[outside] = np.where(below, -1 - distance, distance + places[outside])
  return places
