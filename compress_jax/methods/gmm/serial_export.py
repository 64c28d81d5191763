"""From gmm's float networks to the integer networks that code its files, and back."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from compress_jax.codec import Params
from compress_jax.exact import export, floats, hyper, layers, rates, thaw, wavefront
from compress_jax.exact.export import FloatLayer
from compress_jax.methods.gmm import serial_coding
from compress_jax.methods.gmm.serial import slice_name

# What the networks put out, as powers of two over the common fraction of 16 bits.
OUT_BITS = 16
OUT_LIMIT = 2**25  # Scales and means up to 512 and 8,192.
_PARTS = (0, rates.MEAN_BITS - OUT_BITS, rates.LOGIT_BITS - OUT_BITS)


class FloatNetworks(NamedTuple):
  """The same networks as they were trained."""

  hyper: Sequence[FloatLayer]
  context: FloatLayer  # Kernel f32[5, 5, C, 2C]; only what the mask leaves counts.
  parameters: Sequence[Sequence[FloatLayer]]  # Of every slice.


def make(
  networks: FloatNetworks,
  table: rates.Rates,
  prior: hyper.Prior,
  mixtures: int,
  calibration: Sequence[tuple[np.ndarray, np.ndarray]],
) -> serial_coding.Coding:
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
  views = networks.context.kernel.shape[2] // rates.channels(table)
  latent_bits = export.fraction([y for y, _ in calibration])
  found = [_neighbourhoods(y, table, latent_bits, views) for y, _ in calibration]
  context_net, context_bits = export.quantise(
    [context], [near for near, _ in found], in_bits=latent_bits, in_limit=export.ACTIVATION
  )
  made: list[layers.Network] = []
  start = 0
  for network in networks.parameters:
    # All inputs enter the same sums: one fraction for all, the others' in the weights.
    shifts = np.repeat(
      [0, context_bits - bits, latent_bits - bits],
      [networks.hyper[-1].bias.size, context.bias.size, views * start],
    )
    inputs = [
      _inputs(networks.hyper, z, context, near, own[..., :start], y.shape, views) * 2.0**shifts
      for (y, _), z, (near, own) in zip(calibration, zs, found, strict=True)
    ]
    made.append(
      export.quantise(
        scaled(network, -shifts, mixtures),
        inputs,
        in_bits=bits,
        in_limit=export.ACTIVATION,
        out_bits=OUT_BITS,
        out_limit=OUT_LIMIT,
      )[0]
    )
    start += network[-1].bias.size // (mixtures * (3 if mixtures > 1 else 2))
  return serial_coding.Coding(
    mixtures, latent_bits, table, prior, hyper_net, context_net, made[0], tuple(made[1:])
  )


def thawed(coding: serial_coding.Coding) -> FloatNetworks:
  """The inverse of `make`, but for the rounding of weights."""
  hyper_net, bits = thaw.float_layers(coding.hyper, hyper.BITS)
  (context,), context_bits = thaw.float_layers(coding.context, coding.latent_bits)
  features, of_context = hyper_net[-1].bias.size, context.bias.size
  parameters = []
  for network in (coding.parameters, *coding.later):
    before = layers.ends(network)[0] - features - of_context
    in_bits = np.repeat([bits, context_bits, coding.latent_bits], [features, of_context, before])
    *hidden, last = thaw.float_layers(network, in_bits, OUT_BITS)[0]
    factor = 1 / factors(last, coding.mixtures)
    parameters.append([*hidden, times(last, factor)])
  kernel = wavefront.causal_kernel(context.kernel[0, 0])
  return FloatNetworks(hyper_net, context._replace(kernel=kernel), parameters)


def _neighbourhoods(
  y: np.ndarray, table: rates.Rates, bits: int, views: int
) -> tuple[np.ndarray, np.ndarray]:
  """At the finest level, what the context sees at all positions f64[1, n, 12 C], and f64[n, C]."""
  level = len(table.gain) - 1
  q = rates.quantise(y, table, level)
  fixed = rates.fixed_point(q, table, level, bits) * 2.0**-bits
  rows, columns, _ = wavefront.order(*y.shape[:2])
  border = wavefront.padded(serial_coding.seen(fixed, views))
  return wavefront.gather(border, rows, columns)[None], fixed[rows, columns]


def _inputs(
  hyper_net: Sequence[FloatLayer],
  z: np.ndarray,
  context: FloatLayer,
  near: np.ndarray,
  before: np.ndarray,
  shape: tuple[int, ...],
  views: int,
) -> np.ndarray:
  """f64[1, n, inputs]: what the parameter network of a slice sees."""
  features = export.float_run(hyper_net, z)[-1][: shape[0], : shape[1]]
  rows, columns, _ = wavefront.order(*shape[:2])
  of_context = export.float_run([context], near)[-1]
  return np.concatenate(
    [features[rows, columns][None], of_context, serial_coding.seen(before, views)[None]], -1
  )


def scaled(network: Sequence[FloatLayer], shifts: np.ndarray, mixtures: int) -> list[FloatLayer]:
  """With weights of inputs times 2^shifts, and every output in its own fraction bits."""
  first, *hidden, last = network
  rows = first._replace(kernel=first.kernel * 2.0 ** shifts[:, None])
  return [rows, *hidden, times(last, factors(last, mixtures))]


def factors(last: FloatLayer, mixtures: int) -> np.ndarray:
  """What brings each output to its own fraction bits from the common ones."""
  parts = 3 if mixtures > 1 else 2
  return np.repeat(2.0 ** np.array(_PARTS[:parts]), last.bias.size // parts)


def times(layer: FloatLayer, factor: np.ndarray) -> FloatLayer:
  """The layer whose outputs are multiplied by a factor each."""
  return layer._replace(kernel=layer.kernel * factor, bias=layer.bias * factor)


def hyper_layers(net: Params, slope: float) -> list[FloatLayer]:
  """The layers of a `HyperSynthesis`, for export."""
  return [
    floats.layer(net['conv0'], slope=slope),
    floats.layer(net['up0']['conv'], slope=slope, shuffle=True),
    floats.layer(net['conv1'], slope=slope),
    floats.layer(net['up1']['conv'], slope=slope, shuffle=True),
    floats.layer(net['conv2']),
  ]


def hyper_params(layers: Sequence[FloatLayer]) -> Params:
  """The inverse of `hyper_layers`."""
  names = 'conv0', 'up0', 'conv1', 'up1', 'conv2'
  convs = [floats.conv_params(layer) for layer in layers]
  return {
    name: {'conv': conv} if name.startswith('up') else conv
    for name, conv in zip(names, convs, strict=True)
  }


def float_networks(params: Params, slope: float) -> FloatNetworks:
  """The networks of the entropy path, for export."""
  hyper = hyper_layers(params['hyper_synthesis'], slope)
  parameters: list[list[FloatLayer]] = []
  while slice_name(len(parameters)) in params:
    net = params[slice_name(len(parameters))]
    hidden = [floats.layer(net[f'conv{i}'], slope=slope) for i in range(2)]
    parameters.append([*hidden, floats.layer(net['conv2'])])
  return FloatNetworks(hyper, floats.layer(params['context']), parameters)


def params_of(networks: FloatNetworks) -> Params:
  """The inverse of `float_networks`."""
  parameters = {
    slice_name(i): {f'conv{k}': floats.conv_params(layer) for k, layer in enumerate(network)}
    for i, network in enumerate(networks.parameters)
  }
  return {
    'hyper_synthesis': hyper_params(networks.hyper),
    'context': floats.conv_params(networks.context),
    **parameters,
  }
