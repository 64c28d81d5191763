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
