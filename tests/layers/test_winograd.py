"""3x3 convolutions and their gradients by Winograd's filtering are XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from compress_jax.layers import convolution, winograd


def _plain(x, kernel):
  dims = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=dims)


def _draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize(
  'shape', [(2, 8, 8, 5, 7), (1, 9, 6, 3, 2), (3, 1, 1, 4, 4), (1, 34, 31, 16, 8)]
)
def test_kernel_gradient_is_that_of_xla(shape):
  batch, height, width, inputs, outputs = shape
  x, grad = _draw(batch, height, width, inputs), _draw(batch, height, width, outputs, seed=1)
  found = winograd.kernel_gradient(x, grad)
  expected = jax.vjp(lambda k: _plain(x, k), jnp.zeros((3, 3, inputs, outputs)))[1](grad)[0]
  np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize('strip', [1, 10, 10**6])
@pytest.mark.parametrize(
  'shape', [(2, 8, 8, 5, 7), (1, 9, 6, 3, 2), (3, 1, 1, 4, 4), (1, 34, 31, 16, 8), (2, 1, 9, 2, 3)]
)
def test_convolutions_are_those_of_xla(shape, strip, monkeypatch):
  monkeypatch.setattr(winograd, '_STRIP', strip)
  batch, height, width, inputs, outputs = shape
  x, kernel = _draw(batch, height, width, inputs), _draw(3, 3, inputs, outputs, seed=1)
  found, expected = winograd.convolve(x, kernel), _plain(x, kernel)
  assert found.shape == expected.shape
  np.testing.assert_allclose(found, expected, atol=3e-6 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize('size', [16, 32, 37])
@pytest.mark.parametrize('channels', [8, 16])
def test_convolutions_have_the_gradients_of_xla(size, channels):
  x, kernel = _draw(2, size, size, channels), _draw(3, 3, channels, 24, seed=1)
  value = lambda f: lambda x, k: jnp.sum(jnp.sin(f(x, k)))  # noqa: E731
  found = jax.jit(jax.grad(value(convolution.convolve), (0, 1)))(x, kernel)
  expected = jax.grad(value(_plain), (0, 1))(x, kernel)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=3e-5 * float(jnp.abs(other).max()))


def test_large_convolutions_take_the_quick_way_on_a_cpu():
  x, kernel = jnp.zeros((1, 32, 32, 16)), jnp.zeros((3, 3, 16, 16))
  program = jax.jit(jax.grad(lambda k: convolution.convolve(x, k).sum())).lower(kernel)
  assert program.as_text().count('dot_general') >= 36


@pytest.mark.parametrize(
  'size,channels,kind,quick',
  [
    (96, 96, 'float32', True),
    (64, 96, 'float32', False),
    (96, 64, 'float32', False),
    (96, 96, 'bfloat16', False),
  ],
)
def test_very_large_images_are_convolved_the_quick_way_on_a_cpu(size, channels, kind, quick):
  x, kernel = jnp.zeros((1, size, size, channels), kind), jnp.zeros((3, 3, channels, 96), kind)
  program = jax.jit(convolution.convolve).lower(x, kernel).as_text()
  assert program.count('dot_general') == (16 if quick else 0)


def test_bfloat16_kernels_get_gradients_of_their_type():
  x, kernel = _draw(1, 32, 32, 16), _draw(3, 3, 16, 16, seed=1)
  loss = lambda k, x: jnp.sum(convolution.convolve(x, k).astype(jnp.float32) ** 2)  # noqa: E731
  half = jax.grad(loss)(kernel.astype(jnp.bfloat16), x.astype(jnp.bfloat16))
  whole = jax.grad(loss)(kernel, x)
  assert half.dtype == jnp.bfloat16
  assert float(jnp.abs(half - whole).max() / jnp.abs(whole).max()) < 0.02
