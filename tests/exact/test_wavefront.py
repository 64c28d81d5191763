"""Coding order under the 5x5 mask: what a position sees is there before it decodes."""

import itertools

import numpy as np
import pytest

from compress_jax.exact import layers, wavefront
from compress_jax.exact.layers import LINEAR, Layer

SHAPES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 2), (2, 3), (5, 4), (4, 5), (8, 12), (13, 9)]


def seen(row, column, height, width):
  """The positions before this one, in raster order, in a 5x5 square around it."""
  return [
    (r, c)
    for r in range(max(row - 2, 0), row + 1)
    for c in range(max(column - 2, 0), min(column + 3, width))
    if r * width + c < row * width + column
  ]


def step_of(height, width):
  rows, columns, bounds = wavefront.order(height, width)
  steps = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
  return {(int(r), int(c)): int(s) for r, c, s in zip(rows, columns, steps, strict=True)}


@pytest.mark.parametrize('height,width', SHAPES)
def test_every_neighbour_is_in_an_earlier_step(height, width):
  step = step_of(height, width)
  assert len(step) == height * width
  for (row, column), t in step.items():
    assert all(step[other] < t for other in seen(row, column, height, width))


@pytest.mark.parametrize('height,width', SHAPES)
def test_every_step_holds_positions_in_order_of_rows(height, width):
  rows, _, bounds = wavefront.order(height, width)
  assert bounds[0] == 0 and bounds[-1] == height * width
  assert (np.diff(bounds) > 0).all()
  for start, stop in itertools.pairwise(bounds):
    assert (np.diff(rows[start:stop]) > 0).all()


@pytest.mark.parametrize('height,width,steps', [(32, 48, 141), (48, 32, 173), (1, 9, 9), (9, 1, 9)])
def test_the_number_of_steps(height, width, steps):
  assert len(wavefront.order(height, width)[2]) - 1 == steps


def test_the_order_of_a_small_grid():
  rows, columns, bounds = wavefront.order(2, 5)
  assert list(zip(rows, columns, strict=True)) == [
    *[(0, 0), (0, 1), (0, 2)],
    *[(0, 3), (1, 0)],
    *[(0, 4), (1, 1)],
    *[(1, 2), (1, 3), (1, 4)],
  ]
  np.testing.assert_array_equal(bounds, [0, 1, 2, 3, 5, 7, 8, 9, 10])


def masked_convolution(y, kernel):
  """int64[H, W, Cout] of all positions, straight from the definition of the mask."""
  height, width, _ = y.shape
  out = np.zeros((height, width, kernel.shape[-1]), np.int64)
  for row, column in np.ndindex(height, width):
    for r, c in seen(row, column, height, width):
      tap = kernel[r - row + 2, c - column + 2].astype(np.int64)
      out[row, column] += y[r, c].astype(np.int64) @ tap
  return out


@pytest.mark.parametrize('height,width', SHAPES)
@pytest.mark.parametrize('serial', [False, True])
def test_gathering_in_steps_is_the_masked_convolution(height, width, serial):
  rng = np.random.default_rng(height)
  y = rng.integers(-(2**15), 2**15, (height, width, 3)).astype(np.float64)
  kernel = rng.integers(-(2**15), 2**15, (5, 5, 3, 4)).astype(np.float64)
  weight = wavefront.causal_rows(kernel)
  layer = Layer(weight, np.zeros(4), np.zeros(4, np.int64), LINEAR, 2**52)
  rows, columns, bounds = wavefront.order(height, width)
  if serial:
    rows, columns = np.divmod(np.arange(height * width), width)
    bounds = np.arange(height * width + 1)
  border = wavefront.padded(np.full_like(y, np.nan))  # Of what is not decoded yet.
  out = np.zeros((height, width, 4))
  for start, stop in itertools.pairwise(bounds):
    r, c = rows[start:stop], columns[start:stop]
    out[r, c] = layers.dense(wavefront.gather(border, r, c), layer)
    border[r + wavefront.BORDER, c + wavefront.BORDER] = y[r, c]
  np.testing.assert_array_equal(out, masked_convolution(y, kernel))
