"""Conversion of the float networks of gmm's channel context to integers, and back."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from compress_jax.codec import Params
from compress_jax.exact import checkerboard, floats, hyper, layers, rates, thaw
from compress_jax.exact.export import NARROW, FloatLayer, float_run, fraction
from compress_jax.methods.gmm import channels_coding, export, geometry, serial_coding
from compress_jax.methods.gmm.channels import ANCHORS


class FloatNetworks(NamedTuple):
  """The trained networks of the entropy path, as float layers."""

  hyper: Sequence[FloatLayer]
  # For every group, kernels f32[1, 1, Cin, Cout] with inputs in the order of `Coding.groups`.
  groups: Sequence[Sequence[FloatLayer]]


def make(
  networks: FloatNetworks,
  table: rates.Rates,
  prior: hyper.Prior,
  mixtures: int,
  views: int,
  calibration: Sequence[tuple[np.ndarray, np.ndarray]],
) -> channels_coding.Coding:
  """Converts float networks to integers.

  Args:
    networks: the trained networks.
    table: the gains.
    prior: the tables of the hyper-latents.
    mixtures: K.
    views: 2 if the networks see the latents' magnitudes beside them, else 1.
    calibration: latents f32[h, w, C] and hyper-latents of a few images.

  Raises:
    CodecError: weights are not finite, or so large that sums would not be exact.
  """
  hyper_latents = [z for _, z in calibration]
  hyper_net, bits, zs = export.hyper_network(networks.hyper, prior, hyper_latents, NARROW)
  latent_bits = fraction([y for y, _ in calibration], NARROW)
  features = [
    float_run(networks.hyper, z)[-1][: y.shape[0], : y.shape[1]]
    for (y, _), z in zip(calibration, zs, strict=True)
  ]
  fixed = [export.finest(y, table, latent_bits, NARROW.activation) for y, _ in calibration]
  count = networks.hyper[-1].bias.size // (4 if networks.hyper[-1].shuffle else 1)
  made = []
  for start, stop, network in _spans(networks.groups, mixtures):
    rest = network[0].kernel.shape[2] - count
    shifts = np.repeat([0, latent_bits - bits], [count, rest])
    own = rest > len(checkerboard.WINDOW) * views * start
    seen = [
      _inputs(feature, y, start, stop if own else start, views)
      for feature, y in zip(features, fixed, strict=True)
    ]
    made.append(export.parameters(network, seen, bits, shifts, mixtures, NARROW))
  return channels_coding.Coding(
    *(mixtures, views, latent_bits, table, prior, hyper_net, tuple(made)),
    layout=channels_coding.NEWEST,
    latent_limit=NARROW.activation,
  )


def thawed(coding: channels_coding.Coding) -> FloatNetworks:
  """Returns the float networks of a coding; inverts `make` up to the rounding of weights."""
  hyper_net, bits = thaw.float_layers(coding.hyper, hyper.BITS)
  count = layers.ends(coding.hyper)[1]
  made = []
  for network in coding.groups:
    rest = layers.ends(network)[0] - count
    in_bits = np.repeat([bits, coding.latent_bits], [count, rest])
    made.append(export.float_parameters(network, in_bits, coding.mixtures))
  return FloatNetworks(hyper_net, made)


def _spans(
  networks: Sequence[Sequence[FloatLayer]], mixtures: int
) -> Iterator[tuple[int, int, Sequence[FloatLayer]]]:
  """Yields the first channel of each group, its last one (exclusive) and its network."""
  start = 0
  for network in networks:
    stop = start + network[-1].bias.size // geometry.outputs_of_latent(mixtures)
    yield start, stop, network
    start = stop


def _inputs(features: np.ndarray, y: np.ndarray, start: int, stop: int, views: int) -> np.ndarray:
  """Returns the inputs f64[1, h * w, inputs] of a group's first layer at all positions.

  The group has the channels start..stop - 1, or none of its own if it is coded in one pass.
  """
  height, width, _ = y.shape
  before = checkerboard.padded(height, width, views * start)
  own = checkerboard.padded(height, width, views * (stop - start))
  checkerboard.inner(before)[:] = serial_coding.seen(y[..., :start], views)
  first, second = checkerboard.passes(height, width)
  at = np.divmod(first, width)
  checkerboard.inner(own)[at] = serial_coding.seen(y[..., start:stop], views)[at]
  everywhere = np.concatenate([first, second])
  anchors = checkerboard.gather(own, everywhere, checkerboard.ANCHORS)
  anchors[: len(first)] = 0
  flat = features.reshape(height * width, -1)[everywhere]
  near = checkerboard.gather(before, everywhere, checkerboard.WINDOW)
  return np.concatenate([flat, near, anchors], 1)[None]


def group_layers(params: Params, slope: float) -> list[list[FloatLayer]]:
  """Returns the layers of every group of a `ChannelContext` for single positions, for export.

  The inputs of the first layer are the features, the groups before at the positions of a 3x3
  window, and the latents of the same group at the `ANCHORS` if it has two passes, all row by row.
  """
  return [_layers(params[f'group{i}'], slope) for i in range(len(params))]


def _layers(params: Params, slope: float) -> list[FloatLayer]:
  first = params['features']
  rows = [first['kernel'], *([params['before']['kernel']] if 'before' in params else [])]
  rows.extend([params['anchors']['kernel']] if 'anchors' in params else [])
  width = first['kernel'].shape[-1]
  kernel = np.concatenate([np.asarray(part).reshape(-1, width) for part in rows])
  joined = FloatLayer(kernel[None, None], np.asarray(first['bias']), slope)
  return [joined, floats.layer(params['hidden'], slope=slope), floats.layer(params['last'])]


def group_params(
  networks: Sequence[Sequence[FloatLayer]], features: int, views: int, mixtures: int
) -> Params:
  """Returns the parameters of a `ChannelContext` from its layers; inverts `group_layers`.

  Args:
    networks: the layers of every group.
    features: the number of features of the hyper-synthesis.
    views: 2 if the networks see the latents' magnitudes beside them, else 1.
    mixtures: K.
  """
  params = {}
  for i, (before, _, (first, hidden, last)) in enumerate(_spans(networks, mixtures)):
    rows, width = first.kernel[0, 0], first.kernel.shape[-1]
    near = features + 9 * views * before
    group = {
      'features': {'kernel': rows[:features].reshape(1, 1, features, width), 'bias': first.bias},
      'hidden': floats.conv_params(hidden),
      'last': floats.conv_params(last),
    }
    if before:
      group['before'] = {'kernel': rows[features:near].reshape(3, 3, views * before, width)}
    if len(rows) > near:
      group['anchors'] = {'kernel': rows[near:].reshape(len(ANCHORS), -1, width)}
    params[f'group{i}'] = group
  return params
