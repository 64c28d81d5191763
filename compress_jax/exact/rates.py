"""One model for every rate, in integers: gains of each level, and their effect on parameters.

Networks predict in units of the latents; the stream holds gain * latent. Nothing is interpolated
when files are coded: a level byte is the index of a row in these tables.
"""

from typing import NamedTuple

import numpy as np

from compress_jax.codec import CodecError
from compress_jax.exact import escapes, export, tables
from compress_jax.exact.mixture import Mixture

Ints = np.ndarray  # i64

GAIN_BITS = 16
MEAN_BITS = 12  # Fraction bits of means that networks output.
LOGIT_BITS = 6  # Fraction bits of their logits; those of scales are tables.SIGMA_BITS.
_MEAN_LIMIT = 2.0**23
_LARGEST = 2.0**12  # The largest gain: products with 2^25 and 16 fraction bits stay exact.


class Rates(NamedTuple):
  """Integer tables of gains, for each level and channel."""

  gain: Ints  # i64[256, C], times 2^16.
  inverse: Ints  # i64[256, C], 2^16 / gain.
  offset: Ints  # i64[256, C], the number that the gain adds to a scale index.


def rates_of(gains: np.ndarray) -> Rates:
  """Returns the integer tables of positive gains f64[256, C].

  Raises:
    CodecError: a gain is too large, or not a number.
  """
  if not (gains < _LARGEST).all():  # True also for NaN.
    raise CodecError(f'gains must be below {_LARGEST:g}')
  gain = np.maximum(np.rint(gains.astype(np.float64) * 2**GAIN_BITS), 1)
  inverse = np.maximum(np.rint(2.0 ** (2 * GAIN_BITS) / gain), 1)
  offset = np.rint(16 * np.log2(gain * 2.0**-GAIN_BITS))
  return Rates(gain.astype(np.int64), inverse.astype(np.int64), offset.astype(np.int64))


def channels(rates: Rates) -> int:
  """Returns the number of channels C of tables whose shapes agree.

  Raises:
    CodecError: their shapes differ, or a gain is not positive.
  """
  shapes = {table.shape for table in rates}
  shape = shapes.pop()
  if shapes or len(shape) != 2 or shape[0] != 256 or min(rates.gain.min(), rates.inverse.min()) < 1:
    raise CodecError('the gains of the model do not fit together')
  return shape[1]


def scaled(y: np.ndarray, rates: Rates, level: int, mean: np.ndarray | float = 0.0) -> np.ndarray:
  """Returns the values f64[..., C] that `quantise` rounds: gain * y - mean."""
  gain = rates.gain[level] * 2.0**-GAIN_BITS
  values: np.ndarray = y.astype(np.float64) * gain - mean * 2.0**-tables.FRACTION
  return values


def quantise(y: np.ndarray, rates: Rates, level: int, mean: np.ndarray | float = 0.0) -> Ints:
  """Returns symbols i64[..., C] of latents f32[..., C], relative to `mean` in 2^-8 symbols."""
  whole = np.rint(scaled(y, rates, level, mean))
  return np.clip(whole, -escapes.LIMIT, escapes.LIMIT).astype(np.int64)


def dequantise(q: Ints, rates: Rates, level: int, mean: np.ndarray | float = 0.0) -> np.ndarray:
  """Returns latents f32[..., C] of symbols i64[..., C], relative to `mean` in 2^-8 symbols."""
  shifted = q + mean * 2.0**-tables.FRACTION
  return (shifted * (rates.inverse[level] * 2.0**-GAIN_BITS)).astype(np.float32)


def fixed_point(
  q: Ints, rates: Rates, level: int, bits: int, limit: int = export.WIDE.activation
) -> np.ndarray:
  """Returns the latents of symbols i64[..., C] as integers f64[..., C] with `bits` fraction bits.

  They are clipped to -limit..limit.
  """
  wide = q.astype(np.float64) * rates.inverse[level]
  values = np.floor(wide * 2.0 ** (bits - GAIN_BITS) + 0.5)
  return np.clip(values, -limit, limit)


def scales_at(sigma: np.ndarray, rates: Rates, level: int) -> np.ndarray:
  """Returns the scale indices i64[..., C] of a network's predictions f64[..., C]."""
  index = tables.scale_index(sigma) + rates.offset[level]
  return np.clip(index, 0, tables.N_SCALES - 1)


def means_at(mean: np.ndarray, rates: Rates, level: int) -> np.ndarray:
  """Returns the means f64[..., C], in 2^-8 symbols, of a network's predictions f64[..., C]."""
  shift = MEAN_BITS + GAIN_BITS - tables.FRACTION
  scaled = mean * rates.gain[level]
  scaled *= 2.0**-shift
  scaled += 0.5
  np.floor(scaled, out=scaled)
  return np.clip(scaled, -_MEAN_LIMIT, _MEAN_LIMIT, out=scaled)


def mixture_at(outputs: np.ndarray, mixtures: int, rates: Rates, level: int) -> Mixture:
  """Returns the mixtures of n positions with C symbols each, at a level.

  Args:
    outputs: f64[n, P * K * C]: K scales, K means and, if K > 1, K logits per channel.
    mixtures: K.
    rates: the gains of the model.
    level: 0..255.
  """
  channels = rates.gain.shape[1]
  # In the order [P, K, n, C], symbols of a component lie side by side, as coding needs them.
  parts = outputs.reshape(len(outputs), -1, mixtures, channels).transpose(1, 2, 0, 3).copy()
  index = scales_at(parts[0], rates, level)
  mean = means_at(parts[1], rates, level)
  if mixtures == 1:
    weight = np.full_like(mean, tables.EXP[0])
  else:
    below = parts[2].max(0) - parts[2]
    weight = np.take(tables.EXP, below.astype(np.int32), mode='clip')
  return Mixture(*(field.reshape(mixtures, -1).T for field in (mean, index, weight)))
