"""Building blocks of the transforms, in flax.linen; images are f32[B, H, W, C].

Every convolution pads with zeros and keeps its grid aligned. Activations have the type of the
input, float32 or bfloat16; norms are computed in float32. A `Frame` marks the part of
an array that is image. The rest is set to zero before each convolution, so that a network gives
the same numbers on the image alone, inside a larger array and on an overlapping tile.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from compress_jax.layers.convolution import convolve, transposed
from compress_jax.layers.parameters import parameter

Array = jax.Array

# Offset of GDN's reparametrisation: Ballé, Laparra, Simoncelli (2016), section 4.
_PEDESTAL = 2.0**-36
_BETA_MIN = 1e-6


class Frame(NamedTuple):
  """The part of each array that belongs to the image, in cells of the coarsest grid."""

  edges: Array  # i32[B, 4]: top, bottom, left, right; bottom and right are exclusive.
  grid: tuple[int, int]  # Rows and columns of cells in the arrays; static.


def masked(x: Array, frame: Frame | None) -> Array:
  """Returns f32[B, H, W, C] with zeros outside of the frame, at any resolution."""
  if frame is None:
    return x
  return _masked(x, frame.edges * (x.shape[1] // frame.grid[0]))


@jax.jit  # Traced once for all layers with arrays of one shape.
def _masked(x: Array, edges: Array) -> Array:
  rows, columns = x.shape[1], x.shape[2]
  top, bottom, left, right = (lax.slice_in_dim(edges, i, i + 1, axis=1) for i in range(4))
  row, column = jnp.arange(rows), jnp.arange(columns)
  inside_rows = (row >= top) & (row < bottom)  # [B, H]
  inside_columns = (column >= left) & (column < right)
  inside = lax.expand_dims(inside_rows, (2,)) & lax.expand_dims(inside_columns, (1,))
  return jnp.where(lax.expand_dims(inside, (3,)), x, 0)


def leaky(slope: float) -> Callable[[Array], Array]:
  """Returns the activation that is x where positive and slope * x elsewhere."""
  return lambda x: jnp.where(x > 0, x, slope * x)


@jax.custom_vjp
def lower_bound(x: Array, bound: float) -> Array:
  """Returns max(x, bound), with a gradient that can raise an x below the bound."""
  return jnp.maximum(x, bound)


def _bound_forward(x: Array, bound: float) -> tuple[Array, Array]:
  return jnp.maximum(x, bound), x >= bound


def _bound_backward(above: Array, grad: Array) -> tuple[Array, None]:
  return jnp.where(above | (grad < 0), grad, 0), None


lower_bound.defvjp(_bound_forward, _bound_backward)


def with_magnitudes(y: Array) -> Array:
  """Returns f32[..., 2C]: f32[..., C] and its magnitudes.

  Rates depend on magnitudes, which networks of few units cannot compute well.
  """
  return jnp.concatenate([y, jnp.abs(y)], -1)


def pad_to_cells(x: Array, cell: int) -> Array:
  """Returns f32[B, H, W, C] with its last row and column repeated, to multiples of `cell`."""
  height, width = x.shape[1:3]
  return jnp.pad(x, ((0, 0), (0, -height % cell), (0, -width % cell), (0, 0)), 'edge')


def mirror(x: Array, margin: int) -> Array:
  """Returns f32[B, H + 2 * margin, W + 2 * margin, C]: f32[B, H, W, C] and its mirror images."""
  if all(isinstance(side, int) for side in x.shape[1:3]):
    return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), 'reflect')
  for axis in (1, 2):  # jnp.pad mirrors at most once where a size is symbolic.
    last = x.shape[axis] - 1
    index = jnp.arange(-margin, last + 1 + margin) % (2 * last)
    x = jnp.take(x, last - jnp.abs(last - index), axis)
  return x


def to_cells(x: Array, cell: int) -> Array:
  """Returns f32[B, h, w, cell * cell * C] of f32[B, cell * h, cell * w, C]: a row per block."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // cell, cell, width // cell, cell, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // cell, width // cell, -1)


