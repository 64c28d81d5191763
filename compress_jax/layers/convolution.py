"""Convolutions of f32[B, H, W, C], with derivatives forwards and backwards."""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def convolve(x: Array, kernel: Array, stride: int = 1, padding: str = 'SAME') -> Array:
  """Returns the cross-correlation of f32[B, H, W, Cin] with f32[k, k, Cin, Cout].

  'SAME' pads by k // 2 on every side, so that output i is centred on input i * stride.
  """
  size = kernel.shape[0]
  if size == 1:  # Matrix products are faster than XLA's 1x1 convolutions.
    return jnp.einsum('bhwi,io->bhwo', x[:, ::stride, ::stride], kernel[0, 0])
  around = size // 2 if padding == 'SAME' else 0
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(around, around)] * 2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def transposed(x: Array, kernel: Array) -> Array:
  """Returns the transposed convolution by stride 2, f32[B, 2H, 2W, Cout].

  Output 2i + p, p = 0 or 1 along a side, reads tap k // 2 + 2j - p at input i + j. So each
  phase (p, q) of the output is a convolution of its own, of 1, 2, 2 and 4 taps where k is 3.
  Nothing is multiplied by the zeros that the definition puts between inputs. XLA's dilation of the
  input does the same, but its gradient takes 20 to 60 times as long on CPUs.

  Args:
    x: f32[B, H, W, Cin].
    kernel: f32[k, k, Cin, Cout], k odd, at least 3.
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
