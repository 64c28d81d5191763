"""Attention, hyperprior and context, and a discretised Gaussian mixture (Cheng et al. 2020).

Z. Cheng, H. Sun, M. Takeuchi, J. Katto, "Learned image compression with discretized
Gaussian mixture likelihoods and attention modules", CVPR 2020. The skeleton is that of
CompressAI's cheng2020-attn, whose one Gaussian is `mixtures=1` here.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Rated
from compress_jax.layers import entropy, quantization
from compress_jax.layers.blocks import (
  Attention,
  Conv,
  Frame,
  ResidualBlock,
  ResidualDown,
  ResidualUp,
  SubPixel,
  from_cells,
  initial,
  leaky,
  pad_to_cells,
  to_cells,
)
from compress_jax.layers.linear import BlockAnalysis, BlockSynthesis, centred
from compress_jax.layers.restoration import Restoration
from compress_jax.layers.wavelets import WaveletDown, WaveletUp, at_once
from compress_jax.methods.gmm.channels import ChannelContext
from compress_jax.methods.gmm.geometry import CELL, HYPER_CELL
from compress_jax.methods.gmm.serial import (
  Context,
  EntropyParameters,
  HyperAnalysis,
  HyperSynthesis,
  slice_name,
)

Array = jax.Array


class Analysis(nn.Module):
  """Image f32[B, 16h, 16w, 3] in [0, 1] to latents f32[B, h, w, C]."""

  channels: int
  attention: bool | str = True  # See `attentions`.
  slope: float = 0.01
  stem: int = 1
  linear: bool = False
  latents: int | None = None  # C; the number of channels unless given.
  centred: bool = False  # The network beside the linear path sees no regional brightness.
  shortcuts: bool = False  # With wavelet shortcuts beside the stages.

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Applies three residual blocks of stride 2, a last convolution and two attention modules.

    A stem of 4 folds 4 x 4 pixels into channels in place of the first two stages.
    """
    image, gain = x, 0.1 if self.linear else 16.0
    latents = self.latents or self.channels
    x = centred(x, frame) if self.centred else x
    block = functools.partial(ResidualBlock, self.slope)
    down = functools.partial(ResidualDown, self.channels, self.slope)
    inside, beside = attentions(self.attention, self.channels, latents)
    attention = Attention if inside else _nothing
    chain = _Shortcuts(self.shortcuts, functools.partial(WaveletDown, features=self.channels), x)
    if self.stem == 1:
      x = down(name='down0')(x, frame)  # [B, 8h, 8w, N]
      x = chain.added(x, 'shortcut0')
      x = block(name='block0')(x, frame)
      x = down(name='down1')(x, frame)  # [B, 4h, 4w, N]
      x = chain.added(x, 'shortcut1')
      x = attention(name='attention0')(x, frame)
      x = block(name='block1')(x, frame)
      x = down(name='down2')(x, frame)  # [B, 2h, 2w, N]
      x = chain.added(x, 'shortcut2')
      x = block(name='block2')(x, frame)
    else:
      x = Conv(self.channels, name='stem')(to_cells(x, self.stem), frame)  # [B, 4h, 4w, N]
      x = chain.added(leaky(self.slope)(x), 'shortcut0', 'shortcut1')
      x = block(name='block1')(x, frame)
      x = down(name='down2')(x, frame)  # [B, 2h, 2w, N]
      x = chain.added(x, 'shortcut2')
      x = attention(name='attention0')(x, frame)
      x = block(name='block2')(x, frame)
    x = Conv(latents, stride=2, kernel_init=initial(gain), name='last')(x, frame)
    x = chain.added(x, 'shortcut3', features=latents, gain=0.1 if self.linear else 1.0)
    if beside:
      x = Attention(name='attention1')(x, frame)
    return x + BlockAnalysis(latents, CELL, name='linear')(image) if self.linear else x


