"""What training minimises."""

import jax
import jax.numpy as jnp

from compress_jax.codec import Coded
from compress_jax.levels import LAMBDA_RANGE

Array = jax.Array

PEAK = 255.0  # Squared errors are counted on the 0..255 scale.


def rate_distortion(x: Array, coded: Coded, lmbda: Array) -> tuple[Array, dict[str, Array]]:
  """bpp + lambda * MSE, averaged over examples of different lambda.

  Examples are weighted by lambda^-1/2: the loss at its optimum grows about so, and the
  model is to serve every rate.

  Args:
    x: f32[B, H, W, 3] in [0, 1].
    coded: of the same images.
    lmbda: f32[B].

  Returns:
    The loss f32[] and metrics: bpp, MSE and the rate of each stream.
  """
  pixels = x.shape[1] * x.shape[2]
  mse = PEAK**2 * jnp.mean((coded.x_hat - x) ** 2, (1, 2, 3))
  bpp = jnp.sum(jnp.stack(list(coded.bits.values())), 0) / pixels
  low, high = LAMBDA_RANGE
  weight = ((low * high) ** 0.5 / lmbda) ** 0.5
  metrics = {'bpp': bpp.mean(), 'mse': mse.mean()}
  metrics |= {f'bpp_{name}': bits.mean() / pixels for name, bits in coded.bits.items()}
  return jnp.mean(weight * (bpp + lmbda * mse)), metrics
