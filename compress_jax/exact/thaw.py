"""Integer layers back to float ones, for training that goes on from what was shipped."""

import math

import numpy as np

from compress_jax.exact.export import FloatLayer
from compress_jax.exact.layers import LINEAR, Layer, Network

_NATURAL = 12  # With so many fraction bits the peaks of 2^16 that `export` gives are 16.


def float_layers(
  network: Network, in_bits: int | np.ndarray, out_bits: int | None = None
) -> tuple[list[FloatLayer], int]:
  """The inverse of `export.quantise`, but for the rounding of weights.

  Integers do not tell how many fraction bits activations between the layers have. No choice
  changes what the network computes, for rectifiers scale with their inputs, but what a step of
  Adam does to it: with kernels far smaller than `layers.initial` makes them, one ruins it.

  Args:
    network: the integer layers.
    in_bits: fraction bits of what goes in, of all channels or i64[Cin].
    out_bits: of what comes out, where that is known.

  Returns:
    The layers, and the fraction bits of their output.
  """
  found = []
  for i, layer in enumerate(network):
    inputs = len(layer.weight) // layer.kernel**2
    of_row = np.tile(np.broadcast_to(in_bits, inputs), layer.kernel**2)[:, None]
    weight = layer.weight * np.ldexp(1.0, of_row - layer.shift)
    last = i == len(network) - 1
    in_bits = out_bits if last and out_bits is not None else _usual(weight)
    found.append(_float_layer(layer, weight, in_bits))
  return found, int(in_bits)


def _usual(weight: np.ndarray) -> int:
  """Fraction bits with which activations peak at 16, or higher for the kernel's sake."""
  size = float(np.sqrt(np.mean(weight**2)))
  initial = round(math.log2(max(size, 1e-9) * math.sqrt(3 * len(weight))))
  return min(initial, _NATURAL)


def _float_layer(layer: Layer, weight: np.ndarray, out_bits: int) -> FloatLayer:
  half = np.where(layer.shift > 0, np.ldexp(0.5, layer.shift), 0)
  kernel = (weight * 2.0**-out_bits).reshape(layer.kernel, layer.kernel, -1, weight.shape[1])
  bias = (layer.bias - half) * np.ldexp(1.0, -out_bits - layer.shift)
  return FloatLayer(
    kernel.astype(np.float32), bias.astype(np.float32), layer.slope / LINEAR, layer.shuffle
  )
