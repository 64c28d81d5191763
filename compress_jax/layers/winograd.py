"""3x3 convolutions and the gradients of their kernels with few products, for CPUs.

Winograd's minimal filtering takes 16 products for 2 x 2 outputs, where 36 are due, and for the
gradient 36 where 144 are, which XLA computes as a convolution whose kernel is as large as the
image: on a CPU that is slow for small images and very slow for large ones. A. Lavin, S. Gray,
"Fast algorithms for convolutional neural networks", CVPR 2016, sections 4.1 and 4.3 for these
matrices of F(2x2, 3x3) and F(4x4, 3x3).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
_Matrix = tuple[tuple[float, ...], ...]

# `convolve` transforms so many tiles at a time, that they stay near the caches, or more, that the
# program stays short.
_STRIP, _STRIPS = 3072, 8
_FILTER = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_SEEN = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_SUMS = ((1, 1, 1, 0), (0, 1, -1, -1))

# Of `kernel_gradient`:
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


def convolve(x: Array, kernel: Array) -> Array:
  """A 3x3 convolution of stride 1, with zeros around x.

  Args:
    x: f32[B, H, W, Cin].
    kernel: f32[3, 3, Cin, Cout].

  Returns:
    f32[B, H, W, Cout], within about 1e-6 of its largest value.
  """
  batch, height, width, _ = x.shape
  across, down = -(-width // 2), -(-height // 2)  # Tiles.
  at_a_time = max(_STRIP, batch * across * down // _STRIPS)
  tall = min(down, max(1, at_a_time // (batch * across)))
  rows, strips = 2 * tall, -(-down // tall)
  below, right = strips * rows - height, 2 * across - width
  x = jnp.pad(x, ((0, 0), (1, 1 + below), (1, 1 + right), (0, 0)))
  filters = _combined([jnp.stack(_combined(list(row), _FILTER)) for row in kernel], _FILTER)
  found: list[Array] = []
  for top in range(0, strips * rows, rows):  # A loop of XLA would run on one core.
    part = x[:, top : top + rows + 2]
    if found:  # One after the other, or all would be in memory at a time.
      part, found[-1] = lax.optimization_barrier((part, found[-1]))
    found.append(_filtered(part, filters))
  return jnp.concatenate(found, 1)[:, :height, :width]


def _filtered(x: Array, filters: Sequence[Array]) -> Array:
  """f32[B, H, W, Cout] of f32[B, H + 2, W + 2, Cin], by 4 of f32[4, Cin, Cout]; even sides."""
  batch, height, width, channels = x.shape
  seen = [_along(row, 2, _SEEN, 2) for row in _along(x, 1, _SEEN, 2)]
  products = [
    [place.reshape(-1, channels) @ filters[i][j] for j, place in enumerate(row)]
    for i, row in enumerate(seen)
  ]
  sums = [_combined(row, _SUMS) for row in products]
  tiles = [_combined(column, _SUMS) for column in zip(*sums, strict=True)]
  shape = batch, (height - 2) // 2, (width - 2) // 2, -1
  lines = [jnp.stack([column[i].reshape(shape) for column in tiles], 3) for i in (0, 1)]
  return jnp.stack(lines, 2).reshape(batch, height - 2, width - 2, -1)


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


def _transformed(x: Array, matrix: _Matrix) -> list[list[Array]]:
  """6 x 6 arrays f32[tiles, C]: of each tile the values of one place, transformed."""
  rows = [_along(row, 2, matrix, _TILE) for row in _along(x, 1, matrix, _TILE)]
  return [[place.reshape(-1, x.shape[-1]) for place in row] for row in rows]


def _along(x: Array, axis: int, matrix: _Matrix, stride: int) -> list[Array]:
  """The matrix times the tiles of one axis; tiles start at every `stride`-th place."""
  size = len(matrix[0])
  last = (x.shape[axis] - size) // stride * stride + 1
  taps = [lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(size)]
  return _combined(taps, matrix)


def _combined(values: Sequence[Array], matrix: _Matrix) -> list[Array]:
  """The matrix times a vector of arrays."""
  terms = [[c * value for c, value in zip(row, values, strict=True) if c] for row in matrix]
  return [sum(row[1:], row[0]) for row in terms]
