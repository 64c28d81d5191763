"""Hyper-latents: their symbols, their tables, and the features that are decoded from them."""

from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.codec import CodecError
from compress_jax.exact import escapes, layers, selftest, static
from compress_jax.exact.mixture import SIZES

Ints = np.ndarray  # i64

BITS = 6  # Fraction bits of hyper-latents as inputs of their network.
LIMIT = 2**21  # The largest magnitude of those inputs, for all symbols and medians.
_RANGE = 1000  # The largest distance from the median of a symbol in a table.
_TAIL = 2.0**-15  # Mass that a table may leave out on either side.
_FLOOR = 2.0**-14  # Share of the total that all entries of a table divide evenly.


class Prior(NamedTuple):
  """Integer tables of the hyper-latents, for each of C channels."""

  median: Ints  # i64[C], with BITS fraction bits; hyper-latents are rounded around it.
  low: Ints  # i64[C], the first symbol of each window, as in static.Static.
  counts: Ints  # i64[C, L], the table of each window.


def channels(prior: Prior) -> int:
  """Returns the number of channels C of tables whose shapes agree.

  Raises:
    CodecError: their shapes differ, or an entry is not positive.
  """
  counts = prior.counts
  sound = counts.ndim == 2 and prior.low.shape == prior.median.shape == counts.shape[:1]
  if not sound or counts.shape[1] not in SIZES or counts.min() < 1:
    raise CodecError("the hyper-latents' tables of the model do not fit together")
  return counts.shape[0]


def grid(height: int, width: int, cell: int) -> tuple[int, int]:
  """Returns the height and width of the hyper-latents of h x w latents."""
  return -(-height // cell), -(-width // cell)


def quantise(z: np.ndarray, prior: Prior) -> Ints:
  """Returns symbols i64[h, w, C]: hyper-latents f32[h, w, C] rounded around the medians."""
  centred = z.astype(np.float64) - prior.median * 2.0**-BITS
  return np.clip(np.rint(centred), -escapes.LIMIT, escapes.LIMIT).astype(np.int64)


def dequantise(symbols: Ints, prior: Prior) -> np.ndarray:
  """Returns the hyper-latents f64[h, w, C] of symbols i64[h, w, C]."""
  return symbols + prior.median * 2.0**-BITS


def features(network: layers.Network, z: Ints, prior: Prior, shape: tuple[int, int]) -> np.ndarray:
  """Returns features f64[h, w, C']: the hyper-synthesis of symbols i64[h', w', C], cropped."""
  z_hat = np.ldexp(dequantise(z, prior), BITS)
  return selftest.run(network, z_hat)[: shape[0], : shape[1]]


def write(writer: coder.Writer, prior: Prior, z: Ints) -> None:
  """Codes symbols i64[h, w, C]."""
  static.write_static(
    writer, static.Static(prior.low, prior.counts.astype(np.float64)), z.reshape(-1, z.shape[-1])
  )


def read(reader: coder.Reader, prior: Prior, shape: tuple[int, int]) -> Ints:
  """Returns the symbols i64[h, w, C] that `write` coded."""
  tables = static.Static(prior.low, prior.counts.astype(np.float64))
  return static.read_static(reader, tables, shape[0] * shape[1]).reshape(*shape, -1)


def symbols_of_prior() -> np.ndarray:
  """Returns the symbols i64[n] whose probabilities `prior_of` needs."""
  return np.arange(-_RANGE, _RANGE + 1)


def prior_of(mass: np.ndarray, median: np.ndarray) -> Prior:
  """Returns integer tables of the probabilities f64[C, n] of `symbols_of_prior`.

  All channels get the table size that the widest needs. Mass outside a window goes to its escape.

  Args:
    mass: f64[C, n], the probabilities of symbols.
    median: f64[C], the values around which hyper-latents are rounded.
  """
  mass = np.clip(np.nan_to_num(mass.astype(np.float64)), 0, 1)
  below, above = np.cumsum(mass, 1), np.cumsum(mass[:, ::-1], 1)
  first = (below < _TAIL).sum(1)
  last = mass.shape[1] - 1 - (above < _TAIL).sum(1)
  widest = int((last - first).max()) + 2
  size = next(size for size in SIZES if size >= min(widest, SIZES[-2]))
  low = np.clip((first + last + 2 - size) // 2, 0, mass.shape[1] - size)
  chosen = np.take_along_axis(mass, low[:, None] + np.arange(size - 1), 1)
  escape = np.maximum(1 - chosen.sum(1, keepdims=True), 0)
  counts = np.rint(np.concatenate([chosen, escape], 1) * 2.0**24)
  counts += np.floor(2.0**24 * _FLOOR / size) + 1
  return Prior(np.rint(median * 2**BITS).astype(np.int64), low - _RANGE, counts.astype(np.int64))
