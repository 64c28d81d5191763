"""Networks that predict the rates of gmm: hyperprior, context and entropy parameters.

The latents are those of `methods.gmm.networks`. Files are coded by integer versions of all of these
networks but the first (`serial_coding`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from compress_jax.layers.blocks import Conv, Frame, SubPixel, initial, leaky, with_magnitudes
from compress_jax.layers.parameters import parameter
from compress_jax.methods.gmm.heads import head

Array = jax.Array


class HyperAnalysis(nn.Module):
  """Latents f32[B, 4h, 4w, C] to hyper-latents f32[B, h, w, H]."""

  channels: int  # H.
  slope: float = 0.01
  magnitudes: bool = False  # Also of the latents' magnitudes, as Ballé et al. (2018) do.

  @nn.compact
  def __call__(self, y: Array, frame: Frame | None = None) -> Array:
    """Applies five 3x3 convolutions, the third and fifth of stride 2."""
    act = leaky(self.slope)
    y = with_magnitudes(y) if self.magnitudes else y
    for i, stride in enumerate((1, 1, 2, 1)):
      y = act(Conv(self.channels, stride=stride, name=f'conv{i}')(y, frame))
    return Conv(self.channels, stride=2, kernel_init=initial(64.0), name='conv4')(y, frame)


class HyperSynthesis(nn.Module):
  """Hyper-latents f32[B, h, w, H] to features f32[B, 4h, 4w, 2H]."""

  slope: float = 0.01

  @nn.compact
  def __call__(self, z: Array, frame: Frame | None = None) -> Array:
    """Applies five 3x3 convolutions; the second and fourth are sub-pixel convolutions."""
    act, channels = leaky(self.slope), z.shape[-1]
    z = act(Conv(channels, name='conv0')(z, frame))
    z = act(SubPixel(channels, name='up0')(z, frame))
    z = act(Conv(channels * 3 // 2, name='conv1')(z, frame))
    z = act(SubPixel(channels * 3 // 2, name='up1')(z, frame))
    return Conv(channels * 2, name='conv2')(z, frame)


class Context(nn.Module):
  """Latents f32[B, h, w, C] to features f32[B, h, w, features] of the latents before each."""

  features: int

  @nn.compact
  def __call__(self, y_hat: Array) -> Array:
    """Applies one 5x5 convolution that sees the two rows above and two latents to the left."""
    shape = (5, 5, y_hat.shape[-1], self.features)
    kernel = parameter(self, 'kernel', initial(), shape)
    bias = parameter(self, 'bias', nn.initializers.zeros, (self.features,))
    kernel, bias = kernel.astype(y_hat.dtype), bias.astype(y_hat.dtype)
    above = kernel[:2]
    left = kernel[2:3, :2]
    padded = jnp.pad(y_hat, ((0, 0), (2, 0), (2, 2), (0, 0)))
    dims = ('NHWC', 'HWIO', 'NHWC')
    out = jax.lax.conv_general_dilated(
      padded[:, :-1], above, (1, 1), 'VALID', dimension_numbers=dims
    )
    row = jax.lax.conv_general_dilated(
      padded[:, 2:, :-3], left, (1, 1), 'VALID', dimension_numbers=dims
    )
    return out + row + bias


class EntropyParameters(nn.Module):
  """Features f32[B, h, w, F] to f32[B, h, w, 3, K, C]: scales, means, logits."""

  channels: int
  mixtures: int
  slope: float = 0.01
  widths: tuple[int, int] | None = None  # 10/3 C and 8/3 C unless given.

  @nn.compact
  def __call__(self, features: Array) -> Array:
    """Applies three 1x1 convolutions; the last one has no logits for a single Gaussian."""
    act = leaky(self.slope)
    wide, narrow = self.widths or (self.channels * 10 // 3, self.channels * 8 // 3)
    x = act(Conv(wide, 1, name='conv0')(features))
    x = act(Conv(narrow, 1, name='conv1')(x))
    return head(x, self.mixtures, self.channels, 'conv2')


def slice_name(i: int) -> str:
  """Returns the name of the entropy parameters of a slice."""
  return f'parameters{i}' if i else 'parameters'
