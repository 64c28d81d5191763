"""Densities of hyper-latents, as floats and as tables."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from compress_jax.exact import hyper
from compress_jax.layers.entropy import Factorized

AT = np.arange(-1000, 1001)  # Where the mass of a prior is asked for.


def factorised(filters, quantiled, channels=4, seed=0):
  """A prior with random parameters."""
  prior = Factorized(channels, filters, quantiled=quantiled)
  shapes = jax.eval_shape(prior.init, jax.random.key(0), jnp.zeros((1, 1, 1, channels)))['params']
  rng = np.random.default_rng(seed)
  params = {name: rng.normal(size=v.shape).astype(np.float32) for name, v in shapes.items()}
  for name in params:
    if name.startswith('matrix'):
      params[name] -= 0.5  # Wider than a few symbols.
  return prior, params


def gaussians(*sigmas, shift=0.0):
  """f64[C, n]: the mass of unit intervals."""
  spread = np.array(sigmas)[:, None]
  return stats.norm.cdf(AT + 0.5 - shift, scale=spread) - stats.norm.cdf(
    AT - 0.5 - shift, scale=spread
  )


def prior_of(*sigmas, medians=None, shift=0.0):
  return hyper.prior_of(
    gaussians(*sigmas, shift=shift), np.zeros(len(sigmas)) if medians is None else medians
  )