class Synthesis(nn.Module):
  """Latents f32[B, h, w, C] to image f32[B, 16h, 16w, 3], not clipped."""

  channels: int
  attention: bool | str = True  # See `attentions`.
  slope: float = 0.01
  stem: int = 1
  linear: bool = False
  restoration: int = 0  # Channels of the network that corrects the image of the linear path.
  shortcuts: bool = False  # With wavelet shortcuts beside the stages.

  @nn.compact
  def __call__(self, y: Array, frame: Frame | None = None) -> Array:
    """Applies the mirror image of the analysis.

    If there are not as many latents as channels, a first layer maps them to twice the channels.
    """
    last = initial(0.1 if self.linear else 1.0)
    block = functools.partial(ResidualBlock, self.slope)
    up = functools.partial(ResidualUp, self.channels, self.slope)
    inside, beside = attentions(self.attention, self.channels, y.shape[-1])
    attention = Attention if inside else _nothing
    chain = _Shortcuts(self.shortcuts, functools.partial(WaveletUp, features=self.channels), y)
    x = Attention(name='attention0')(y, frame) if beside else y
    if y.shape[-1] != self.channels:
      x = Conv(2 * self.channels, name='first')(x, frame)
    x = block(name='block0')(x, frame)
    x = up(name='up0')(x, frame)  # [B, 2h, 2w, N]
    x = chain.added(x, 'shortcut0')
    if self.stem == 1:
      x = block(name='block1')(x, frame)
      x = up(name='up1')(x, frame)  # [B, 4h, 4w, N]
      x = chain.added(x, 'shortcut1')
      x = attention(name='attention1')(x, frame)
      x = block(name='block2')(x, frame)
      x = up(name='up2')(x, frame)  # [B, 8h, 8w, N]
      x = chain.added(x, 'shortcut2')
      x = block(name='block3')(x, frame)
      image = SubPixel(3, last, name='last')(x, frame)
      image = chain.added(image, 'shortcut3', features=3, gain=0.1 if self.linear else 1.0)
    else:
      x = attention(name='attention1')(x, frame)
      x = block(name='block1')(x, frame)
      x = up(name='up1')(x, frame)  # [B, 4h, 4w, N]
      x = chain.added(x, 'shortcut1')
      x = block(name='block2')(x, frame)
      cells = Conv(3 * self.stem**2, kernel_init=last, name='last')(x, frame)
      levels = 'shortcut2', 'shortcut3'
      cells = chain.added_cells(cells, *levels, features=3, gain=0.1 if self.linear else 1.0)
      image = from_cells(cells, self.stem)
    if not self.linear:
      return image
    image = image + BlockSynthesis(CELL, name='linear')(y)
    if not self.restoration:
      return image
    return image + Restoration(self.restoration, self.slope, name='restoration')(image, x, frame)


def attentions(attention: bool | str, channels: int, latents: int) -> tuple[bool, bool]:
  """Returns whether a transform has attention inside it, and whether it has it at the latents.

  Args:
    attention: False for neither, 'inner' for the first, 'all' for both; True for both where there
      are as many latents as channels, as in the paper, and else for the first.
    channels: channels of the transform.
    latents: channels of the latents, and of the module beside them.
  """
  return bool(attention), attention == 'all' or (attention is True and latents == channels)


class _Shortcuts:
  """A chain of linear maps beside the stages of a transform, or nothing where it is left out."""

  def __init__(self, used: bool, level: Callable[..., Any], x: Array) -> None:
    """Starts the chain at the input x of the transform; `level` makes a map of one level."""
    self.used, self.level, self.x = used, level, x

  def added(self, x: Array, *names: str, **last: Any) -> Array:
    """Extends the chain by levels of these names, and returns its output added to that of a stage.

    `last` holds the features and the gain of the last level, where they are not the usual ones.
    """
    if not self.used:
      return x
    self.x = self._extended(self.x, names, last)
    return x + self.x

  def added_cells(self, x: Array, *names: str, **last: Any) -> Array:
    """Returns what `added` does, for the last levels of a synthesis and for cells of its image.

    Args:
      x: f32[B, h, w, s * s * F], the cells of f32[B, s * h, s * w, F] as `to_cells` makes them.
      names: names of levels that enlarge the output of the chain so far by s.
      last: as in `added`.
    """
    if not self.used:
      return x
    return x + at_once(lambda chain: self._extended(chain, names, last), self.x)

  def _extended(self, x: Array, names: Sequence[str], last: Mapping[str, Any]) -> Array:
    for name in names:
      x = self.level(name=name, **(last if name == names[-1] else {}))(x)
    return x


def _nothing(name: str) -> Callable[[Array, Frame | None], Array]:
  """Returns the identity, in place of an attention module that is left out."""
  del name
  return lambda x, frame: x


def depths(model: 'Model') -> tuple[int, int]:
  """Returns the number of channels of the latents and of the hyper-latents."""
  latents = model.latents or model.channels
  return latents, model.hyper or latents


def transforms(model: 'Model') -> dict[str, nn.Module]:
  """Returns the networks that run on tiles, by name."""
  rest = (model.attention, model.slope, model.stem, model.linear)
  synthesis = Synthesis(model.channels, *rest, model.restoration, model.shortcuts)
  analysis = Analysis(model.channels, *rest, model.latents, model.centred, model.shortcuts)
  return {
    'analysis': analysis,
    'hyper_analysis': HyperAnalysis(depths(model)[1], model.slope, model.magnitudes),
    'synthesis': synthesis,
  }


def prior(model: 'Model') -> entropy.Factorized:
  """Returns the density of the hyper-latents."""
  return entropy.Factorized(depths(model)[1])


