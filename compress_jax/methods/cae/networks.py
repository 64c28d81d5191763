"""Compressive autoencoder with a Gaussian scale mixture prior (Theis et al. 2017).

L. Theis, W. Shi, A. Cunningham, F. Huszár, "Lossy image compression with compressive
autoencoders", ICLR 2017: section 3.1 and figure 2 for the networks, 3.3 for the prior.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from compress_jax.codec import CodecError, Rated
from compress_jax.layers import entropy, quantization
from compress_jax.layers.blocks import (
  Conv,
  Frame,
  SubPixel,
  initial,
  leaky,
  lower_bound,
  mirror,
  pad_to_cells,
)
from compress_jax.layers.linear import BlockAnalysis, BlockSynthesis

Array = jax.Array

CELL = 8  # Pixels along a side of a latent.
MARGIN = 35  # Mirrored pixels on each side, which the valid convolutions remove.
_SLOPE = 0.2  # Not stated in the paper.
_BLOCKS = 3
_MEAN, _STD = 0.45, 0.25  # The paper's normalisation of photographs in [0, 1].


class ValidBlock(nn.Module):
  """Residual block of valid 3x3 convolutions: loses two pixels on each side."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps f32[B, H, W, C] to f32[B, H - 4, W - 4, C]."""
    out = Conv(x.shape[-1], padding='VALID', name='conv1')(x)
    out = Conv(x.shape[-1], padding='VALID', name='conv2')(leaky(_SLOPE)(out))
    return x[:, 2:-2, 2:-2] + out


class Block(nn.Module):
  """Residual block of zero-padded 3x3 convolutions, linear after the sum."""

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Maps f32[B, H, W, C] to the same shape."""
    out = leaky(_SLOPE)(Conv(x.shape[-1], name='conv1')(x, frame))
    return x + Conv(x.shape[-1], name='conv2')(out, frame)


class Analysis(nn.Module):
  """Mirrored image f32[B, 8h + 70, 8w + 70, 3] to latents f32[B, h, w, C]."""

  widths: tuple[int, int, int]
  linear: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Applies 5x5 convolutions of stride 2 before and after the residual blocks.

    Raises:
      CodecError: the size of x is not that of whole cells with mirrored pixels around them.
    """
    if any(side < 2 * MARGIN + CELL or (side - 2 * MARGIN) % CELL for side in x.shape[1:3]):
      size = f'{x.shape[2]}x{x.shape[1]}'
      raise CodecError(
        f'the analysis of cae needs multiples of {CELL} pixels and {MARGIN} mirrored ones on each '
        f'side, not {size} in all'
      )
    act, (first, second, last) = leaky(_SLOPE), self.widths
    image, gain = x[:, MARGIN:-MARGIN, MARGIN:-MARGIN], 0.1 if self.linear else 24.0
    x = (x - _MEAN) / _STD
    x = act(Conv(first, 5, 2, 'VALID', name='down0')(x))
    x = act(Conv(second, 5, 2, 'VALID', name='down1')(x))
    for i in range(_BLOCKS):
      x = ValidBlock(name=f'block{i}')(x)
    x = Conv(last, 5, 2, 'VALID', initial(gain), name='down2')(x)
    return x + BlockAnalysis(last, CELL, name='linear')(image) if self.linear else x


class Synthesis(nn.Module):
  """Latents f32[B, h, w, C] to image f32[B, 8h, 8w, 3], not clipped."""

  widths: tuple[int, int, int]
  linear: bool = False

  @nn.compact
  def __call__(self, y: Array, frame: Frame | None = None) -> Array:
    """Applies sub-pixel convolutions before and after the residual blocks."""
    act, (first, second, _) = leaky(_SLOPE), self.widths
    x = act(SubPixel(second, name='up0')(y, frame))
    for i in range(_BLOCKS):
      x = Block(name=f'block{i}')(x, frame)
    x = act(SubPixel(first, name='up1')(x, frame))
    if self.linear:
      x = SubPixel(3, initial(0.1), name='up2')(x, frame) * _STD
      return x + BlockSynthesis(CELL, name='linear')(y)
    return SubPixel(3, name='up2')(x, frame) * _STD + _MEAN


