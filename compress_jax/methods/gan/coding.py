"""Coding of gan's files: hyper-latents by static tables, then latents around predicted means."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.codec import CodecError, Latents
from compress_jax.exact import export, hyper, layers, mixture, rates, rdoq, tables, thaw
from compress_jax.exact.export import FloatLayer
from compress_jax.methods.gan.geometry import HYPER_CELL

_STEP = 64  # Positions that are coded together; part of the format.


class Coding(NamedTuple):
  """All that determines a probability."""

  rates: rates.Rates
  prior: hyper.Prior  # Tables of the hyper-latents.
  mean: layers.Network  # Hyper-latents to means f64[h, w, C].
  scale: layers.Network  # Hyper-latents to scales f64[h, w, C].


def check(coding: Coding) -> None:
  """Raises CodecError if the parts of a model do not fit together."""
  ends = hyper.channels(coding.prior), rates.channels(coding.rates)
  if layers.ends(coding.mean) != ends or layers.ends(coding.scale) != ends:
    raise CodecError('the networks of the model do not fit together')


def means(coding: Coding, z: np.ndarray, shape: tuple[int, int], level: int) -> np.ndarray:
  """Returns the means f64[h, w, C], in 2^-8 symbols, predicted from symbols z i64[h', w', C']."""
  return rates.means_at(hyper.features(coding.mean, z, coding.prior, shape), coding.rates, level)


def scales(coding: Coding, z: np.ndarray, shape: tuple[int, int], level: int) -> np.ndarray:
  """Returns the scale indices i64[h, w, C] predicted from symbols z i64[h', w', C']."""
  return rates.scales_at(hyper.features(coding.scale, z, coding.prior, shape), coding.rates, level)


def _mixture(scale: np.ndarray) -> mixture.Mixture:
  """Returns one Gaussian around zero for each symbol, in the order of positions."""
  index = scale.reshape(-1, 1)
  return mixture.Mixture(np.zeros(index.shape), index, np.full(index.shape, tables.EXP[0]))


def _bounds(n: int, channels: int) -> np.ndarray:
  """Returns the indices among n * C symbols at which runs of _STEP positions start, and n * C."""
  return np.append(np.arange(0, n, _STEP), n) * channels


def write(coding: Coding, writer: coder.Writer, latents: Latents, level: int) -> None:
  """Codes latents and hyper-latents."""
  height, width, channels = latents.q.shape
  hyper.write(writer, coding.prior, latents.z)
  model = _mixture(scales(coding, latents.z, (height, width), level))
  mixture.write_steps(writer, model, latents.q.ravel(), _bounds(height * width, channels))


def decide(coding: Coding, latents: Latents, level: int, worth: float) -> Latents:
  """Returns the latents with symbols chosen by rate and distortion, as in `exact.rdoq`."""
  assert latents.y is not None
  shape = latents.q.shape
  model = _mixture(scales(coding, latents.z, shape[:2], level))
  scaled = rates.scaled(latents.y, coding.rates, level, latents.mean)
  q = rdoq.choose(model, latents.q.ravel(), scaled.ravel(), worth)
  return latents._replace(q=q.reshape(shape))


def read(
  coding: Coding, reader: coder.Reader, height: int, width: int, level: int
) -> tuple[Latents, Mapping[str, float]]:
  """Returns the latents of an h x w grid, and the bits of each stream.

  Raises:
    CodecError: the data does not hold them.
  """
  z = hyper.read(reader, coding.prior, hyper.grid(height, width, HYPER_CELL))
  bits_z = reader.bits
  model = _mixture(scales(coding, z, (height, width), level))
  channels = coding.rates.gain.shape[1]
  runs = pairwise(_bounds(height * width, channels))
  parts = [
    mixture.read(reader, mixture.Mixture(*(field[start:stop] for field in model)))
    for start, stop in runs
  ]
  q = np.concatenate(parts).reshape(height, width, channels)
  mean = means(coding, z, (height, width), level)
  return Latents(q, z, mean), {'z': bits_z, 'y': reader.bits - bits_z}


def make(
  mean: Sequence[FloatLayer],
  scale: Sequence[FloatLayer],
  table: rates.Rates,
  prior: hyper.Prior,
  calibration: Sequence[np.ndarray],
) -> Coding:
  """Converts float networks to integers, calibrated on hyper-latents f32[h', w', C'].

  Raises:
    CodecError: weights are not finite, or so large that sums would not be exact.
  """
  inputs = [hyper.dequantise(hyper.quantise(z, prior), prior) for z in calibration]

  def integers(network: Sequence[FloatLayer], bits: int) -> layers.Network:
    return export.quantise(
      network, inputs, in_bits=hyper.BITS, in_limit=hyper.LIMIT, out_bits=bits, out_limit=2**25
    )[0]

  return Coding(table, prior, integers(mean, rates.MEAN_BITS), integers(scale, tables.SIGMA_BITS))


def thawed(coding: Coding) -> tuple[list[FloatLayer], list[FloatLayer]]:
  """Returns the float networks of means and of scales; inverts `make` up to rounding."""
  mean, _ = thaw.float_layers(coding.mean, hyper.BITS, rates.MEAN_BITS)
  scale, _ = thaw.float_layers(coding.scale, hyper.BITS, tables.SIGMA_BITS)
  return mean, scale
