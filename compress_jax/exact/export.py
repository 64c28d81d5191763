"""Conversion of float layers to integer layers, and the proof that these are exact."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from compress_jax.codec import CodecError
from compress_jax.exact import layers
from compress_jax.exact.layers import LINEAR, Layer, Network

EXACT = 2**53  # float64 represents all integers below this one.
_MARGIN = 8  # Ratio by which activations may exceed the largest of calibration.
_MAX_FRACTION = 24  # Fraction bits of activations that are tiny in calibration.
_MAX_SHIFT = 48
_TINY = 2.0**-30  # The least peak, for channels whose weights are all zero.


class Precision(NamedTuple):
  """The largest magnitudes of integers in a network."""

  weight: int
  activation: int


# Activations of 20 bits: their sums fit float64, and the error is a tenth of that of 16 bits.
WIDE = Precision(2**15 - 1, 2**19 - 1)
# Most sums stay below 2^24, where float32 is exact, which halves the time of a network. Files of
# gmm grow by less than 0.1 % (docs/speed.md).
NARROW = Precision(2**9 - 1, 2**14 - 1)


class FloatLayer(NamedTuple):
  """A trained convolution with its activation, in floating point."""

  kernel: np.ndarray  # f32[k, k, Cin, Cout]
  bias: np.ndarray  # f32[Cout]
  slope: float = 1.0  # Factor of negative values: 1.0 linear, 0.0 ReLU, 0.01 leaky.
  shuffle: bool = False  # Whether a pixel shuffle follows.


def float_run(network: Sequence[FloatLayer], x: np.ndarray) -> list[np.ndarray]:
  """Returns the outputs f64[H, W, C] of every layer for an input f32 or f64[H, W, Cin]."""
  outputs = []
  for layer in network:
    size, channels = layer.kernel.shape[0], layer.kernel.shape[-1]
    weight = layer.kernel.reshape(-1, channels).astype(np.float64)
    columns = layers.neighbourhoods(x.astype(np.float64), size)
    values = np.concatenate([band @ weight for band in columns]) + layer.bias
    values = np.where(values < 0, values * layer.slope, values).reshape(*x.shape[:2], channels)
    x = layers.pixel_shuffle(values) if layer.shuffle else values
    outputs.append(x)
  return outputs


def quantise(
  network: Sequence[FloatLayer],
  inputs: Sequence[np.ndarray],
  *,
  in_bits: int,
  in_limit: int,
  out_bits: int | None = None,
  out_limit: int = 2**23,
  precision: Precision = WIDE,
) -> tuple[Network, int]:
  """Returns integer layers that approximate float layers and are proven exact.

  Weights have a power-of-two scale per output channel. Activations have one scale per layer, at
  which 8 times the largest activation of calibration fits. Larger activations saturate.

  Args:
    network: the float layers.
    inputs: calibration inputs f64[H, W, C], in float units.
    in_bits: fraction bits of inputs: integers are round(2^in_bits * float).
    in_limit: the largest magnitude of integer inputs.
    out_bits: fraction bits of outputs; None chooses.
    out_limit: the largest magnitude of integer outputs, if `out_bits` is given.
    precision: the largest weight, and the largest activation of layers whose range is not given by
      `out_bits`.

  Returns:
    The network and the fraction bits of its output.

  Raises:
    CodecError: weights are not finite, or a sum could reach 2^53.
  """
  _check_finite(network)
  integer_layers: list[Layer] = []
  bits, limit = in_bits, in_limit
  for i, (layer, peak) in enumerate(zip(network, _peaks(network, inputs), strict=True)):
    source = bits, limit
    bits, limit = _fraction(peak, precision), precision.activation
    if out_bits is not None and i == len(network) - 1:
      bits, limit = out_bits, out_limit
    integer_layers.append(_quantise_layer(layer, source, (bits, limit), precision.weight))
  prove(integer_layers, in_limit)
  return tuple(integer_layers), bits


def prove(network: Sequence[Layer], in_limit: int) -> None:
  """Checks that no sum and no product reaches 2^53 for inputs of magnitude up to `in_limit`.

  Raises:
    CodecError: a sum could reach 2^53, or a weight is not an integer; the message names the layer
      and the channel.
  """
  for i, layer in enumerate(network):
    weight, bias = np.asarray(layer.weight, np.float64), np.asarray(layer.bias)
    whole = np.isfinite(weight).all(0) & (weight == np.rint(weight)).all(0)
    whole &= np.isfinite(bias) & (bias == np.rint(bias))
    for channel in range(len(bias)):
      where = f'layer {i}, channel {channel}'
      if not whole[channel]:
        raise CodecError(f'{where}: a weight is not an integer')
      largest = int(np.abs(weight[:, channel]).sum()) * in_limit + abs(int(bias[channel]))
      shift = int(layer.shift[channel])
      scaled = largest >> shift if shift >= 0 else largest << -shift
      sloped = 0 if layer.slope == LINEAR else (scaled + 1) * layer.slope + LINEAR // 2
      if max(largest, scaled, sloped) >= EXACT:
        raise CodecError(f'{where}: sums can exceed 2^53')
    in_limit = layer.limit


def _check_finite(network: Sequence[FloatLayer]) -> None:
  for i, layer in enumerate(network):
    bad = ~(np.isfinite(layer.kernel).all((0, 1, 2)) & np.isfinite(layer.bias))
    if bad.any():
      raise CodecError(f'layer {i}, channel {bad.argmax()}: a weight is not finite')


def _peaks(network: Sequence[FloatLayer], inputs: Sequence[np.ndarray]) -> list[float]:
  """Returns the largest magnitude of each layer's outputs over all inputs."""
  peaks = [0.0] * len(network)
  for x in inputs:
    for i, output in enumerate(float_run(network, x)):
      peaks[i] = max(peaks[i], float(np.abs(output).max(initial=0)))
  return peaks


