"""The gradient of a 3x3 kernel with few products, for CPUs.

XLA computes it as a convolution whose kernel is as large as the image, which on a CPU is
slow for small images and very slow for large ones. Winograd's minimal filtering takes 36
products where 144 are due: A. Lavin, S. Gray, "Fast algorithms for convolutional neural
networks", CVPR 2016, section 4.3 for these matrices of F(4x4, 3x3).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

_TILE = 4  # Outputs along a tile's side; it sees two more inputs.
_INPUT = (
  (4, 0, -5, 0, 1, 0),
  (0, -4, -4, 1, 1, 0),
  (0, 4, -4, -1, 1, 0),
  (0, -2, -1, 2, 1, 0),
  (0, 2, -1, -2, 1, 0),
  (0, 4, 0, -5, 0, 1),
)
_KERNEL = np.array(
  [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], np.float32
) / np.float32(24)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def kernel_gradient(x: Array, grad: Array) -> Array:
  """The gradient of the kernel of a 3x3 convolution of stride 1, with zeros around x.

  Args:
    x: f32[B, H, W, Cin], what was convolved.
    grad: f32[B, H, W, Cout], the gradient of the output.

  Returns:
    f32[3, 3, Cin, Cout], within about 1e-5 of its largest value.
  """
  height, width = x.shape[1:3]
  down, right = -height % _TILE, -width % _TILE
  x = jnp.pad(x, ((0, 0), (1, 1 + down), (1, 1 + right), (0, 0)))
  grad = jnp.pad(grad, ((0, 0), (0, down), (0, right), (0, 0)))
  seen = _transformed(x, _INPUT)
  spread = _transformed(grad, tuple(zip(*_OUTPUT, strict=True)))
  products = [
    [a.T @ b for a, b in zip(*rows, strict=True)] for rows in zip(seen, spread, strict=True)
  ]
  return jnp.einsum('ia,jb,ijcd->abcd', _KERNEL, _KERNEL, jnp.array(products))


def _transformed(x: Array, matrix: tuple[tuple[int, ...], ...]) -> list[list[Array]]:
  """6 x 6 arrays f32[tiles, C]: of each tile the values of one place, transformed."""
  rows = [_along(row, 2, matrix) for row in _along(x, 1, matrix)]
  return [[place.reshape(-1, x.shape[-1]) for place in row] for row in rows]


def _along(x: Array, axis: int, matrix: tuple[tuple[int, ...], ...]) -> list[Array]:
  """The matrix times the tiles of one axis; tiles start at every fourth place."""
  tiles = x.shape[axis] // _TILE
  last = _TILE * (tiles - 1) + 1
  taps = [lax.slice_in_dim(x, i, i + last, _TILE, axis) for i in range(len(matrix[0]))]
  terms = [[c * tap for c, tap in zip(row, taps, strict=True) if c] for row in matrix]
  return [sum(row[1:], row[0]) for row in terms]
