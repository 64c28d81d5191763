"""The rate of gmm's symbols in the serial context as a differentiable function, for refinement."""

import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Array, Latents
from compress_jax.exact import hyper, rates, tables, wavefront
from compress_jax.layers.quantization import Price
from compress_jax.learned.relaxed import Relaxed, Tree, apply_layer, dense, mixture_price, tree_of
from compress_jax.methods.gmm import serial_coding


def _arrays(coding: serial_coding.Coding, latents: Latents, level: int) -> Tree:
  features = hyper.features(coding.hyper, latents.z, coding.prior, latents.q.shape[:2])
  gain = coding.rates.gain[level] * 2.0**-rates.GAIN_BITS
  seen = coding.rates.inverse[level] * 2.0 ** (coding.latent_bits - rates.GAIN_BITS)
  (context,) = coding.context
  parameters = [tuple(map(dense, net)) for net in (coding.parameters, *coding.later)]
  # What one output counts, of scales, means and logits.
  units = [2.0**-bits for bits in (tables.SIGMA_BITS, rates.MEAN_BITS, rates.LOGIT_BITS)]
  values = tree_of(features, gain, seen, units, np.zeros(coding.mixtures))
  return (*values, dense(context), tuple(parameters))


def _rate(tree: Tree, seen: Array, sizes: Array) -> Price:
  features, gain, inverse, units, components, context, parameters = tree
  height, width, channels = seen.shape
  views = len(context[0]) // (len(wavefront.TAPS) * channels)
  near = [values * inverse for values in (seen, sizes)[:views]]
  around = (wavefront.BORDER, 0), (wavefront.BORDER, wavefront.BORDER), (0, 0)
  border = jnp.pad(jnp.concatenate(near, -1), around)
  rows, columns = (jnp.arange(n) + wavefront.BORDER for n in (height, width))
  taps = [border[rows + dr][:, columns + dc] for dr, dc in wavefront.TAPS]
  known = jnp.concatenate([features, apply_layer(context, jnp.concatenate(taps, -1))], -1)
  found, start, k = [], 0, len(components)
  for network in parameters:
    x = jnp.concatenate([known, *(values[..., :start] for values in near)], -1)
    for layer in network:
      x = apply_layer(layer, x)
    found.append(x.reshape(height, width, 2 + (k > 1), k, -1))
    start += found[-1].shape[-1]
  parts = jnp.concatenate(found, -1)
  scale, mean, *logits = (parts[:, :, i] * units[i] for i in range(parts.shape[2]))
  weights = logits[0] if logits else jnp.zeros_like(scale)
  return mixture_price(*(jnp.moveaxis(part, 2, 0) for part in (weights, mean * gain, scale * gain)))


RELAXED = Relaxed(_arrays, _rate)