class Prior(nn.Module):
  """Zero-mean Gaussian scale mixture per channel, the same at every position (section 3.3)."""

  channels: int
  components: int = 6

  def setup(self) -> None:
    """Creates log-weights and log-scales f32[K, C]; initial scales are 1/8 to 16."""
    shape = (self.components, self.channels)
    start = lambda key, shape: jnp.tile(jnp.linspace(-2.1, 2.8, shape[0])[:, None], (1, shape[1]))  # noqa: E731
    self.logits = self.param('logits', nn.initializers.zeros, shape)
    self.log_scales = self.param('log_scales', start, shape)

  def __call__(self, gain: Array) -> entropy.Mixture:
    """Returns the mixtures f32[K, B, 1, 1, C] of symbols: latents times `gain` f32[B, 1, 1, C]."""
    place = lambda values: values[:, None, None, None]  # noqa: E731
    scale = place(jnp.exp(self.log_scales)) * gain
    return entropy.Mixture(place(self.logits), jnp.zeros_like(scale), scale)

  def density_bits(self, q: Array, gain: Array) -> Array:
    """Returns -log2 of the density at q, in place of the probability; it may be negative.

    At round(y) + u its mean over uniform noise u is at least the bits of round(y), by Jensen's
    inequality (Theis et al. 2017, on estimating the rate).
    """
    place = lambda values: values[:, None, None, None]  # noqa: E731
    scale = lower_bound(place(jnp.exp(self.log_scales)) * gain, entropy.SCALE_MIN)
    weights = jax.nn.log_softmax(place(self.logits), 0)
    return -jax.nn.logsumexp(weights + norm.logpdf(q, scale=scale), 0) / math.log(2)


def transforms(model: 'Model') -> dict[str, nn.Module]:
  """Returns the networks that run on tiles, by name."""
  sizes = model.widths, model.linear
  return {'analysis': Analysis(*sizes), 'synthesis': Synthesis(*sizes)}


class Model(nn.Module):
  """All parameters of the codec, and its forward pass."""

  widths: tuple[int, int, int]
  components: int
  levels: int
  linear: bool = False
  rounded_bound: bool = False  # Training counts `Prior.density_bits` of round(y) + u.

  def setup(self) -> None:
    """Creates the networks by name."""
    for name, network in transforms(self).items():
      setattr(self, name, network)
    self.prior = Prior(self.widths[-1], self.components)
    start = (self.levels, self.widths[-1], CELL if self.linear else None)
    self.log_gains = self.param('log_gains', lambda _: quantization.initial_log_gains(*start))

  def analyse(self, x: Array) -> Array:
    """Returns the latents f32[B, h, w, C] of images f32[B, H, W, 3], in the type of x."""
    return self.analysis(mirror(pad_to_cells(x, CELL), MARGIN))

  def predict(
    self, z_hat: Array, level: Array, q: Array, magnitudes: Array | None = None
  ) -> entropy.Mixture:
    """Returns the distributions of the symbols, which do not depend on other symbols.

    Args:
      z_hat: is not used, as there are no hyper-latents.
      level: i32[B], level bytes.
      q: is not used, as no network predicts the rate.
      magnitudes: is not used either.
    """
    del z_hat, q, magnitudes
    return self.prior(quantization.gains(self.log_gains, level)[:, None, None])

  def rate(
    self,
    y: Array,
    level: Array,
    key: Array | None,
    *,
    rdoq: float = 0.0,
    exact: bool = False,
    dtype: Any = jnp.float32,
    mask: Array | None = None,
  ) -> Rated:
    """Returns symbols, decoded latents and bits of latents f32[B, h, w, C] at levels i32[B].

    Args:
      y: the latents.
      level: level bytes.
      key: Key[B] of noise that replaces rounding in the estimate of the rate, or None.
      rdoq: the worth of a bit in squared steps where latents are rounded; see `exact.rdoq`.
      exact: whether to count the bits of integer symbols even with a key, which then affects only
        gradients.
      dtype: is not used, as no network predicts the rate.
      mask: bool[C], the channels that are sent; the others are zero and need no bits.
    """
    del dtype
    gain = quantization.gains(self.log_gains, level)[:, None, None]
    scaled = y * gain
    price = self.prior(gain).bits
    q = quantization.straight_through(scaled)
    if rdoq:
      q = quantization.cheaper(scaled, price, rdoq)
    if key is not None and self.rounded_bound and not exact:
      bits = self.prior.density_bits(quantization.noise(key, q), gain)
    else:
      bits = quantization.counted(price, q, scaled, key, exact=exact)
    if mask is not None:
      q, bits = jnp.where(mask, q, 0), jnp.where(mask, bits, 0)
    return Rated(q, q / gain, {'y': bits.sum((1, 2, 3))})

  def synthesise(self, y_hat: Array) -> Array:
    """Returns images f32[B, 8h, 8w, 3] of decoded latents f32[B, h, w, C], in their type."""
    return self.synthesis(y_hat)

  def __call__(self, x: Array, level: Array) -> Array:
    """Runs all networks, so that all parameters are created."""
    return self.synthesise(self.rate(self.analyse(x), level, None).y_hat)
