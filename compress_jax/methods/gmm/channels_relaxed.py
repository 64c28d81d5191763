"""The rate of gmm's symbols in the channel context as a differentiable function, for refinement."""

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, Latents
from compress_jax.exact import checkerboard, hyper, rates, tables
from compress_jax.layers.quantization import Price
from compress_jax.learned.relaxed import (
  Relaxed,
  Tree,
  activated,
  apply_layer,
  dense,
  mixture_price,
  tree_of,
)
from compress_jax.methods.gmm import channels_coding


def _arrays(coding: channels_coding.Coding, latents: Latents, level: int) -> Tree:
  features = hyper.features(coding.hyper, latents.z, coding.prior, latents.q.shape[:2])
  gain = coding.rates.gain[level] * 2.0**-rates.GAIN_BITS
  seen = coding.rates.inverse[level] * 2.0 ** (coding.latent_bits - rates.GAIN_BITS)
  units = [2.0**-bits for bits in (tables.SIGMA_BITS, rates.MEAN_BITS, rates.LOGIT_BITS)]
  values = tree_of(features, gain, seen, units, np.zeros(coding.mixtures), np.zeros(coding.views))
  return (*values, tuple(tuple(map(dense, network)) for network in coding.groups))


def _rate(tree: Tree, seen: Array, sizes: Array) -> Price:
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
    x = activated(sums + anchors, *rest)
    for layer in others:
      x = apply_layer(layer, x)
    found.append(x.reshape(height, width, parts, len(components), -1))
    start = stop
  together = jnp.concatenate(found, -1)
  scale, mean, *logits = (together[:, :, i] * units[i] for i in range(parts))
  weights = logits[0] if logits else jnp.zeros_like(scale)
  return mixture_price(*(jnp.moveaxis(part, 2, 0) for part in (weights, mean * gain, scale * gain)))


def _window(x: Array, rows: Array, taps: tuple[tuple[int, int], ...]) -> Array:
  """f32[h, w, Cout] of f32[h, w, Cin] by f32[taps * Cin, Cout], as a convolution."""
  kernel = jnp.zeros((5, 5, x.shape[-1], rows.shape[-1]))
  at = np.array(taps).T + 2
  kernel = kernel.at[at[0], at[1]].set(rows.reshape(len(taps), *kernel.shape[2:]))
  return jax.lax.conv_general_dilated(
    x[None], kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision='highest'
  )[0]


RELAXED = Relaxed(_arrays, _rate)
