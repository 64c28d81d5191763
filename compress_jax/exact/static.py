"""Coding with one fixed table per channel, for priors that do not depend on decoded symbols.

Order in the stream: channel by channel, all positions of a channel, then its escapes.
"""

from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.exact import escapes, mixture

Ints = np.ndarray  # i64


class Static(NamedTuple):
  """A window and its table for each of C channels."""

  low: Ints  # i64[C], the first symbol of each window.
  counts: np.ndarray  # f64[C, L], exact integers, all positive; the last entry is the escape.


def static_of_mixture(prior: mixture.Mixture) -> Static:
  """Returns the tables of C channels, from a mixture for each.

  All tables have the size that the widest window needs, up to 2,048. Escapes thus stay rare even
  at sigma 256, and a table per channel is small.
  """
  low, size_class = mixture.windows(prior)
  sizes = np.array(mixture.SIZES)[size_class]
  size = int(sizes.max())
  low = low - (size - sizes) // 2
  return Static(low, np.ascontiguousarray(mixture.counts(prior, low, size)))


def write_static(writer: coder.Writer, static: Static, symbols: Ints) -> None:
  """Codes symbols i64[n, C].

  Raises:
    CodecError: a symbol exceeds escapes.LIMIT in magnitude.
  """
  escapes.check(symbols)
  size = static.counts.shape[-1]
  for places, table in zip((symbols - static.low).T, static.counts, strict=True):
    writer.put(escapes.entries(places, size), table)
    escapes.put(writer, places, size)


def read_static(reader: coder.Reader, static: Static, n: int) -> Ints:
  """Returns the symbols i64[n, C] that `write_static` coded.

  Raises:
    CodecError: the data holds fewer symbols, or one beyond escapes.LIMIT.
  """
  channels, size = static.counts.shape
  symbols = np.empty((n, channels), np.int64)
  for column, low, table in zip(symbols.T, static.low, static.counts, strict=True):
    column[:] = low + escapes.get(reader, reader.get(table, n), size)
  escapes.check(symbols)
  return symbols
