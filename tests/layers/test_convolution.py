"""Convolutions keep their grid, and have derivatives forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from compress_jax.layers.blocks import Attention, Conv, SubPixel
from compress_jax.layers.convolution import convolve


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize('size', [1, 3, 5])
@pytest.mark.parametrize('stride', [1, 2])
def test_outputs_are_correlations_centred_on_every_input_of_the_stride(size, stride):
  x, kernel = draw(1, 6, 9, 2), draw(size, size, 2, 3, seed=1)
  found = convolve(x, kernel, stride)[0]
  for channel in range(3):
    parts = [
      signal.correlate2d(x[0, ..., i], kernel[..., i, channel], mode='same') for i in range(2)
    ]
    np.testing.assert_allclose(
      found[..., channel], sum(parts)[::stride, ::stride], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('network', [Conv(16), SubPixel(4), Attention()])
def test_steps_forwards_pair_with_gradients_backwards(network):
  x, step = draw(1, 32, 32, 16), draw(1, 32, 32, 16, seed=1)
  params = network.init(jax.random.key(0), x)
  run = lambda params, x: network.apply(params, x)  # noqa: E731
  given, steps = (params, x), (jax.tree.map(jnp.ones_like, params), step)
  out, forwards = jax.jvp(run, given, steps)
  grad = draw(*out.shape, seed=2)
  backwards = jax.vjp(run, *given)[1](grad)
  sums = jax.tree.map(jnp.vdot, backwards, steps)
  assert float(jnp.vdot(forwards, grad)) == pytest.approx(
    float(sum(jax.tree.leaves(sums))), rel=1e-3
  )