def fraction(arrays: Sequence[np.ndarray], precision: Precision = WIDE) -> int:
  """Returns the fraction bits at which numbers up to 8 times these are activations in range."""
  return _fraction(max(float(np.abs(array).max(initial=0)) for array in arrays), precision)


def _fraction(peak: float, precision: Precision) -> int:
  scale = precision.activation / (_MARGIN * max(peak, 1e-9))
  return min(_MAX_FRACTION, math.floor(math.log2(scale)))


def _quantise_layer(
  layer: FloatLayer, source: tuple[int, int], target: tuple[int, int], largest: int
) -> Layer:
  """Returns the integer layer of a float layer.

  `source` and `target` are the fraction bits and the limit of its inputs and of its outputs,
  `largest` the largest weight.
  """
  (in_bits, in_limit), (out_bits, limit) = source, target
  channels = layer.kernel.shape[-1]
  weight = layer.kernel.reshape(-1, channels).astype(np.float64)
  bias = layer.bias.astype(np.float64) * 2.0**in_bits
  bits = _weight_bits(weight, bias, in_limit, largest)
  shift = np.clip(in_bits + bits - out_bits, -_MAX_SHIFT, _MAX_SHIFT)
  scale = np.ldexp(1.0, shift + out_bits - in_bits)
  half = np.where(shift > 0, np.ldexp(0.5, shift), 0)
  return Layer(
    layers.stored(np.rint(weight * scale)),
    np.rint(bias * scale) + half,
    shift,
    round(layer.slope * LINEAR),
    limit,
    layer.kernel.shape[0],
    layer.shuffle,
  )


def _weight_bits(weight: np.ndarray, bias: np.ndarray, in_limit: int, largest: int) -> np.ndarray:
  """Returns the most fraction bits i64[Cout] with which weights fit and sums stay below 2^51."""
  peaks = np.maximum(np.abs(weight).max(0), _TINY)
  sums = np.maximum(np.abs(weight).sum(0) * in_limit + np.abs(bias), _TINY)
  room = np.minimum(largest / peaks, EXACT / 4 / sums)
  return np.floor(np.log2(room)).astype(np.int64)
