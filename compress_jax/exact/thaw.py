"""Conversion of integer layers back to float layers, for training that starts from a model."""

import math

import numpy as np

from compress_jax.exact.export import FloatLayer
from compress_jax.exact.layers import LINEAR, Layer, Network

# `export` puts the peaks of activations at an eighth of their limit. If the limit has n bits, they
# equal 16 at n - 7 fraction bits.
_NATURAL = 7


def float_layers(
  network: Network, in_bits: int | np.ndarray, out_bits: int | None = None
) -> tuple[list[FloatLayer], int]:
  """Returns the float layers of integer layers; inverts `export.quantise` up to rounding.

  Integer layers do not determine the fraction bits of activations between them. The choice does not
  change the outputs, because rectifiers scale with their inputs. It changes the effect of a step of
  Adam: one step ruins kernels that are far smaller than initial ones.

  Args:
    network: the integer layers.
    in_bits: fraction bits of the inputs, one number or i64[Cin].
    out_bits: fraction bits of the outputs; None chooses.

  Returns:
    The layers, and the fraction bits of their output.
  """
  float_ones = []
  for i, layer in enumerate(network):
    inputs = len(layer.weight) // layer.kernel**2
    of_row = np.tile(np.broadcast_to(in_bits, inputs), layer.kernel**2)[:, None]
    weight = layer.weight * np.ldexp(1.0, of_row - layer.shift)
    last = i == len(network) - 1
    natural = layer.limit.bit_length() - _NATURAL
    in_bits = out_bits if last and out_bits is not None else _usual(weight, natural)
    float_ones.append(_float_layer(layer, weight, in_bits))
  return float_ones, int(in_bits)


def _usual(weight: np.ndarray, natural: int) -> int:
  """Returns the `natural` fraction bits, at which activations peak at 16, or fewer.

  There are fewer if the kernel needs that.

  The kernel of the float layer is then no smaller than an initial one.
  """
  size = float(np.sqrt(np.mean(weight**2)))
  initial = round(math.log2(max(size, 1e-9) * math.sqrt(3 * len(weight))))
  return min(initial, natural)


def _float_layer(layer: Layer, weight: np.ndarray, out_bits: int) -> FloatLayer:
  half = np.where(layer.shift > 0, np.ldexp(0.5, layer.shift), 0)
  kernel = (weight * 2.0**-out_bits).reshape(layer.kernel, layer.kernel, -1, weight.shape[1])
  bias = (layer.bias - half) * np.ldexp(1.0, -out_bits - layer.shift)
  return FloatLayer(
    kernel.astype(np.float32), bias.astype(np.float32), layer.slope / LINEAR, layer.shuffle
  )
