"""Rate-distortion optimised quantisation: rounding to the integer of the lower total cost.

The farther of the two integers around a latent has the larger squared error, but it needs fewer
bits if it is the more probable one. With trained steps, D = step^2 / 12 falls by 2 ln 2 D per
additional bit (high-resolution theory): a bit is worth 0.116 squared steps, and less if rounding is
not the only distortion. Video encoders weigh both costs (M. Karczewicz, Y. Ye, I. Chong, "Rate
distortion optimized quantization", VCEG-AH21, 2008). The decoder does not change.
"""

import numpy as np

from compress_jax.exact import escapes, mixture, tables
from compress_jax.layers.quantization import cheaper_of

_FLOOR = 2.0**-16  # The least probability of a symbol.
_CHUNK = 2**15  # Symbols that are processed at a time.


def choose(model: mixture.Mixture, q: np.ndarray, scaled: np.ndarray, worth: float) -> np.ndarray:
  """Returns symbols i64[n] of least squared error + worth * bits.

  Args:
    model: the mixtures that code the symbols.
    q: i64[n], the nearest integers.
    scaled: f64[n], the values that are rounded.
    worth: the worth of a bit, in squared steps.
  """
  symbols = np.empty_like(q)
  for start in range(0, len(q), _CHUNK):
    part = slice(start, start + _CHUNK)
    fields = mixture.Mixture(*(field[part] for field in model))
    symbols[part] = _choose(fields, q[part], scaled[part], worth)
  return symbols


def _choose(model: mixture.Mixture, q: np.ndarray, scaled: np.ndarray, worth: float) -> np.ndarray:
  beyond = scaled > q
  other = np.clip(np.where(beyond, q + 1, q - 1), -escapes.LIMIT, escapes.LIMIT)
  edges = np.minimum(q, other)[:, None] + np.array([-0.5, 0.5, 1.5])
  mass = mixture.cumulative(model, edges * 2.0**tables.FRACTION)
  least = _FLOOR * 2.0**24 * model.weight.sum(1, keepdims=True)
  below, above = (np.diff(mass, axis=1) + least).T
  saved = np.log2(above / below)  # Bits that the upper integer saves.
  symbols: np.ndarray = cheaper_of(scaled, q, other, np.where(beyond, saved, -saved), worth, np)
  return symbols
