"""Conversion of the float networks of gmm's serial context to integers, and back."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from compress_jax.codec import Params
from compress_jax.exact import floats, hyper, layers, rates, thaw, wavefront
from compress_jax.exact.export import WIDE, FloatLayer, float_run, fraction, quantise
from compress_jax.methods.gmm import export, geometry, serial_coding
from compress_jax.methods.gmm.serial import slice_name


class FloatNetworks(NamedTuple):
  """The trained networks of the entropy path, as float layers."""

  hyper: Sequence[FloatLayer]
  context: FloatLayer  # Kernel f32[5, 5, C, 2C]; only weights inside the mask are used.
  parameters: Sequence[Sequence[FloatLayer]]  # The entropy parameters of every slice.


def make(
  networks: FloatNetworks,
  table: rates.Rates,
  prior: hyper.Prior,
  mixtures: int,
  calibration: Sequence[tuple[np.ndarray, np.ndarray]],
) -> serial_coding.Coding:
  """Converts float networks to integers.

  Args:
    networks: the trained networks.
    table: the gains.
    prior: the tables of the hyper-latents.
    mixtures: K.
    calibration: latents f32[h, w, C] and hyper-latents of a few images.

  Raises:
    CodecError: weights are not finite, or so large that sums would not be exact.
  """
  hyper_net, bits, zs = export.hyper_network(networks.hyper, prior, [z for _, z in calibration])
  causal = wavefront.causal_rows(networks.context.kernel)
  context = networks.context._replace(kernel=causal[None, None])
  views = networks.context.kernel.shape[2] // rates.channels(table)
  latent_bits = fraction([y for y, _ in calibration])
  found = [_neighbourhoods(y, table, latent_bits, views) for y, _ in calibration]
  context_net, context_bits = quantise(
    [context], [near for near, _ in found], in_bits=latent_bits, in_limit=WIDE.activation
  )
  made: list[layers.Network] = []
  start = 0
  for network in networks.parameters:
    shifts = np.repeat(
      [0, context_bits - bits, latent_bits - bits],
      [networks.hyper[-1].bias.size, context.bias.size, views * start],
    )
    inputs = [
      _inputs(networks.hyper, z, context, near, own[..., :start], y.shape, views)
      for (y, _), z, (near, own) in zip(calibration, zs, found, strict=True)
    ]
    made.append(export.parameters(network, inputs, bits, shifts, mixtures))
    start += network[-1].bias.size // geometry.outputs_of_latent(mixtures)
  return serial_coding.Coding(
    mixtures, latent_bits, table, prior, hyper_net, context_net, made[0], tuple(made[1:])
  )


def thawed(coding: serial_coding.Coding) -> FloatNetworks:
  """Returns the float networks of a coding; inverts `make` up to the rounding of weights."""
  hyper_net, bits = thaw.float_layers(coding.hyper, hyper.BITS)
  (context,), context_bits = thaw.float_layers(coding.context, coding.latent_bits)
  features, of_context = hyper_net[-1].bias.size, context.bias.size
  parameters = []
  for network in (coding.parameters, *coding.later):
    before = layers.ends(network)[0] - features - of_context
    in_bits = np.repeat([bits, context_bits, coding.latent_bits], [features, of_context, before])
    parameters.append(export.float_parameters(network, in_bits, coding.mixtures))
  kernel = wavefront.causal_kernel(context.kernel[0, 0])
  return FloatNetworks(hyper_net, context._replace(kernel=kernel), parameters)


def _neighbourhoods(
  y: np.ndarray, table: rates.Rates, bits: int, views: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the context's inputs f64[1, n, 12 C] and the latents f64[n, C] at all positions.

  Latents are those of the finest level.
  """
  fixed = export.finest(y, table, bits)
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
  """Returns the inputs f64[1, n, inputs] of the parameter network of a slice."""
  features = float_run(hyper_net, z)[-1][: shape[0], : shape[1]]
  rows, columns, _ = wavefront.order(*shape[:2])
  of_context = float_run([context], near)[-1]
  return np.concatenate(
    [features[rows, columns][None], of_context, serial_coding.seen(before, views)[None]], -1
  )


def float_networks(params: Params, slope: float) -> FloatNetworks:
  """Returns the float layers of the entropy path, for export."""
  hyper = export.hyper_layers(params['hyper_synthesis'], slope)
  parameters: list[list[FloatLayer]] = []
  while slice_name(len(parameters)) in params:
    net = params[slice_name(len(parameters))]
    hidden = [floats.layer(net[f'conv{i}'], slope=slope) for i in range(2)]
    parameters.append([*hidden, floats.layer(net['conv2'])])
  return FloatNetworks(hyper, floats.layer(params['context']), parameters)


def params_of(networks: FloatNetworks) -> Params:
  """Returns the parameters of the entropy path from its layers; inverts `float_networks`."""
  parameters = {
    slice_name(i): {f'conv{k}': floats.conv_params(layer) for k, layer in enumerate(network)}
    for i, network in enumerate(networks.parameters)
  }
  return {
    'hyper_synthesis': export.hyper_params(networks.hyper),
    'context': floats.conv_params(networks.context),
    **parameters,
  }
