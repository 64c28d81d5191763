"""Coding of cae's files: each channel of the latents has one static table."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.codec import CodecError, Latents
from compress_jax.exact import mixture, rates, rdoq, static, tables


class Coding(NamedTuple):
  """All that determines a probability: scale mixtures with zero means, in latent units."""

  rates: rates.Rates
  scale: np.ndarray  # i64[C, K], indices of scales, relative to 0.11.
  weight: np.ndarray  # i64[C, K], 0..2^15.


def check(coding: Coding) -> None:
  """Raises CodecError if the parts of a model do not fit together."""
  channels = rates.channels(coding.rates)
  shape = coding.scale.shape
  if shape != coding.weight.shape or len(shape) != 2 or shape[0] != channels:
    raise CodecError('the prior of the model does not fit its gains')
  if coding.weight.min() < 0 or coding.weight.max(1).min() < 1:
    raise CodecError('the prior of the model has weights that no mixture has')


def prior(coding: Coding, level: int) -> static.Static:
  """Returns the tables of a level, whose gains shift the scales."""
  return static.static_of_mixture(_mixture(coding, level))


def _mixture(coding: Coding, level: int) -> mixture.Mixture:
  """Returns the mixture of every channel at a level."""
  shifted = coding.scale + coding.rates.offset[level][:, None]
  index = np.clip(shifted, 0, tables.N_SCALES - 1)
  weight = coding.weight.astype(np.float64)
  return mixture.Mixture(np.zeros_like(weight), index, weight)


def decide(coding: Coding, latents: Latents, level: int, worth: float) -> Latents:
  """Returns the latents with symbols chosen by rate and distortion, as in `exact.rdoq`."""
  assert latents.y is not None
  model, q = _mixture(coding, level), latents.q.copy()
  scaled = rates.scaled(latents.y, coding.rates, level)
  for row, values in zip(q, scaled, strict=True):
    repeated = mixture.Mixture(*(np.tile(field, (len(row), 1)) for field in model))
    row[:] = rdoq.choose(repeated, row.ravel(), values.ravel(), worth).reshape(row.shape)
  return latents._replace(q=q)


def write(coding: Coding, writer: coder.Writer, latents: Latents, level: int) -> None:
  """Codes latents, channel by channel."""
  symbols = latents.q.reshape(-1, latents.q.shape[-1])
  static.write_static(writer, prior(coding, level), symbols)


def read(
  coding: Coding, reader: coder.Reader, height: int, width: int, level: int
) -> tuple[Latents, Mapping[str, float]]:
  """Returns the latents of an h x w grid, and the bits of each stream.

  Raises:
    CodecError: the data does not hold them.
  """
  symbols = static.read_static(reader, prior(coding, level), height * width)
  q = symbols.reshape(height, width, -1)
  return Latents(q, np.zeros((0, 0, 0), np.int64)), {'y': reader.bits}


def make(table: rates.Rates, logits: np.ndarray, log_scales: np.ndarray) -> Coding:
  """Converts a trained prior to integers.

  Args:
    table: the gains.
    logits: f32[K, C], the logits of the weights.
    log_scales: f32[K, C], the natural logarithms of the scales.
  """
  octaves = log_scales.astype(np.float64) / np.log(2) - np.log2(tables.SCALES[0])
  index = np.clip(np.rint(16 * octaves), -tables.BELOW, tables.N_SCALES - 1 + tables.ABOVE)
  weight = np.rint(2**15 * np.exp(logits.astype(np.float64) - logits.max(0)))
  return Coding(table, index.T.astype(np.int64), weight.T.astype(np.int64))


def thawed(coding: Coding) -> tuple[np.ndarray, np.ndarray]:
  """Returns logits and natural logarithms of scales, f32[K, C]; inverts `make` up to rounding."""
  logits = np.log(np.maximum(coding.weight, 0.5) * 2.0**-15)
  log_scales = (coding.scale / 16 + np.log2(tables.SCALES[0])) * np.log(2)
  return logits.T.astype(np.float32), log_scales.T.astype(np.float32)
