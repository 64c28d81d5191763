"""What other symbols would cost: the integer entropy path as differentiable functions.

Each method has `arrays`, what its integers say about one image, and `rate`, a pure function
of those and of symbols f32[h, w, C]. The files are coded by `exact` alone; these estimates agree
with it as the float models do, but for symbols far from all that is expected: a file escapes them
in fewer bits than the floor of the likelihoods says. Of the models that ship that is 0.2 % or less.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax import entropy
from compress_jax.codec import Array, Params
from compress_jax.coding import cae, gan, gmm, gmm_channels
from compress_jax.exact import checkerboard, hyper, layers, rates, tables, wavefront
from compress_jax.latents import Latents
from compress_jax.quantization import Price

Tree = Any  # Nested tuples of arrays.
# Bits of symbols, each, where the networks see the symbols f32[h, w, C] of these magnitudes.
Rate = Callable[[Tree, Array, Array], Price]
Synthesis = Callable[[Params, Array], Array]  # y_hat f32[1, h, w, C] to x_hat f32[1, H, W, 3].


class Relaxed(NamedTuple):
  """The rate of a method."""

  arrays: Callable[[Any, Latents, int], Tree]  # Of a Coding, the file's integers, a level.
  rate: Rate


def _tree(*values: Any) -> Tree:
  return tuple(np.asarray(value, np.float32) for value in values)


def _cae_arrays(coding: cae.Coding, latents: Latents, level: int) -> Tree:
  del latents
  shifted = coding.scale + coding.rates.offset[level][:, None]
  scale = tables.SCALES[np.clip(shifted, 0, tables.N_SCALES - 1)]
  return _tree(scale.T, np.log(np.maximum(coding.weight.T, 1e-6)))


def _cae_rate(tree: Tree, seen: Array, sizes: Array) -> Price:
  del seen, sizes
  scale, logits = (values[:, None, None] for values in tree)
  return _mixture(logits, jnp.zeros_like(scale), scale)


def _gan_arrays(coding: gan.Coding, latents: Latents, level: int) -> Tree:
  predicted = gan.predict(coding, latents.z, latents.q.shape[:2], level)
  return _tree(tables.SCALES[predicted.scale])


def _gan_rate(tree: Tree, seen: Array, sizes: Array) -> Price:
  del seen, sizes
  (scale,) = tree
  return lambda q: entropy.bits_of(entropy.gaussian_likelihood(q, jnp.zeros_like(q), scale))


def _gmm_arrays(coding: gmm.Coding, latents: Latents, level: int) -> Tree:
  features = hyper.features(coding.hyper, latents.z, coding.prior, latents.q.shape[:2])
  gain = coding.rates.gain[level] * 2.0**-rates.GAIN_BITS
  seen = coding.rates.inverse[level] * 2.0 ** (coding.latent_bits - rates.GAIN_BITS)
  (context,) = coding.context
  parameters = [tuple(map(_dense, net)) for net in (coding.parameters, *coding.later)]
  # What one output counts, of scales, means and logits.
  units = [2.0**-bits for bits in (tables.SIGMA_BITS, rates.MEAN_BITS, rates.LOGIT_BITS)]
  values = _tree(features, gain, seen, units, np.zeros(coding.mixtures))
  return (*values, _dense(context), tuple(parameters))


def _gmm_rate(tree: Tree, seen: Array, sizes: Array) -> Price:
  features, gain, inverse, units, components, context, parameters = tree
  height, width, channels = seen.shape
  views = len(context[0]) // (len(wavefront.TAPS) * channels)
  near = [values * inverse for values in (seen, sizes)[:views]]
  around = (wavefront.BORDER, 0), (wavefront.BORDER, wavefront.BORDER), (0, 0)
  border = jnp.pad(jnp.concatenate(near, -1), around)
  rows, columns = (jnp.arange(n) + wavefront.BORDER for n in (height, width))
  taps = [border[rows + dr][:, columns + dc] for dr, dc in wavefront.TAPS]
  known = jnp.concatenate([features, _apply(context, jnp.concatenate(taps, -1))], -1)
  found, start, k = [], 0, len(components)
  for network in parameters:
    x = jnp.concatenate([known, *(values[..., :start] for values in near)], -1)
    for layer in network:
      x = _apply(layer, x)
    found.append(x.reshape(height, width, 2 + (k > 1), k, -1))
    start += found[-1].shape[-1]
  parts = jnp.concatenate(found, -1)
  scale, mean, *logits = (parts[:, :, i] * units[i] for i in range(parts.shape[2]))
  weights = logits[0] if logits else jnp.zeros_like(scale)
  return _mixture(*(jnp.moveaxis(part, 2, 0) for part in (weights, mean * gain, scale * gain)))


def _channels_arrays(coding: gmm_channels.Coding, latents: Latents, level: int) -> Tree:
  features = hyper.features(coding.hyper, latents.z, coding.prior, latents.q.shape[:2])
  gain = coding.rates.gain[level] * 2.0**-rates.GAIN_BITS
  seen = coding.rates.inverse[level] * 2.0 ** (coding.latent_bits - rates.GAIN_BITS)
  units = [2.0**-bits for bits in (tables.SIGMA_BITS, rates.MEAN_BITS, rates.LOGIT_BITS)]
  values = _tree(features, gain, seen, units, np.zeros(coding.mixtures), np.zeros(coding.views))
  return (*values, tuple(tuple(map(_dense, network)) for network in coding.groups))


def _channels_rate(tree: Tree, seen: Array, sizes: Array) -> Price:
  features, gain, inverse, units, components, views, groups = tree
  height, width, _ = seen.shape
  first = jnp.indices((height, width)).sum(0)[..., None] % 2 == 0
  near = [values * inverse for values in (seen, sizes)[: len(views)]]
  parts = 2 + (len(components) > 1)
  found, start = [], 0
  for (weight, *rest), *others in groups:
    stop = start + others[-1][1].size // (parts * len(components))
    before = jnp.concatenate([values[..., :start] for values in near], -1)
    own = jnp.concatenate([values[..., start:stop] for values in near], -1)
    cuts = np.cumsum([features.shape[-1], 9 * before.shape[-1]])
    of_features, of_before, of_anchors = jnp.split(weight, cuts)
    sums = jnp.matmul(features, of_features, precision='highest')
    sums += _window(before, of_before, checkerboard.WINDOW)
    anchors = _window(jnp.where(first, own, 0), of_anchors, checkerboard.ANCHORS)
    x = _activated(sums + anchors, *rest)
    for layer in others:
      x = _apply(layer, x)
    found.append(x.reshape(height, width, parts, len(components), -1))
    start = stop
  together = jnp.concatenate(found, -1)
  scale, mean, *logits = (together[:, :, i] * units[i] for i in range(parts))
  weights = logits[0] if logits else jnp.zeros_like(scale)
  return _mixture(*(jnp.moveaxis(part, 2, 0) for part in (weights, mean * gain, scale * gain)))


def _window(x: Array, rows: Array, taps: tuple[tuple[int, int], ...]) -> Array:
  """f32[h, w, Cout] of f32[h, w, Cin] by f32[taps * Cin, Cout], as a convolution."""
  kernel = jnp.zeros((5, 5, x.shape[-1], rows.shape[-1]))
  at = np.array(taps).T + 2
  kernel = kernel.at[at[0], at[1]].set(rows.reshape(len(taps), *kernel.shape[2:]))
  return jax.lax.conv_general_dilated(
    x[None], kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision='highest'
  )[0]


def _mixture(logits: Array, mean: Array, scale: Array) -> Price:
  return lambda q: entropy.bits_of(entropy.mixture_likelihood(q, logits, mean, scale))


def _dense(layer: layers.Layer) -> Tree:
  """Weight, bias, slope and limit of a 1x1 layer, without its shift."""
  unit = np.ldexp(1.0, -layer.shift)
  return _tree(layer.weight * unit, layer.bias * unit, layer.slope / layers.LINEAR, layer.limit)


def _apply(layer: Tree, x: Array) -> Array:
  weight, *rest = layer
  return _activated(jnp.matmul(x, weight, precision='highest'), *rest)


def _activated(sums: Array, bias: Array, slope: Array, limit: Array) -> Array:
  values = sums + bias
  return jnp.clip(jnp.where(values > 0, values, slope * values), -limit, limit)


CAE = Relaxed(_cae_arrays, _cae_rate)
GAN = Relaxed(_gan_arrays, _gan_rate)
GMM = Relaxed(_gmm_arrays, _gmm_rate)
GMM_CHANNELS = Relaxed(_channels_arrays, _channels_rate)
