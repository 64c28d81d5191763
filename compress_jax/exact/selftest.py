"""A test of devices: golden cases show whether one computes the integers of the reference.

A device whose float64 is not that of IEEE 754, or whose libraries emulate it, could decode other
symbols than were written. NumPy then runs in its place.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.exact import layers, mixture, tables, wavefront
from compress_jax.exact.layers import LINEAR, Array, Layer, Network

_MULTIPLIER, _INCREMENT = 6364136223846793005, 1442695040888963407  # Knuth's MMIX generator.


class Case(NamedTuple):
  """A computation whose integer results are known."""

  inputs: Callable[[], tuple[np.ndarray, ...]]
  compute: Callable[..., Array]  # compute(xp, *inputs)
  golden: str  # The digest of the result.


def backend() -> Any:
  """Returns the module that runs large exact networks.

  This is jax.numpy on an accelerator that passes the test, else numpy.
  """
  device = jax.local_devices()[0]
  return jnp if device.platform != 'cpu' and passes(device) else np


def run(network: Network, x: np.ndarray) -> np.ndarray:
  """Applies a network to f64[H, W, C] as `layers.run` does, with the module of `backend`.

  Input and output are arrays of NumPy.
  """
  if backend() is np:
    return layers.run(network, x)
  weights = [(layer.weight, layer.bias) for layer in network]
  settings = tuple(layer._replace(weight=0, bias=0, shift=tuple(layer.shift)) for layer in network)
  height, width, _ = x.shape
  padded = np.pad(x, ((0, _padding(height)), (0, _padding(width)), (0, 0)))
  with jax.enable_x64(True):
    outputs = np.asarray(_run(padded, np.array([height, width]), weights, settings))
  scale = len(outputs) // len(padded)
  return outputs[: scale * height, : scale * width]


def _padding(side: int) -> int:
  """Returns how much to add to a side to reach a power of two, so that few programs compile."""
  return (1 << (side - 1).bit_length()) - side


@functools.partial(jax.jit, static_argnames='settings')
def _run(
  x: Array, size: Array, weights: list[tuple[Array, Array]], settings: tuple[Layer, ...]
) -> Array:
  """Applies a network to f64[H, W, C], of which the first `size` rows and columns are the image.

  Everything beyond them is kept at zero.
  """
  for layer, (weight, bias) in zip(settings, weights, strict=True):
    x = layers.conv(x, layer._replace(weight=weight, bias=bias, shift=np.array(layer.shift)), jnp)
    size = 2 * size if layer.shuffle else size
    rows, columns = (jnp.arange(n) < end for n, end in zip(x.shape[:2], size, strict=True))
    x = jnp.where((rows[:, None] & columns)[..., None], x, 0.0)
  return x


@functools.cache
def passes(device: jax.Device) -> bool:
  """Returns whether all exact modules give the golden integers with jax.numpy on a device."""
  try:
    with jax.enable_x64(True), jax.default_device(device):
      return all(
        digest(jax.jit(functools.partial(case.compute, jnp))(*case.inputs())) == case.golden
        for case in CASES.values()
      )
  except RuntimeError:  # It has no float64 at all.
    return False


def digest(values: Array) -> str:
  """Returns the SHA-256 of integers in float64 and of their shape, as hexadecimal text."""
  whole = np.asarray(values).astype('<i8')
  return hashlib.sha256(f'{whole.shape}\n'.encode() + whole.tobytes()).hexdigest()


def integers(shape: tuple[int, ...], limit: int, seed: int) -> np.ndarray:
  """Returns pseudo-random integers in -limit..limit as f64; a quarter of them are +-limit."""
  powers = np.cumprod(np.full(int(np.prod(shape)), _MULTIPLIER, np.uint64))
  states = powers * np.uint64(seed) + np.cumsum(powers) * np.uint64(_INCREMENT)
  high = (states >> np.uint64(32)).astype(np.int64)
  values = high % (2 * limit + 1) - limit
  ends = np.where(high >> 31, limit, -limit)
  return np.where(high >> 29 & 3, values, ends).astype(np.float64).reshape(shape)


def chain() -> Network:
  """Returns a network with every kernel, activation and shuffle, whose sums exceed float32."""
  kinds = (
    (3, 8, 32, 655, True),
    (5, 8, 24, 0, False),
    (3, 24, 16, LINEAR, True),
    (1, 4, 6, LINEAR, False),
  )
  return tuple(
    Layer(
      weight=integers((kernel**2 * inputs, outputs), 2**15 - 1, 10 + i),
      bias=integers((outputs,), 2**31, 20 + i),
      shift=15 + np.arange(outputs) % 8,
      slope=slope,
      limit=2**15 - 1,
      kernel=kernel,
      shuffle=shuffle,
    )
    for i, (kernel, inputs, outputs, slope, shuffle) in enumerate(kinds)
  )


def wide() -> tuple[np.ndarray, Layer]:
  """Returns an input f64[16, 1536] and a layer whose largest sum is 0.93 * 2^53."""
  weight = integers((1536, 64), 2**20 - 1, 1)
  shift = np.arange(64, dtype=np.int64) % 8
  layer = Layer(weight, integers((64,), 2**40, 2), shift, LINEAR, 2**53)
  x = integers((16, 1536), 2**23 - 1, 3)
  x[0] = np.copysign(2**23 - 1, weight[:, 0])
  return x, layer


def _context_inputs() -> tuple[np.ndarray]:
  border = wavefront.padded(integers((6, 7, 16), 2**15 - 1, 40))
  rows, columns, _ = wavefront.order(6, 7)
  return (wavefront.gather(border, rows, columns),)


def _context(xp: Any, neighbours: Array) -> Array:
  weight = integers((len(wavefront.TAPS) * 16, 32), 2**15 - 1, 41)
  layer = Layer(weight, integers((32,), 2**30, 42), np.full(32, 16), LINEAR, 2**23)
  return layers.dense(neighbours, layer, xp)


def _mixture_inputs() -> tuple[np.ndarray, ...]:
  mean = integers((300, 3), 2**12, 50)
  index = np.abs(integers((300, 3), tables.N_SCALES - 1, 51))
  weight = np.abs(integers((300, 3), 2**15, 52))
  return mean, index, weight, np.sort(integers((300, 20), 2**13, 53))


def _mixture(xp: Any, mean: Array, index: Array, weight: Array, edges: Array) -> Array:
  return mixture.cumulative(mixture.Mixture(mean, index, weight), edges, xp)


CASES = {
  'sums': Case(
    lambda: wide()[:1],
    lambda xp, x: layers.dense(x, wide()[1], xp),
    '805f82148a59aa20f4b8f022ddf8ff91607cd4e53eacee784a474c4c640ceca5',
  ),
  'context': Case(
    _context_inputs,
    _context,
    '8ba8bbcbdc60ff7a0307668b17fc74a634025b394fd1b8f830e173a38bebe2e5',
  ),
  'mixture': Case(
    _mixture_inputs,
    _mixture,
    'd6925817c999db1a894716e5ca5d151bd18892e9c06b57d1f3ef7aa5d7f69549',
  ),
  'convolutions': Case(
    lambda: (integers((11, 9, 8), 2**15 - 1, 30),),
    lambda xp, x: layers.run(chain(), x, xp),
    'ed098cff1a2ceb24ef4fd425ea57449e008bb440e61673254c589b0e9070d37b',
  ),
}
