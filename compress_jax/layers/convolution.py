"""Convolutions of f32[B, H, W, C], each by what is fast on the device at hand."""

import jax
import jax.numpy as jnp
from jax import lax

from compress_jax.layers import winograd

Array = jax.Array

# Pixels and channels from which `winograd` is the faster: gradients, and what is convolved.
_LARGE, _WIDE = 32 * 32, 16
_VERY_LARGE, _VERY_WIDE = 64 * 96, 96


def convolve(x: Array, kernel: Array, stride: int = 1, padding: str = 'SAME') -> Array:
  """Cross-correlation of f32[B, H, W, Cin] with f32[k, k, Cin, Cout].

  'SAME' pads by k // 2 on every side, so that output i is centred on input i * stride.
  """
  size = kernel.shape[0]
  if size == 1:  # Matrix products are faster than XLA's 1x1 convolutions.
    return jnp.einsum('bhwi,io->bhwo', x[:, ::stride, ::stride], kernel[0, 0])
  if size == 3 and stride == 1 and padding == 'SAME':
    return _convolve3(x, kernel)
  return _convolve(x, kernel, stride, size // 2 if padding == 'SAME' else 0)


def _convolve(x: Array, kernel: Array, stride: int = 1, around: int = 1) -> Array:
  pads = [(around, around)] * 2
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@jax.custom_vjp
def _convolve3(x: Array, kernel: Array) -> Array:
  """3x3, stride 1: most of the arithmetic, which XLA's code for CPUs does not do the short way."""
  pixels, narrow = x.shape[1] * x.shape[2], min(kernel.shape[2:])
  if pixels < _VERY_LARGE or narrow < _VERY_WIDE or x.dtype != jnp.float32:
    return _convolve(x, kernel)
  return lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=_convolve)


def _convolve3_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _convolve(x, kernel), (x, kernel)


def _convolve3_backward(seen: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = seen
  of_x = _convolve(grad, kernel[::-1, ::-1].swapaxes(2, 3))
  usual = lambda x, grad: jax.vjp(lambda k: _convolve(x, k), kernel)[1](grad)[0]  # noqa: E731
  if x.shape[1] * x.shape[2] < _LARGE or min(kernel.shape[2:]) < _WIDE:
    return of_x, usual(x, grad)
  quick = lambda x, grad: winograd.kernel_gradient(  # noqa: E731
    x.astype(jnp.float32), grad.astype(jnp.float32)
  ).astype(kernel.dtype)
  return of_x, lax.platform_dependent(x, grad, cpu=quick, default=usual)


_convolve3.defvjp(_convolve3_forward, _convolve3_backward)
