"""Integer layers back to float ones, for training that goes on from what was shipped."""

import math

import numpy as np

from compress_jax.exact.export import FloatLayer
from compress_jax.exact.layers import LINEAR, Layer, Network


def float_layers(
  network: Network, in_bits: int, out_bits: int | None = None
) -> tuple[list[FloatLayer], int]:
  """The inverse of `export.quantise`, but for the rounding of weights.

  Integers do not tell how many fraction bits activations between the layers have. No choice
  changes what the network computes, for rectifiers scale with their inputs: it is the one that
  gives kernels the size with which networks begin, so that steps of Adam have their usual effect.

  Args:
    network: the integer layers.
    in_bits: fraction bits of what goes in.
    out_bits: of what comes out, where that is known.

  Returns:
    The layers, and the fraction bits of their output.
  """
  found = []
  for i, layer in enumerate(network):
    known = out_bits if i == len(network) - 1 else None
    bits = _usual(layer, in_bits) if known is None else known
    found.append(_float_layer(layer, in_bits, bits))
    in_bits = bits
  return found, in_bits


def _usual(layer: Layer, in_bits: int) -> int:
  """The fraction bits with which the kernel is as large as `layers.initial` makes it."""
  size = np.sqrt(np.mean((layer.weight * np.ldexp(1.0, in_bits - layer.shift)) ** 2))
  return round(math.log2(max(float(size), 1e-9) * math.sqrt(3 * len(layer.weight))))


def _float_layer(layer: Layer, in_bits: int, out_bits: int) -> FloatLayer:
  half = np.where(layer.shift > 0, np.ldexp(0.5, layer.shift), 0)
  weight = layer.weight * np.ldexp(1.0, in_bits - out_bits - layer.shift)
  bias = (layer.bias - half) * np.ldexp(1.0, -out_bits - layer.shift)
  return FloatLayer(
    weight.reshape(layer.kernel, layer.kernel, -1, weight.shape[1]).astype(np.float32),
    bias.astype(np.float32),
    layer.slope / LINEAR,
    layer.shuffle,
  )
