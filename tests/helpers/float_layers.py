"""Random float layers for the exporter."""

import numpy as np

from compress_jax.exact.export import FloatLayer

IN_BITS, IN_LIMIT = 10, 2**23


def float_layer(rng, kernel, inputs, outputs, slope=1.0, shuffle=False):
  weight = rng.normal(size=(kernel, kernel, inputs, outputs)) / np.sqrt(kernel**2 * inputs)
  scales = 2.0 ** rng.uniform(-2, 2, outputs)
  return FloatLayer(
    (weight * scales).astype(np.float32),
    rng.normal(size=outputs).astype(np.float32),
    slope,
    shuffle,
  )


def hyper_like(rng):
  return (
    float_layer(rng, 3, 6, 32, 0.01, True),
    float_layer(rng, 5, 8, 24, 0.0),
    float_layer(rng, 3, 24, 16, 0.01, True),
    float_layer(rng, 1, 4, 6),
  )


def latents(rng, shape=(8, 9, 6)):
  """Multiples of 2^-IN_BITS, as the integers that come in are."""
  return np.rint(rng.normal(0, 3, shape) * 2**IN_BITS) / 2**IN_BITS


def rms(x):
  return np.sqrt((x**2).mean())
