"""Convolutions of f32[B, H, W, C], each by the algorithm that is fast on its device."""

import jax
import jax.numpy as jnp
from jax import lax

from compress_jax.layers import winograd

Array = jax.Array

# Numbers of pixels and channels from which `winograd` is the faster algorithm.
_LARGE, _WIDE = 32 * 32, 16  # For gradients of kernels.
_VERY_LARGE, _VERY_WIDE = 64 * 96, 96  # For convolutions.


def convolve(x: Array, kernel: Array, stride: int = 1, padding: str = 'SAME') -> Array:
  """Returns the cross-correlation of f32[B, H, W, Cin] with f32[k, k, Cin, Cout].

  'SAME' pads by k // 2 on every side, so that output i is centred on input i * stride.
  """
  size = kernel.shape[0]
  if size == 1:  # Matrix products are faster than XLA's 1x1 convolutions.
    return jnp.einsum('bhwi,io->bhwo', x[:, ::stride, ::stride], kernel[0, 0])
  if size == 3 and stride == 1 and padding == 'SAME':
    return _convolve3(x, kernel)
  return _convolve(x, kernel, stride, size // 2 if padding == 'SAME' else 0)


def transposed(x: Array, kernel: Array) -> Array:
  """Returns the transposed convolution by stride 2, f32[B, 2H, 2W, Cout].

  Output 2i + p, p = 0 or 1 along a side, reads tap k // 2 + 2j - p at input i + j. So each
  phase (p, q) of the output is a convolution of its own, of 1, 2, 2 and 4 taps where k is 3.
  Nothing is multiplied by the zeros that the definition puts between inputs. XLA's dilation of the
  input does the same, but its gradient takes 20 to 60 times as long on CPUs.

  Args:
    x: f32[B, H, W, Cin].
    kernel: f32[k, k, Cin, Cout], k odd.
  """
  batch, height, width, _ = x.shape
  found = [_phase(x, kernel, p, q) for p in (0, 1) for q in (0, 1)]
  cells = jnp.stack(found, 3).reshape(batch, height, width, 2, 2, -1)
  return cells.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, -1)


def _phase(x: Array, kernel: Array, p: int, q: int) -> Array:
  """Returns the outputs (2i + p, 2j + q) of a transposed convolution, f32[B, H, W, Cout]."""
  (rows, above, below), (columns, left, right) = (_taps(kernel.shape[0], phase) for phase in (p, q))
  taps = kernel[rows, columns]
  if taps.shape[:2] == (1, 1):
    return convolve(x, taps)
  return lax.conv_general_dilated(
    x,
    taps,
    (1, 1),
    [(above, below), (left, right)],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _taps(size: int, phase: int) -> tuple[slice, int, int]:
  """Returns the taps of a phase along one side, and the numbers of inputs before and after."""
  middle = size // 2
  first = (middle - phase) % 2
  before = (middle - phase - first) // 2
  return slice(first, None, 2), before, (size - 1 - first) // 2 - before


def _convolve(x: Array, kernel: Array, stride: int = 1, pad: int = 1) -> Array:
  pads = [(pad, pad)] * 2
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@jax.custom_vjp
def _convolve3(x: Array, kernel: Array) -> Array:
  """Returns a 3x3 convolution of stride 1, which is most of a network's arithmetic.

  Large ones on a CPU use Winograd's algorithm, because XLA's code for CPUs does not.
  """
  pixels, narrow = x.shape[1] * x.shape[2], min(kernel.shape[2:])
  if not isinstance(pixels, int):  # A program for any size, which cannot choose by the size.
    return _convolve(x, kernel)
  if pixels < _VERY_LARGE or narrow < _VERY_WIDE or x.dtype != jnp.float32:
    return _convolve(x, kernel)
  return lax.platform_dependent(x, kernel, cpu=winograd.convolve, default=_convolve)


def _convolve3_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _convolve(x, kernel), (x, kernel)


def _convolve3_backward(residuals: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
  x, kernel = residuals
  x_gradient = _convolve(grad, kernel[::-1, ::-1].swapaxes(2, 3))
  by_xla = lambda x, grad: jax.vjp(lambda k: _convolve(x, k), kernel)[1](grad)[0]  # noqa: E731
  if x.shape[1] * x.shape[2] < _LARGE or min(kernel.shape[2:]) < _WIDE:
    return x_gradient, by_xla(x, grad)
  by_winograd = lambda x, grad: winograd.kernel_gradient(  # noqa: E731
    x.astype(jnp.float32), grad.astype(jnp.float32)
  ).astype(kernel.dtype)
  return x_gradient, lax.platform_dependent(x, grad, cpu=by_winograd, default=by_xla)


_convolve3.defvjp(_convolve3_forward, _convolve3_backward)
