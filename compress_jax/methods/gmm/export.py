"""Parts that the exports of gmm's two contexts share: hyper-synthesis and entropy parameters."""

from collections.abc import Sequence

import numpy as np

from compress_jax.codec import Params
from compress_jax.exact import floats, hyper, layers, rates, thaw
from compress_jax.exact.export import WIDE, FloatLayer, Precision, quantise
from compress_jax.methods.gmm import geometry

# Fraction bits of the networks' outputs: 16 for scales; differences from that for each part.
_OUT_BITS = 16
_OUT_LIMIT = 2**25  # Scales and means up to 512 and 8,192.
_PARTS = (0, rates.MEAN_BITS - _OUT_BITS, rates.LOGIT_BITS - _OUT_BITS)


def hyper_network(
  network: Sequence[FloatLayer],
  prior: hyper.Prior,
  hyper_latents: Sequence[np.ndarray],
  precision: Precision = WIDE,
) -> tuple[layers.Network, int, list[np.ndarray]]:
  """Returns the integer hyper-synthesis, the fraction bits of its features, and its inputs.

  Args:
    network: the trained layers.
    prior: the tables of the hyper-latents.
    hyper_latents: f32[h', w', H] of a few images, on which the ranges are measured.
    precision: the largest magnitudes of integers.
  """
  zs = [hyper.dequantise(hyper.quantise(z, prior), prior) for z in hyper_latents]
  made, bits = quantise(network, zs, in_bits=hyper.BITS, in_limit=hyper.LIMIT, precision=precision)
  return made, bits, zs


def parameters(
  network: Sequence[FloatLayer],
  inputs: Sequence[np.ndarray],
  bits: int,
  shifts: np.ndarray,
  mixtures: int,
  precision: Precision = WIDE,
) -> layers.Network:
  """Returns the integer entropy parameters.

  All inputs enter the same sums and so need the same fraction bits; weights absorb differences.

  Args:
    network: the trained layers.
    inputs: f64[1, n, Cin] of a few images, on which the ranges are measured.
    bits: fraction bits of the first input.
    shifts: i64[Cin], the additional fraction bits of each input.
    mixtures: K.
    precision: the largest magnitudes of integers, inputs among them.

  Raises:
    CodecError: weights are not finite, or so large that sums would not be exact.
  """
  first, *hidden, last = network
  first = first._replace(kernel=first.kernel * 2.0 ** -shifts[:, None])
  return quantise(
    [first, *hidden, _times(last, _factors(last, mixtures))],
    [x * 2.0**shifts for x in inputs],
    in_bits=bits,
    in_limit=precision.activation,
    out_bits=_OUT_BITS,
    out_limit=_OUT_LIMIT,
    precision=precision,
  )[0]


def float_parameters(
  network: layers.Network, in_bits: np.ndarray, mixtures: int
) -> list[FloatLayer]:
  """Returns the float entropy parameters; inverts `parameters` up to rounding.

  Args:
    network: the integer layers.
    in_bits: i64[Cin], fraction bits of each input.
    mixtures: K.
  """
  *hidden, last = thaw.float_layers(network, in_bits, _OUT_BITS)[0]
  return [*hidden, _times(last, 1 / _factors(last, mixtures))]


def finest(
  y: np.ndarray, table: rates.Rates, bits: int, limit: int = WIDE.activation
) -> np.ndarray:
  """Returns latents f64[h, w, C] as the networks see them at the finest level."""
  level = len(table.gain) - 1
  q = rates.quantise(y, table, level)
  return rates.fixed_point(q, table, level, bits, limit) * 2.0**-bits


def _factors(last: FloatLayer, mixtures: int) -> np.ndarray:
  """Returns the factors of outputs between the common fraction bits and those of each part."""
  parts = geometry.parts(mixtures)
  return np.repeat(2.0 ** np.array(_PARTS[:parts]), last.bias.size // parts)


def _times(layer: FloatLayer, factor: np.ndarray) -> FloatLayer:
  """Returns a layer whose outputs are each multiplied by a factor."""
  return layer._replace(kernel=layer.kernel * factor, bias=layer.bias * factor)


def hyper_layers(net: Params, slope: float) -> list[FloatLayer]:
  """Returns the layers of a `HyperSynthesis`, for export."""
  return [
    floats.layer(net['conv0'], slope=slope),
    floats.layer(net['up0']['conv'], slope=slope, shuffle=True),
    floats.layer(net['conv1'], slope=slope),
    floats.layer(net['up1']['conv'], slope=slope, shuffle=True),
    floats.layer(net['conv2']),
  ]


def hyper_params(layers: Sequence[FloatLayer]) -> Params:
  """Returns the parameters of a `HyperSynthesis` from its layers; inverts `hyper_layers`."""
  names = 'conv0', 'up0', 'conv1', 'up1', 'conv2'
  convs = [floats.conv_params(layer) for layer in layers]
  return {
    name: {'conv': conv} if name.startswith('up') else conv
    for name, conv in zip(names, convs, strict=True)
  }
