"""The bits of symbols in floating point, for training and for estimates.

Files are coded by the integer tables of `exact`; these functions never determine a code.
"""

import itertools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

from compress_jax.layers.blocks import lower_bound
from compress_jax.layers.parameters import parameter

Array = jax.Array

SCALE_MIN = 0.11  # Smaller standard deviations hardly change the probability of a rounded symbol.
_LIKELIHOOD_MIN = 1e-9


def bits_of(likelihood: Array) -> Array:
  """Returns -log2 of likelihoods, with a floor that keeps gradients finite."""
  return -jnp.log2(lower_bound(likelihood, _LIKELIHOOD_MIN))


def mixture_likelihood(q: Array, logits: Array, mean: Array, scale: Array) -> Array:
  """Returns the probability of symbols under a discretised Gaussian mixture.

  See Cheng et al. 2020, equations 8 and 9.

  Args:
    q: f32[...], rounded or noisy symbols.
    logits: f32[K, ...], the logits of the weights.
    mean: f32[K, ...], the means.
    scale: f32[K, ...], the standard deviations, which are bounded below by SCALE_MIN.

  Returns:
    f32[...], the mass of [q - 1/2, q + 1/2].
  """
  scale = lower_bound(scale, SCALE_MIN)
  distance = jnp.abs(q - mean)  # Differences of ndtr stay accurate in the lower tail.
  mass = ndtr((0.5 - distance) / scale) - ndtr((-0.5 - distance) / scale)
  return jnp.sum(jax.nn.softmax(logits, 0) * mass, 0)


class Mixture(NamedTuple):
  """The discretised Gaussian mixture of each symbol: the parameters of `mixture_likelihood`."""

  logits: Array  # f32[K, ...]
  mean: Array  # f32[K, ...]
  scale: Array  # f32[K, ...]

  def bits(self, q: Array) -> Array:
    """Returns the bits f32[...] of each of the symbols f32[...], rounded or noisy."""
    return bits_of(mixture_likelihood(q, *self))


def gaussian(mean: Array, scale: Array) -> Mixture:
  """Returns mixtures of one Gaussian, with the mean f32[...] and scale f32[...] of each symbol."""
  return Mixture(jnp.zeros_like(mean)[None], mean[None], scale[None])


def gaussian_likelihood(q: Array, mean: Array | float, scale: Array | float) -> Array:
  """Returns the probability of symbols under one discretised Gaussian.

  Args:
    q: f32[...], rounded or noisy symbols.
    mean: a number, or f32[...] that broadcasts against q.
    scale: the standard deviation, a number or f32[...], which is bounded below by SCALE_MIN.

  Returns:
    f32[...], the mass of [q - 1/2, q + 1/2].
  """
  mean, scale = jnp.asarray(mean, q.dtype), jnp.asarray(scale, q.dtype)
  q, mean, scale = jnp.broadcast_arrays(q, mean, scale)
  return mixture_likelihood(q, *gaussian(mean, scale))


class Factorized(nn.Module):
  """A learned density per channel (Ballé et al., ICLR 2018, appendix 6.1).

  `quantiles` holds the low, middle and high quantile of each channel. Symbols are rounded
  around the middle one. It stays at 0 unless imported weights set it.
  """

  channels: int
  filters: tuple[int, ...] = (3, 3, 3, 3)
  init_scale: float = 10.0
  quantiled: bool = True

  def setup(self) -> None:
    """Creates the parameters; layer i maps f[i] units to f[i + 1] monotonically."""
    sizes = (1, *self.filters, 1)
    scale = self.init_scale ** (1 / (len(self.filters) + 1))
    uniform = lambda key, shape: jax.random.uniform(key, shape, minval=-0.5, maxval=0.5)  # noqa: E731
    layers = []
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
      start = math.log(math.expm1(1 / scale / m))
      shape = (self.channels, m, n)
      matrix = parameter(self, f'matrix{i}', nn.initializers.constant(start), shape)
      bias = parameter(self, f'bias{i}', uniform, (self.channels, m, 1))
      factor = None
      if i < len(self.filters):
        factor = parameter(self, f'factor{i}', nn.initializers.zeros, (self.channels, m, 1))
      layers.append((matrix, bias, factor))
    self.layers = tuple(layers)
    start_quantiles = jnp.array([-self.init_scale, 0.0, self.init_scale])
    if self.quantiled:
      around = lambda key, shape: jnp.tile(start_quantiles, (shape[0], 1))  # noqa: E731
      self.quantiles = parameter(self, 'quantiles', around, (self.channels, 3))

  def medians(self) -> Array:
    """Returns the medians f32[C], around which symbols are rounded."""
    return self.quantiles[:, 1] if self.quantiled else jnp.zeros(self.channels)

  def logits(self, z: Array) -> Array:
    """Returns the logits of the cumulative distribution at f32[C, N]."""
    x = z[:, None, :]
    for matrix, bias, factor in self.layers:
      x = jnp.einsum('cmn,cnk->cmk', jax.nn.softplus(matrix), x) + bias
      if factor is not None:
        x = x + jnp.tanh(factor) * jnp.tanh(x)
    return x[:, 0, :]

  def __call__(self, z: Array) -> Array:
    """Returns the probability f32[B, H, W, C] of the unit interval around z f32[B, H, W, C]."""
    flat = z.reshape(-1, self.channels).T
    low, high = self.logits(flat - 0.5), self.logits(flat + 0.5)
    # Differences are taken in the tail in which sigmoids do not round to 1.
    sign = jnp.where(low + high > 0, -1.0, 1.0)
    mass = jnp.abs(jax.nn.sigmoid(sign * high) - jax.nn.sigmoid(sign * low))
    return mass.T.reshape(z.shape)
