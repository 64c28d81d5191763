"""Trained float parameters as the integer path's export wants them, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax import quantization
from compress_jax.codec import Params
from compress_jax.entropy import Factorized
from compress_jax.exact import hyper, rates
from compress_jax.exact.export import FloatLayer
from compress_jax.layers import phases


def layer(params: Params, *, slope: float = 1.0, shuffle: bool = False) -> FloatLayer:
  """Of a Conv, or with `shuffle` of a SubPixel's."""
  return FloatLayer(np.asarray(params['kernel']), np.asarray(params['bias']), slope, shuffle)


def deconv_layer(params: Params, *, slope: float = 1.0) -> FloatLayer:
  """Of a Deconv: the sub-pixel convolution that it equals."""
  kernel = np.asarray(phases(jnp.asarray(params['kernel'])))
  return FloatLayer(kernel, np.tile(np.asarray(params['bias']), 4), slope, shuffle=True)


def rates_of(log_gains: np.ndarray) -> rates.Rates:
  """The gains of all 256 levels, from f32[levels, C]."""
  return rates.rates_of(np.asarray(quantization.gains(jnp.asarray(log_gains), jnp.arange(256))))


def prior_of(prior: Factorized, params: Params) -> hyper.Prior:
  """Tables of a factorised density."""
  variables = {'params': params}
  median = np.asarray(prior.apply(variables, method=prior.medians))
  at = hyper.symbols_of_prior()[:, None] + median
  mass = jax.jit(prior.apply)(variables, jnp.asarray(at, jnp.float32)[None, None])
  return hyper.prior_of(np.asarray(mass)[0, 0].T, median)
