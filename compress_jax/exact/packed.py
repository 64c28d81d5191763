"""Integer networks at a few positions at a time, as decoding in steps needs them.

At 16 positions a general matrix product spends half of its time on laying out the
weights anew, and more on waiting for its threads than on work if other programs are
busy. Here weights are laid out once, in tiles so small that BLAS multiplies them on
one thread (OpenBLAS: up to 2^18 products) and, where it has kernels for small
matrices, without another copy. Sums of integers do not depend on how they are split.
"""

from typing import NamedTuple

import numpy as np

from compress_jax.exact.layers import LINEAR, Layer, Network

_INPUTS, _OUTPUTS, _POSITIONS = 512, 32, 16  # Of one product.


class Packed(NamedTuple):
  """A layer of kernel 1, ready for `run`. The shift is part of weights and bias."""

  weight: np.ndarray  # f64[I, J, inputs, 32], multiples of 2^-shift; zeros at the ends.
  bias: np.ndarray  # f64[J, 1, 32]
  outputs: int
  slope: float
  limit: float


def pack(network: Network) -> tuple[Packed, ...]:
  """Lays out a network whose layers all have kernel 1 and no shuffle."""
  return tuple(_pack(layer) for layer in network)


def run(network: tuple[Packed, ...], x: np.ndarray) -> np.ndarray:
  """f64[N, K] -> f64[N, Cout]: what `layers.dense` gives, layer by layer."""
  parts = np.array_split(x, max(1, -(-len(x) // _POSITIONS)))
  for layer in network:
    parts = [_dense(part, layer) for part in parts]
  return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _pack(layer: Layer) -> Packed:
  assert layer.kernel == 1 and not layer.shuffle
  inputs, outputs = layer.weight.shape
  scale = np.ldexp(1.0, -layer.shift)
  rows = -(-inputs // _INPUTS)
  size, columns = -(-inputs // rows), -(-outputs // _OUTPUTS)
  weight = np.zeros((rows * size, columns * _OUTPUTS))
  weight[:inputs, :outputs] = layer.weight * scale
  bias = np.zeros((columns, 1, _OUTPUTS))
  bias.reshape(-1)[:outputs] = layer.bias * scale
  tiles = weight.reshape(rows, size, columns, _OUTPUTS).swapaxes(1, 2)
  return Packed(
    np.ascontiguousarray(tiles), bias, outputs, layer.slope / LINEAR, float(layer.limit)
  )


def _dense(x: np.ndarray, layer: Packed) -> np.ndarray:
  rows, columns, size, _ = layer.weight.shape
  if rows * size > x.shape[1]:
    x = np.pad(x, ((0, 0), (0, rows * size - x.shape[1])))
  products = np.matmul(x.reshape(len(x), rows, size).swapaxes(0, 1)[:, None], layer.weight)
  values = products[0] if rows == 1 else products.sum(0)
  values += layer.bias
  np.floor(values, out=values)
  if layer.slope != 1:
    leaky = values * layer.slope
    leaky += 0.5
    np.maximum(values, np.floor(leaky, out=leaky), out=values)
  values.clip(-layer.limit, layer.limit, out=values)
  return values.swapaxes(0, 1).reshape(len(x), columns * _OUTPUTS)[:, : layer.outputs]
