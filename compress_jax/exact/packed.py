"""Integer networks for a few positions at a time, for decoding in steps.

With 16 positions a general matrix product spends half of its time on copying the weights into
another layout. If other programs are busy, it waits for its threads longer than it works. Here
weights are laid out once, in tiles so small that BLAS multiplies them on one thread (OpenBLAS: up
to 2^18 products) and, where it has kernels for small matrices, without another copy. Sums of
integers do not depend on how they are split.
"""

from typing import NamedTuple

import numpy as np

from compress_jax.exact.layers import LINEAR, Layer, Network

_INPUTS, _OUTPUTS, _POSITIONS = 512, 32, 16  # Sizes of one matrix product.


class Packed(NamedTuple):
  """A layer of kernel 1 in the layout of `run`; weights and bias are divided by 2^shift."""

  weight: np.ndarray  # f64[I, J, inputs, 32], multiples of 2^-shift; zeros at the ends.
  bias: np.ndarray  # f64[J, 1, 32]
  outputs: int
  slope: float
  limit: float


def pack(network: Network) -> tuple[Packed, ...]:
  """Returns a network in the layout of `run`; all its layers have kernel 1 and no shuffle."""
  return tuple(_pack(layer) for layer in network)


def run(network: tuple[Packed, ...], x: np.ndarray) -> np.ndarray:
  """Returns the outputs f64[N, Cout] of a network for f64[N, K]; they equal `layers.dense`'s."""
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
