"""The integer tables of which probabilities are computed, with the same bits on every machine.

They are computed with decimal arithmetic and with IEEE additions, multiplications and divisions in
a fixed order. The exp, erf and sqrt of C libraries differ in their last bits and are not used.
"""

import functools
import hashlib
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal, localcontext
from types import ModuleType
from typing import Any

import numpy as np

Floats = np.ndarray  # f64, exact integers.
Array = Any  # np.ndarray or jax.Array.

FRACTION = 8  # Means and edges are in units of 2^-8 of a symbol.
N_SCALES = 180  # sigma_i = 0.11 * 2^(i/16): 0.11 .. 256.
BELOW = 128  # Number of indices of `scale_index` below 0.11.
ABOVE = 128  # Number of indices of `scale_index` above the last scale.
SIGMA_BITS = 16  # Fraction bits of the scales that `scale_index` reads.

_LOWEST = Decimal('0.11')  # Smaller scales would save less than the coder's rounding loses.
_DENSITY_AT_0 = 0.3989422804014327  # 1 / sqrt(2 pi)
_HALF = 2**15  # Steps of PHI on either side of its middle.
_STEP = 2.0**-12  # Length of a step in sigmas: the table ends at 8 sigma.
_CELL_BITS = 8  # An octave has 256 cells of equal length, each with one scale index.
_REACH = 4  # Half width of a window in sigmas: one symbol in 16,000 is outside.


def _geometric(first: Decimal, factor: Decimal, n: int) -> list[Decimal]:
  """Returns first * factor^i for i = 0..n-1."""
  values = [first]
  for _ in range(n - 1):
    values.append(values[-1] * factor)
  return values


def _decay(step: Decimal, n: int) -> list[Decimal]:
  """Returns exp(-i * step) for i = 0..n-1; the exp of the decimal module rounds correctly."""
  return _geometric(Decimal(1), (-step).exp(), n)


def _integers(values: list[Decimal], rounding: str = ROUND_HALF_EVEN) -> Floats:
  return np.array([int(v.to_integral_value(rounding)) for v in values], np.float64)


def _bell(distance: np.ndarray) -> np.ndarray:
  """Returns exp(-(d * 2^-12)^2 / 2) as f64 for integers d up to 2^15, within 2^-51."""
  square = distance.astype(np.int64) ** 2  # The exponent in units of 2^-25.
  high, middle, low = (np.array(_decay(Decimal(2) ** -i, 1025), np.float64) for i in (5, 15, 25))
  return high[square >> 20] * middle[square >> 10 & 1023] * low[square & 1023]


def _phi() -> np.ndarray:
  """Computes PHI by the trapezoidal rule and the next term of the Euler-Maclaurin formula.

  The remainder is 1e-15 of the table's unit.
  """
  distance = np.arange(_HALF + 1)
  bell = _bell(distance)
  area = np.cumsum(bell) - (bell + 1) / 2
  slope = distance * _STEP * bell
  upper = np.floor(2.0**23 + _DENSITY_AT_0 * (2.0**12 * area + slope / 12) + 0.5)
  return np.concatenate([2.0**24 - upper[:0:-1], upper]).astype(np.float32)


with localcontext() as _context:
  _context.prec = 40
  _RATIO = Decimal(2).sqrt().sqrt().sqrt().sqrt()
  _SIGMAS = _geometric(_LOWEST, _RATIO, N_SCALES)
  _BORDER = _LOWEST * _RATIO.sqrt() * Decimal(2) ** (SIGMA_BITS - BELOW // 16)
  _BORDERS = _geometric(_BORDER, _RATIO, BELOW + N_SCALES + ABOVE - 1)
  SCALES = np.array(_SIGMAS, np.float64)
  # Distance in 2^-8 symbols times INV is the place in PHI, times 2^16.
  INV = _integers([2**20 / sigma for sigma in _SIGMAS])
  REACH = _integers([_REACH * 2**FRACTION * sigma for sigma in _SIGMAS])
  THRESHOLDS = _integers(_BORDERS, ROUND_CEILING)  # The least sigma of each index but the lowest.
  EXP = _integers([2**15 * v for v in _decay(Decimal(1) / 64, 1025)])  # round(2^15 exp(-i / 64)).
  PHI = _phi()  # f32[65537]: round(2^24 Phi(x)) at x = -8..8 by 2^-12.


def _cell(sigma: Array, xp: ModuleType) -> Array:
  """Returns the cells i64 of numbers: 256 per octave from 1 upwards; negative below 1."""
  return (sigma.view(xp.int64) >> 52 - _CELL_BITS) - (1023 << _CELL_BITS)


def _cell_indices() -> np.ndarray:
  """Returns the scale index i64[n] of the middle of every cell."""
  n = int(_cell(THRESHOLDS[-1:], np)[0]) + 2
  bits = (np.arange(n) + (1023 << _CELL_BITS) << 52 - _CELL_BITS) + (1 << 51 - _CELL_BITS)
  return np.searchsorted(THRESHOLDS, bits.view(np.float64), 'right') - BELOW


CELL_INDEX = _cell_indices()


def scale_index(sigma: Array, xp: ModuleType = np) -> Array:
  """Returns the index of the nearest scale, in sixteenths of an octave above 0.11.

  The index depends on the exponent and the first bits of the mantissa, which is faster than a
  search. A sigma within 0.2 % of halfway between two scales may get either.

  Args:
    sigma: f64, integers in units of 2^-16 of a symbol; those <= 0 get the lowest index.
    xp: numpy or jax.numpy.

  Returns:
    i64, -BELOW..N_SCALES - 1 + ABOVE. A gain g adds 16 * log2(g) to it; the sum is then clipped to
    0..N_SCALES - 1.

  Raises:
    TypeError: sigma is not f64: the bits of other types would be misread.
  """
  if sigma.dtype != np.float64:
    raise TypeError(f'scales must be float64, in units of 2^-{SIGMA_BITS}, not {sigma.dtype}')
  return xp.take(xp.asarray(CELL_INDEX), _cell(sigma, xp), mode='clip')


@functools.cache
def digest() -> str:
  """Returns the SHA-256 of all tables as hexadecimal text."""
  tables = (SCALES, INV, REACH, CELL_INDEX, PHI, EXP)
  return hashlib.sha256(b''.join(t.astype('<f8').tobytes() for t in tables)).hexdigest()