class Model(nn.Module):
  """All parameters of the codec, and its forward pass."""

  channels: int
  mixtures: int
  attention: bool | str
  levels: int
  slope: float
  widths: tuple[int, int] | None
  stem: int = 1
  linear: bool = False
  latents: int | None = None
  hyper: int | None = None
  slices: tuple[int, ...] | None = None  # Latents that are coded together; all unless given.
  magnitudes: bool = False
  restoration: int = 0
  centred: bool = False
  shortcuts: bool = False
  context: str = 'serial'  # Or 'channels': see `channels`.
  two_passes: int | None = None  # Slices of context 'channels' with two passes; all unless given.

  def setup(self) -> None:
    """Creates the networks by name."""
    for name, network in transforms(self).items():
      setattr(self, name, network)
    self.hyper_synthesis = HyperSynthesis(self.slope)
    latents, hyper = depths(self)
    sizes = self.slices or (latents,)
    if self.context == 'channels':
      widths = self.widths or (2 * hyper, 2 * hyper)
      self.groups = ChannelContext(sizes, self.mixtures, widths, self.slope, self.two_passes)
    else:
      self.neighbours = Context(2 * hyper, name='context')
      self.parameters = [
        EntropyParameters(size, self.mixtures, self.slope, self.widths, name=slice_name(i))
        for i, size in enumerate(sizes)
      ]
    self.prior = prior(self)
    start = (self.levels, latents, CELL if self.linear else None)
    self.log_gains = self.param('log_gains', lambda _: quantization.initial_log_gains(*start))

  def analyse(self, x: Array) -> Array:
    """Returns the latents f32[B, h, w, C] of images f32[B, H, W, 3], in the type of x."""
    return self.analysis(pad_to_cells(x, CELL))

  def predict(
    self, z_hat: Array, level: Array, q: Array, magnitudes: Array | None = None
  ) -> entropy.Mixture:
    """Returns the distributions of symbols, given the symbols that are coded before each.

    Args:
      z_hat: [B, h', w', H], decoded hyper-latents, in the type in which the networks compute.
      level: i32[B], level bytes.
      q: f32[B, h, w, C], the symbols; the distribution of each depends on those before it.
      magnitudes: f32[B, h, w, C], the magnitudes of q unless given. Given separately, they have
        gradients of their own, which are useful at 0, where the slope of |q| is 0.
    """
    gain = quantization.gains(self.log_gains, level)[:, None, None]
    views = [q, jnp.abs(q) if magnitudes is None else magnitudes][: 1 + self.magnitudes]
    features = self.hyper_synthesis(z_hat)[:, : q.shape[1], : q.shape[2]]
    network = self.groups if self.context == 'channels' else self._serial
    predicted = network(features, [(view / gain).astype(features.dtype) for view in views])
    scale, mean, logits = jnp.moveaxis(predicted.astype(jnp.float32), (3, 4), (0, 1))
    return entropy.Mixture(logits, mean * gain, scale * gain)

  def rate(
    self,
    y: Array,
    level: Array,
    key: Array | None,
    *,
    rdoq: float = 0.0,
    exact: bool = False,
    dtype: Any = jnp.float32,
  ) -> Rated:
    """Returns symbols, decoded latents and bits of latents f32[B, h, w, C] at levels i32[B].

    The arguments are those of cae's `rate`. Networks compute in `dtype`; the rate is computed in
    f32.
    """
    gain = quantization.gains(self.log_gains, level)[:, None, None]
    z = self.hyper_analysis(pad_to_cells(y, HYPER_CELL).astype(dtype)).astype(jnp.float32)
    median = jax.lax.stop_gradient(self.prior.medians())
    z_hat = quantization.straight_through(z - median) + median
    q = quantization.straight_through(y * gain)
    price = self.predict(z_hat.astype(dtype), level, q).bits
    if rdoq:  # By the bits with all symbols at the nearest integers.
      q = quantization.cheaper(y * gain, price, rdoq)
      price = self.predict(z_hat.astype(dtype), level, q).bits
    key_y, key_z = quantization.split(key)
    density = lambda z: entropy.bits_of(self.prior(z))  # noqa: E731
    bits = {
      'y': quantization.counted(price, q, y * gain, key_y, exact=exact).sum((1, 2, 3)),
      'z': quantization.counted(density, z_hat, z, key_z, exact=exact).sum((1, 2, 3)),
    }
    return Rated(q, q / gain, bits)

  def synthesise(self, y_hat: Array) -> Array:
    """Returns images f32[B, 16h, 16w, 3] of decoded latents f32[B, h, w, C], in their type."""
    return self.synthesis(y_hat)

  def __call__(self, x: Array, level: Array) -> Array:
    """Runs all networks, so that all parameters are created."""
    return self.synthesise(self.rate(self.analyse(x), level, None).y_hat)

  def _serial(self, features: Array, views: Sequence[Array]) -> Array:
    """Predicts f32[B, h, w, 3, K, C], scales, means and logits, by the context of rows above.

    Args:
      features: [B, h, w, F], the output of the hyper-synthesis.
      views: latents [B, h, w, C], and their magnitudes if the networks see them.
    """
    seen = jnp.concatenate([features, self.neighbours(jnp.concatenate(views, -1))], -1)
    starts = np.cumsum([0, *(part.channels for part in self.parameters)])
    parts = [
      part(jnp.concatenate([seen, *(view[..., :start] for view in views)], -1))
      for part, start in zip(self.parameters, starts, strict=False)
    ]
    return jnp.concatenate(parts, -1)