def from_cells(x: Array, cell: int) -> Array:
  """Returns f32[B, cell * h, cell * w, C] of f32[B, h, w, cell * cell * C]: undoes `to_cells`."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, cell, cell, channels // cell**2)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * cell, width * cell, -1)


def mean_pool(x: Array, side: int, padding: str) -> Array:
  """Returns means over side x side of f32[B, H, W, C]; under 'SAME' zeros pad the border.

  `nn.avg_pool` divides by an integer array, which strict dtype promotion refuses.
  """
  return nn.pool(x, 0.0, lax.add, (side, side), (1, 1), padding) / side**2


def pixel_shuffle(x: Array) -> Array:
  """Returns f32[B, 2H, 2W, C] of f32[B, H, W, 4C], channels ordered (row, column, channel)."""
  return from_cells(x, 2)


def initial(gain: float = 1.0) -> Callable:
  """Returns an initialiser of kernels: uniform, of variance gain^2 / 3 per input.

  A gain of 1 is PyTorch's default. Latents need a larger gain: otherwise rounding erases them until
  training has scaled them up.
  """
  return nn.initializers.variance_scaling(gain**2 / 3, 'fan_in', 'uniform')


class Conv(nn.Module):
  """A convolution; `padding` is 'SAME' (zeros) or 'VALID'."""

  features: int
  kernel: int = 3
  stride: int = 1
  padding: str = 'SAME'
  kernel_init: Callable = initial()
  bias_init: Callable = nn.initializers.zeros
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Returns f32[B, H / stride, W / stride, features] of f32[B, H, W, Cin]."""
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    kernel = parameter(self, 'kernel', self.kernel_init, shape)
    x = masked(x, frame) if self.kernel > 1 else x
    out = convolve(x, kernel.astype(x.dtype), self.stride, self.padding)
    if not self.use_bias:
      return out
    return out + parameter(self, 'bias', self.bias_init, (self.features,)).astype(x.dtype)


class SubPixel(nn.Module):
  """A 3x3 convolution to four times the channels, shuffled to twice the size."""

  features: int
  kernel_init: Callable = initial()

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Returns f32[B, 2H, 2W, features] of f32[B, H, W, C]."""
    conv = Conv(4 * self.features, kernel_init=self.kernel_init, name='conv')
    return pixel_shuffle(conv(x, frame))


def phases(kernel: Array) -> Array:
  """Returns the kernel that, before a pixel shuffle, equals a transposed convolution by stride 2.

  Output 2i + p of the transposed convolution of k taps, k odd, reads its tap
  k // 2 + 2j - p at input i + j.

  Args:
    kernel: f32[k, k, Cin, Cout] of the transposed convolution, k = 3 or 5.

  Returns:
    f32[3, 3, Cin, 4 Cout] for shifts -1, 0, 1.
  """
  size, middle = kernel.shape[0], kernel.shape[0] // 2
  padded = jnp.pad(kernel, ((3, 3), (3, 3), (0, 0), (0, 0)))  # Taps beyond are zero.
  taps = jnp.array([[middle + 2 * j - p + 3 for j in (-1, 0, 1)] for p in (0, 1)])
  assert size in (3, 5)
  chosen = padded[taps[:, None, :, None], taps[None, :, None, :]]  # [2, 2, 3, 3, Cin, Cout]
  return chosen.transpose(2, 3, 4, 0, 1, 5).reshape(3, 3, kernel.shape[2], -1)


class Deconv(nn.Module):
  """A transposed convolution by stride 2."""

  features: int
  kernel: int = 3

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Returns f32[B, 2H, 2W, features] of f32[B, H, W, C]."""
    # Each output sees a quarter of the taps.
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    kernel = parameter(self, 'kernel', initial(3.5), shape)
    bias = parameter(self, 'bias', nn.initializers.zeros, (self.features,))
    return transposed(masked(x, frame), kernel.astype(x.dtype)) + bias.astype(x.dtype)


