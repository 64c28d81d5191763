"""From the float networks of gmm's channel context to integers that code files, and back."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from compress_jax.coding import gmm, gmm_channels
from compress_jax.coding.gmm_export import OUT_BITS, OUT_LIMIT, factors, scaled, times
from compress_jax.exact import checkerboard, export, hyper, layers, rates, thaw
from compress_jax.exact.export import FloatLayer


class FloatNetworks(NamedTuple):
  """The networks as they were trained."""

  hyper: Sequence[FloatLayer]
  # Of every group; kernels f32[1, 1, Cin, Cout] with inputs in the order of `Coding.groups`.
  groups: Sequence[Sequence[FloatLayer]]


def make(
  networks: FloatNetworks,
  table: rates.Rates,
  prior: hyper.Prior,
  mixtures: int,
  views: int,
  calibration: Sequence[tuple[np.ndarray, np.ndarray]],
) -> gmm_channels.Coding:
  """Integer networks from float ones.

  Args:
    networks: as they were trained.
    table: gains.
    prior: of the hyper-latents.
    mixtures: K.
    views: 2 where the networks see the latents' magnitudes beside them, else 1.
    calibration: latents f32[h, w, C] and hyper-latents of a few images.

  Raises:
    CodecError: weights are not finite, or so large that sums would not be exact.
  """
  zs = [hyper.dequantise(hyper.quantise(z, prior), prior) for _, z in calibration]
  hyper_net, bits = export.quantise(networks.hyper, zs, in_bits=hyper.BITS, in_limit=hyper.LIMIT)
  latent_bits = export.fraction([y for y, _ in calibration])
  features = [
    export.float_run(networks.hyper, z)[-1][: y.shape[0], : y.shape[1]]
    for (y, _), z in zip(calibration, zs, strict=True)
  ]
  fixed = [_fixed(y, table, latent_bits) for y, _ in calibration]
  count = networks.hyper[-1].bias.size // (4 if networks.hyper[-1].shuffle else 1)
  made = []
  for start, stop, network in _spans(networks.groups, mixtures):
    # All inputs enter the same sums: one fraction for all, that of latents in the weights.
    shifts = np.repeat([0, latent_bits - bits], [count, network[0].kernel.shape[2] - count])
    seen = [
      _inputs(feature, y, start, stop, views) * 2.0**shifts
      for feature, y in zip(features, fixed, strict=True)
    ]
    made.append(
      export.quantise(
        scaled(network, -shifts, mixtures),
        seen,
        in_bits=bits,
        in_limit=export.ACTIVATION,
        out_bits=OUT_BITS,
        out_limit=OUT_LIMIT,
      )[0]
    )
  return gmm_channels.Coding(mixtures, views, latent_bits, table, prior, hyper_net, tuple(made))


def thawed(coding: gmm_channels.Coding) -> FloatNetworks:
  """The inverse of `make`, but for the rounding of weights."""
  hyper_net, bits = thaw.float_layers(coding.hyper, hyper.BITS)
  count = layers.ends(coding.hyper)[1]
  made = []
  for network in coding.groups:
    rest = layers.ends(network)[0] - count
    in_bits = np.repeat([bits, coding.latent_bits], [count, rest])
    *hidden, last = thaw.float_layers(network, in_bits, OUT_BITS)[0]
    made.append([*hidden, times(last, 1 / factors(last, coding.mixtures))])
  return FloatNetworks(hyper_net, made)


def _spans(
  networks: Sequence[Sequence[FloatLayer]], mixtures: int
) -> Iterator[tuple[int, int, Sequence[FloatLayer]]]:
  """The first and the last channel of each group, exclusive, and its network."""
  start = 0
  for network in networks:
    stop = start + network[-1].bias.size // (mixtures * (3 if mixtures > 1 else 2))
    yield start, stop, network
    start = stop


def _fixed(y: np.ndarray, table: rates.Rates, bits: int) -> np.ndarray:
  """f64[h, w, C]: latents as the networks see them at the finest level."""
  level = len(table.gain) - 1
  return rates.fixed_point(rates.quantise(y, table, level), table, level, bits) * 2.0**-bits


def _inputs(features: np.ndarray, y: np.ndarray, start: int, stop: int, views: int) -> np.ndarray:
  """f64[1, h * w, inputs]: what the first layer of a group sees at all positions."""
  height, width, _ = y.shape
  before = checkerboard.padded(height, width, views * start)
  own = checkerboard.padded(height, width, views * (stop - start))
  checkerboard.inner(before)[:] = gmm.seen(y[..., :start], views)
  first, second = checkerboard.passes(height, width)
  at = np.divmod(first, width)
  checkerboard.inner(own)[at] = gmm.seen(y[..., start:stop], views)[at]
  everywhere = np.concatenate([first, second])
  anchors = checkerboard.gather(own, everywhere, checkerboard.ANCHORS)
  anchors[: len(first)] = 0
  flat = features.reshape(height * width, -1)[everywhere]
  near = checkerboard.gather(before, everywhere, checkerboard.WINDOW)
  return np.concatenate([flat, near, anchors], 1)[None]
