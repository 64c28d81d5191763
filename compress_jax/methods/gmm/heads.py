"""The outputs of the last layer of gmm's entropy parameters, for each latent.

These are K scales, K means and, for mixtures of more than one Gaussian, K logits, each for C
channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from compress_jax.layers.blocks import Conv
from compress_jax.methods.gmm.geometry import outputs_of_latent, parts

Array = jax.Array


def head(x: Array, mixtures: int, channels: int, name: str) -> Array:
  """Returns f32[B, h, w, 3, K, C], scales, means and logits, by a 1x1 layer of the calling module.

  Args:
    x: f32[B, h, w, F].
    mixtures: K; the logits of one Gaussian are zeros.
    channels: C.
    name: the name of the layer.
  """

  def start(key: Array, shape: Sequence[int]) -> Array:
    """Returns scales of 1, means that differ between components, and logits of 0.

    Components with equal means would stay equal.
    """
    del key
    means = jnp.arange(1.0 * mixtures) - (mixtures - 1) / 2
    first = jnp.concatenate([jnp.ones(mixtures * channels), jnp.repeat(means, channels)])
    return jnp.pad(first, (0, shape[0] - first.size))

  x = Conv(outputs_of_latent(mixtures) * channels, 1, bias_init=start, name=name)(x)
  x = x.reshape(*x.shape[:3], parts(mixtures), mixtures, channels)
  return x if mixtures > 1 else jnp.concatenate([x, jnp.zeros_like(x[:, :, :, :1])], 3)
