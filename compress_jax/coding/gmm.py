"""gmm's files: hyper-latents by static tables, then latents along the context's wavefront."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.codec import CodecError
from compress_jax.exact import export, hyper, layers, mixture, packed, rates, wavefront
from compress_jax.exact.export import FloatLayer
from compress_jax.latents import Latents

HYPER_CELL = 4  # Latents of a hyper-latent's side.
_BATCH = 2048  # Positions whose mixtures the encoder predicts at a time.
# What the networks put out, as powers of two over the common fraction of 16 bits.
_OUT_BITS = 16
_OUT_LIMIT = 2**25  # Scales and means up to 512 and 8,192.
_PARTS = (0, rates.MEAN_BITS - _OUT_BITS, rates.LOGIT_BITS - _OUT_BITS)


class Coding(NamedTuple):
  """All that decides a probability."""

  mixtures: int  # K
  latent_bits: int  # Fraction bits of the latents that the context sees.
  rates: rates.Rates
  prior: hyper.Prior  # Of the hyper-latents.
  hyper: layers.Network  # Hyper-latents to features f64[h, w, 2C].
  context: layers.Network  # One layer: neighbours f64[n, 12 C] to features f64[n, 2C].
  parameters: layers.Network  # Both features, side by side, to scales, means and logits.


class FloatNetworks(NamedTuple):
  """The same networks as they were trained."""

  hyper: Sequence[FloatLayer]
  context: FloatLayer  # Kernel f32[5, 5, C, 2C]; only what the mask leaves counts.
  parameters: Sequence[FloatLayer]


def check(coding: Coding) -> None:
  """Raises CodecError where the parts of a model do not fit together."""
  n, k = rates.channels(coding.rates), coding.mixtures
  parts = 3 if k > 1 else 2
  taps = len(wavefront.TAPS) * n
  seen = layers.ends(coding.context)[1]
  fits = hyper.channels(coding.prior) == layers.ends(coding.hyper)[0]
  fits &= layers.ends(coding.context)[0] == taps and len(coding.context) == 1
  fits &= layers.ends(coding.parameters) == (layers.ends(coding.hyper)[1] + seen, parts * k * n)
  fits &= all(layer.kernel == 1 for layer in coding.context + coding.parameters)
  if not fits or k < 1:
    raise CodecError('the networks of the model do not fit together')


def predict(
  coding: Coding, features: np.ndarray, neighbours: np.ndarray, level: int
) -> mixture.Mixture:
  """The mixtures of many positions, C symbols each.

  Args:
    coding: of the model.
    features: f64[n, 2C] of the hyper-synthesis.
    neighbours: f64[n, 12 C], what the context sees.
    level: 0..255.
  """
  outputs = np.concatenate([features, layers.dense(neighbours, coding.context[0])], 1)
  for layer in coding.parameters:
    outputs = layers.dense(outputs, layer)
  return rates.mixture_at(outputs, coding.mixtures, coding.rates, level)


class Stepwise(NamedTuple):
  """What `predict` computes with, laid out for few positions at a time."""

  context: tuple[packed.Packed, ...]
  parameters: tuple[packed.Packed, ...]


def stepwise(coding: Coding) -> Stepwise:
  """Lays out the networks that run at every step of decoding."""
  return Stepwise(packed.pack(coding.context), packed.pack(coding.parameters))


def predict_step(
  coding: Coding, nets: Stepwise, features: np.ndarray, neighbours: np.ndarray, level: int
) -> mixture.Mixture:
  """The same integers as `predict`, sooner for few positions."""
  outputs = np.concatenate([features, packed.run(nets.context, neighbours)], 1)
  outputs = packed.run(nets.parameters, outputs)
  return rates.mixture_at(outputs, coding.mixtures, coding.rates, level)


def write(coding: Coding, writer: coder.Writer, latents: Latents, level: int) -> None:
  """Codes latents and hyper-latents."""
  height, width, channels = latents.q.shape
  hyper.write(writer, coding.prior, latents.z)
  features = hyper.features(coding.hyper, latents.z, coding.prior, (height, width))
  border = wavefront.padded(rates.fixed_point(latents.q, coding.rates, level, coding.latent_bits))
  rows, columns, bounds = wavefront.order(height, width)
  for first, last in pairwise(_cuts(bounds)):  # Nothing here depends on how steps group.
    span = slice(bounds[first], bounds[last])
    at = rows[span], columns[span]
    predicted = predict(coding, features[at], wavefront.gather(border, *at), level)
    steps = (bounds[first : last + 1] - bounds[first]) * channels
    mixture.write_steps(writer, predicted, latents.q[at].ravel(), steps)


def _cuts(bounds: np.ndarray) -> list[int]:
  """Ends of runs of steps that have about _BATCH positions each."""
  cuts = [0]
  while cuts[-1] < len(bounds) - 1:
    end = int(np.searchsorted(bounds, bounds[cuts[-1]] + _BATCH, 'right')) - 1
    cuts.append(max(end, cuts[-1] + 1))
  return cuts


def read(
  coding: Coding, reader: coder.Reader, height: int, width: int, level: int
) -> tuple[Latents, Mapping[str, float]]:
  """The latents of an h x w grid, and the bits of each stream.

  Raises:
    CodecError: the data does not hold them.
  """
  z = hyper.read(reader, coding.prior, hyper.grid(height, width, HYPER_CELL))
  bits_z = reader.bits
  features = hyper.features(coding.hyper, z, coding.prior, (height, width))
  q = np.zeros((height, width, coding.rates.gain.shape[1]), np.int64)
  border = wavefront.padded(q.astype(np.float64))
  inner = border[wavefront.BORDER :, wavefront.BORDER : -wavefront.BORDER]
  rows, columns, bounds = wavefront.order(height, width)
  nets = stepwise(coding)
  for start, stop in pairwise(bounds):
    at = rows[start:stop], columns[start:stop]
    predicted = predict_step(coding, nets, features[at], wavefront.gather(border, *at), level)
    symbols = mixture.read(reader, predicted).reshape(stop - start, -1)
    q[at] = symbols
    inner[at] = rates.fixed_point(symbols, coding.rates, level, coding.latent_bits)
  return Latents(q, z), {'z': bits_z, 'y': reader.bits - bits_z}


def make(
  networks: FloatNetworks,
  table: rates.Rates,
  prior: hyper.Prior,
  mixtures: int,
  calibration: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Coding:
  """Integer networks from float ones.

  Args:
    networks: as they were trained.
    table: gains.
    prior: of the hyper-latents.
    mixtures: K.
    calibration: latents f32[h, w, C] and hyper-latents of a few images.

  Raises:
    CodecError: weights are not finite, or so large that sums would not be exact.
  """
  zs = [hyper.dequantise(hyper.quantise(z, prior), prior) for _, z in calibration]
  hyper_net, bits = export.quantise(networks.hyper, zs, in_bits=hyper.BITS, in_limit=hyper.LIMIT)
  causal = wavefront.causal_rows(networks.context.kernel)
  context = networks.context._replace(kernel=causal[None, None])
  latent_bits = export.fraction([y for y, _ in calibration])
  seen = [_neighbourhoods(y, table, latent_bits) for y, _ in calibration]
  context_net, context_bits = export.quantise(
    [context], seen, in_bits=latent_bits, in_limit=export.ACTIVATION
  )
  # Both features enter the same sums: one fraction for both, the other's in the weights.
  joined = [
    _side_by_side(networks.hyper, z, context, neighbours, y.shape, context_bits - bits)
    for (y, _), z, neighbours in zip(calibration, zs, seen, strict=True)
  ]
  parameters, _ = export.quantise(
    _scaled(networks.parameters, bits - context_bits, context.bias.size, mixtures),
    joined,
    in_bits=bits,
    in_limit=export.ACTIVATION,
    out_bits=_OUT_BITS,
    out_limit=_OUT_LIMIT,
  )
  return Coding(mixtures, latent_bits, table, prior, hyper_net, context_net, parameters)


def _neighbourhoods(y: np.ndarray, table: rates.Rates, bits: int) -> np.ndarray:
  """f64[1, n, 12 C] of all positions, at the finest level."""
  level = len(table.gain) - 1
  q = rates.quantise(y, table, level)
  border = wavefront.padded(rates.fixed_point(q, table, level, bits) * 2.0**-bits)
  rows, columns, _ = wavefront.order(*y.shape[:2])
  return wavefront.gather(border, rows, columns)[None]


def _side_by_side(
  hyper_net: Sequence[FloatLayer],
  z: np.ndarray,
  context: FloatLayer,
  neighbours: np.ndarray,
  shape: tuple[int, ...],
  shift: int,
) -> np.ndarray:
  """f64[1, n, 4C]: what the parameter network sees, the context in units of 2^-shift."""
  features = export.float_run(hyper_net, z)[-1][: shape[0], : shape[1]]
  rows, columns, _ = wavefront.order(*shape[:2])
  seen = export.float_run([context], neighbours)[-1]
  return np.concatenate([features[rows, columns][None], seen * 2.0**shift], -1)


def _scaled(
  network: Sequence[FloatLayer], shift: int, seen: int, mixtures: int
) -> list[FloatLayer]:
  """With the context's inputs times 2^shift, and every output in its own fraction bits."""
  first = network[0].kernel.copy()
  first[:, :, -seen:] *= 2.0**shift
  last = network[-1]
  parts = 3 if mixtures > 1 else 2
  factor = np.repeat(2.0 ** np.array(_PARTS[:parts]), last.bias.size // parts)
  scaled = last._replace(kernel=last.kernel * factor, bias=last.bias * factor)
  return [network[0]._replace(kernel=first), *network[1:-1], scaled]