class GDN(nn.Module):
  """Generalized divisive normalization (Ballé, Laparra, Simoncelli, ICLR 2017, eq. 1).

  x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or times that root for the inverse.
  """

  inverse: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns f32[B, H, W, C], normalised."""
    channels = x.shape[-1]
    root = lambda value: lambda key, shape: jnp.sqrt(value(key, shape) + _PEDESTAL)  # noqa: E731
    beta = parameter(self, 'beta', root(lambda key, shape: jnp.ones(shape)), (channels,))
    eye = root(lambda key, shape: 0.1 * jnp.eye(shape[0]))
    gamma = parameter(self, 'gamma', eye, (channels, channels))  # [from, to].
    beta = lower_bound(beta, (_BETA_MIN + _PEDESTAL) ** 0.5) ** 2 - _PEDESTAL
    gamma = lower_bound(gamma, _PEDESTAL**0.5) ** 2 - _PEDESTAL
    norm = jnp.einsum('bhwi,io->bhwo', x.astype(jnp.float32) ** 2, gamma) + beta
    return (x * (jnp.sqrt(norm) if self.inverse else lax.rsqrt(norm))).astype(x.dtype)


class ChannelNorm(nn.Module):
  """Normalisation of the channels of each pixel (HiFiC's archs.py: unbiased variance, eps 1e-3)."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns f32[B, H, W, C], normalised."""
    gamma = parameter(self, 'gamma', nn.initializers.ones, (x.shape[-1],))
    beta = parameter(self, 'beta', nn.initializers.zeros, (x.shape[-1],))
    kind, x = x.dtype, x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    deviation = x - lax.stop_gradient(mean)
    variance = jnp.sum(deviation**2, -1, keepdims=True) / max(x.shape[-1] - 1, 1)
    return ((x - mean) * lax.rsqrt(variance + 1e-3) * gamma + beta).astype(kind)


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions with leaky rectifiers after them, and a shortcut."""

  slope: float = 0.01

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Returns f32[B, H, W, C] of f32[B, H, W, C]."""
    act = leaky(self.slope)
    out = act(Conv(x.shape[-1], name='conv1')(x, frame))
    return x + act(Conv(x.shape[-1], name='conv2')(out, frame))


class ResidualDown(nn.Module):
  """A residual block that halves the grid, with GDN (Cheng et al. 2020, figure 4)."""

  features: int
  slope: float = 0.01

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Returns f32[B, H / 2, W / 2, features] of f32[B, H, W, C]."""
    out = leaky(self.slope)(Conv(self.features, stride=2, name='conv1')(x, frame))
    out = GDN(name='gdn')(Conv(self.features, name='conv2')(out, frame))
    return out + Conv(self.features, 1, stride=2, name='skip')(x)


class ResidualUp(nn.Module):
  """A residual block that doubles the grid, with inverse GDN (Cheng et al. 2020, figure 4)."""

  features: int
  slope: float = 0.01

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Returns f32[B, 2H, 2W, features] of f32[B, H, W, C]."""
    out = leaky(self.slope)(SubPixel(self.features, name='subpixel')(x, frame))
    out = GDN(inverse=True, name='igdn')(Conv(self.features, name='conv')(out, frame))
    x, out = lax.optimization_barrier((x, out))  # Two such products in parallel are slower.
    return out + SubPixel(self.features, name='skip')(x, frame)


class ResidualUnit(nn.Module):
  """The bottleneck of the attention module, with the rectifier after the sum."""

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Returns f32[B, H, W, C] of f32[B, H, W, C]."""
    channels = x.shape[-1]
    out = nn.relu(Conv(channels // 2, 1, name='conv1')(x))
    out = nn.relu(Conv(channels // 2, name='conv2')(out, frame))
    return nn.relu(x + Conv(channels, 1, name='conv3')(out))


class Attention(nn.Module):
  """Simplified attention (Cheng et al. 2020, section 3.3): x + trunk * sigmoid(gate)."""

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Returns f32[B, H, W, C] of f32[B, H, W, C]."""
    trunk = gate = x
    for i in range(3):
      trunk = ResidualUnit(name=f'trunk{i}')(trunk, frame)
      gate = ResidualUnit(name=f'gate{i}')(gate, frame)
    return x + trunk * nn.sigmoid(Conv(x.shape[-1], 1, name='gate')(gate))
