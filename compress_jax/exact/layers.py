"""Integer networks: the same activations on every machine, in any order of sums.

Integers are stored as float64, which represents them exactly below 2^53. BLAS may then add in any
order, on any number of threads, with or without fused operations. `export.prove` rejects networks
that could leave that range. Where all sums of a product provably stay below 2^24, NumPy multiplies
in float32, which gives the same integers in half of the time. With `xp=jax.numpy`, inside
`jax.enable_x64(True)`, the same code runs on a device, in float64.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from compress_jax.codec import CodecError

Array = Any  # np.ndarray, or jax.Array where xp is jax.numpy.
LINEAR = 65536  # The slope of a layer without activation.
_BAND = 4096  # Positions whose neighbourhoods are in memory at a time.
EXACT32 = 2.0**24  # float32 represents all integers below this one.
_SMALL = 2**10  # Weights below this magnitude are stored as float32.


class Layer(NamedTuple):
  """An integer convolution: clip(leaky((x * weight + bias) >> shift)), then a pixel shuffle."""

  # f32 or f64[k * k * Cin, Cout], as `stored` returns it; rows in order of (ky, kx, channel).
  weight: Array
  bias: Array  # f64[Cout], integers at the scale of the sums, with the half that rounds.
  shift: Any  # i64[Cout] of NumPy; a negative one multiplies by a power of two.
  slope: int  # Factor of negative values times 65536: 0 is ReLU, 655 leaky, 65536 linear.
  limit: int  # Outputs are clipped to -limit..limit.
  kernel: int = 1  # 1, 3 or 5.
  shuffle: bool = False  # Whether `pixel_shuffle` follows: [H, W, 4C] -> [2H, 2W, C].


Network = tuple[Layer, ...]
Networks = tuple[Network, ...]


def stored(weight: np.ndarray) -> np.ndarray:
  """Returns integer weights as float32 if they are so small that `product` may multiply in it.

  Others are float64.
  """
  wide = weight.astype(np.float64)
  return wide.astype(np.float32) if np.abs(wide).max(initial=0) < _SMALL else wide


def dense(x: Array, layer: Layer, xp: Any = np) -> Array:
  """Returns the outputs f64[N, Cout] of a layer for f64[N, K], without its shuffle."""
  return outputs(product(x, layer.weight, xp), layer, xp)


def product(x: Array, weight: Array, xp: Any = np) -> Array:
  """Returns x * weight [N, Cout], exactly, of integers f64[N, K] and `stored` weights.

  The result is float32 where that is exact, else float64; with jax.numpy it is float64.
  """
  narrow = xp is np and weight.dtype == np.float32
  if narrow and (np.abs(x) @ peaks(weight)).max(initial=0) < EXACT32:
    return x.astype(np.float32) @ weight
  return x @ (weight.astype(np.float64) if weight.dtype == np.float32 else weight)


def peaks(weight: np.ndarray) -> np.ndarray:
  """Returns the largest magnitudes f64[K] of the rows of weights [K, Cout].

  No sum in x * weight can exceed |x| * peaks, in whatever order its terms are added.
  """
  return np.abs(weight).max(1).astype(np.float64)


def outputs(products: Array, layer: Layer, xp: Any = np) -> Array:
  """Returns the outputs f64[N, Cout] of a layer for the products x * weight."""
  values = products + layer.bias
  values *= np.ldexp(1.0, -layer.shift)
  assert values.dtype == np.float64, 'jax.numpy needs jax.enable_x64(True)'
  into = {'out': values} if xp is np else {}
  values = xp.floor(values, **into)
  if layer.slope != LINEAR:  # The larger of the two branches is the result.
    values = xp.maximum(values, xp.floor(values * (layer.slope / LINEAR) + 0.5), **into)
  return xp.clip(values, -layer.limit, layer.limit, **into)


def conv(x: Array, layer: Layer, xp: Any = np) -> Array:
  """Convolves f64[H, W, C] to f64[H, W, Cout], with zero padding and stride 1.

  A layer with a shuffle gives f64[2H, 2W, Cout / 4].
  """
  bands = [dense(columns, layer, xp) for columns in neighbourhoods(x, layer.kernel, xp)]
  values = xp.concatenate(bands).reshape(*x.shape[:2], -1)
  return pixel_shuffle(values) if layer.shuffle else values


def run(network: Network, x: Array, xp: Any = np) -> Array:
  """Applies all layers of a network to f64[H, W, C]."""
  for layer in network:
    x = conv(x, layer, xp)
  return x


def ends(network: Network) -> tuple[int, int]:
  """Returns the number of input channels and of output channels."""
  first, last = network[0], network[-1]
  return first.weight.shape[0] // first.kernel**2, last.bias.size // (4 if last.shuffle else 1)


def neighbourhoods(x: Array, kernel: int, xp: Any = np) -> Iterator[Array]:
  """Yields the neighbourhoods [n, kernel^2 * C] of the positions of [H, W, C], by bands of rows.

  The array counts as zero beyond its border.
  """
  height, width, channels = x.shape
  rows = max(1, _BAND // width)
  if kernel == 1:
    for top in range(0, height, rows):
      yield x[top : top + rows].reshape(-1, channels)
    return
  x = xp.pad(x, [(kernel // 2, kernel // 2)] * 2 + [(0, 0)])
  for top in range(0, height, rows):
    bottom = min(top + rows, height)
    taps = [
      x[top + dy : bottom + dy, dx : dx + width] for dy in range(kernel) for dx in range(kernel)
    ]
    yield xp.concatenate(taps, -1).reshape(-1, kernel * kernel * channels)


def pixel_shuffle(x: Array) -> Array:
  """Rearranges [H, W, 4C] to [2H, 2W, C]; channels are ordered (row, column, channel)."""
  height, width, channels = x.shape
  x = x.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
  return x.reshape(2 * height, 2 * width, channels // 4)


def to_arrays(network: Network, prefix: str) -> dict[str, np.ndarray]:
  """Returns a network as integer arrays named `prefix.i.field`.

  Weights have 16 bits where they fit, else 32.
  """
  arrays = {}
  for i, layer in enumerate(network):
    kind = np.int16 if np.abs(layer.weight).max(initial=0) < 2**15 else np.int32
    settings = [layer.slope, layer.limit, layer.kernel, int(layer.shuffle)]
    arrays[f'{prefix}.{i}.weight'] = layer.weight.astype(kind)
    arrays[f'{prefix}.{i}.bias'] = layer.bias.astype(np.int64)
    arrays[f'{prefix}.{i}.shift'] = layer.shift.astype(np.int16)
    arrays[f'{prefix}.{i}.settings'] = np.array(settings, np.int64)
  return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], prefix: str) -> Network:
  """Returns the network whose arrays `to_arrays` returned.

  Raises:
    CodecError: an array is missing, or the arrays do not form a network.
  """
  network: list[Layer] = []
  while f'{prefix}.{len(network)}.weight' in arrays:
    network.append(_layer(arrays, f'{prefix}.{len(network)}'))
  if not network:
    raise CodecError(f'no layers named {prefix}')
  for i, (layer, after) in enumerate(itertools.pairwise(network)):
    if layer.bias.size != after.weight.shape[0] // after.kernel**2 * (4 if layer.shuffle else 1):
      raise CodecError(f'layers {i} and {i + 1} of {prefix} do not fit together')
  return tuple(network)


def _layer(arrays: Mapping[str, np.ndarray], name: str) -> Layer:
  try:
    weight, bias, shift, settings = (
      arrays[f'{name}.{field}'] for field in ('weight', 'bias', 'shift', 'settings')
    )
  except KeyError as error:
    raise CodecError(f'layer {name} lacks {error}') from None
  if settings.shape != (4,) or any(a.dtype.kind != 'i' for a in (weight, bias, shift, settings)):
    raise CodecError(f'layer {name} is not made of integers')
  slope, limit, kernel, shuffle = map(int, settings)
  rows, channels = weight.shape if weight.ndim == 2 else (0, 0)
  sound = (
    rows > 0
    and channels > 0
    and bias.shape == shift.shape == (channels,)
    and ((shift > -64) & (shift < 64)).all()
    and 0 <= slope <= LINEAR
    and limit > 0
    and kernel in (1, 3, 5)
    and rows % kernel**2 == 0
    and shuffle in (0, 1)
    and not (shuffle and channels % 4)
  )
  if not sound:
    raise CodecError(f'layer {name} has wrong shapes or settings')
  return Layer(
    stored(weight),
    bias.astype(np.float64),
    shift.astype(np.int64),
    slope,
    limit,
    kernel,
    bool(shuffle),
  )
