"""HiFiC: a conditional GAN over a mean-scale hyperprior (Mentzer et al. 2020).

F. Mentzer, G. Toderici, M. Tschannen, E. Agustsson, "High-fidelity generative image
compression", NeurIPS 2020; networks as in the authors' archs.py.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from compress_jax.codec import Rated
from compress_jax.layers import entropy, quantization
from compress_jax.layers.blocks import (
  ChannelNorm,
  Conv,
  Deconv,
  Frame,
  initial,
  leaky,
  mean_pool,
  pad_to_cells,
  with_magnitudes,
)
from compress_jax.layers.deblocking import Deblocking
from compress_jax.layers.linear import BlockAnalysis, BlockSynthesis, centred
from compress_jax.layers.restoration import Restoration
from compress_jax.methods.gan.geometry import CELL, HYPER_CELL

Array = jax.Array

_STAGES = 4


class Analysis(nn.Module):
  """Image f32[B, 16h, 16w, 3] in [0, 1] to latents f32[B, h, w, latents]."""

  base: int
  latents: int
  linear: bool = False
  centred: bool = False  # The network beside the linear path sees no regional brightness.

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Applies a 7x7 convolution, four 3x3 ones of stride 2, and a last 3x3 one.

    ChannelNorm and ReLU follow all but the last.
    """
    image, gain = x, 0.1 if self.linear else 8.0
    x = centred(x, frame) if self.centred else x
    x = nn.relu(ChannelNorm(name='norm')(Conv(self.base, 7, name='first')(x, frame)))
    for i in range(_STAGES):
      x = Conv(self.base * 2 ** (i + 1), stride=2, name=f'down{i}')(x, frame)
      x = nn.relu(ChannelNorm(name=f'norm{i}')(x))
    x = Conv(self.latents, kernel_init=initial(gain), name='last')(x, frame)
    return x + BlockAnalysis(self.latents, CELL, name='linear')(image) if self.linear else x


class GeneratorBlock(nn.Module):
  """Residual block: convolution, norm, ReLU, convolution, norm; linear after the sum."""

  @nn.compact
  def __call__(self, x: Array, frame: Frame | None = None) -> Array:
    """Maps f32[B, H, W, C] to the same shape."""
    out = nn.relu(ChannelNorm(name='norm0')(Conv(x.shape[-1], name='conv0')(x, frame)))
    return x + ChannelNorm(name='norm1')(Conv(x.shape[-1], name='conv1')(out, frame))


class Synthesis(nn.Module):
  """The generator: latents f32[B, h, w, latents] to image f32[B, 16h, 16w, 3], not clipped."""

  base: int
  blocks: int
  linear: bool = False
  restoration: int = 0  # Channels of the network that corrects the image of the linear path.
  deblocking: bool = False  # Whether a filter smooths flat blocks, before the restoration.

  @nn.compact
  def __call__(self, y: Array, frame: Frame | None = None) -> Array:
    """Applies a head, residual blocks with a long shortcut, four transposed convolutions, a 7x7."""
    x = Conv(self.base * 2**_STAGES, name='first')(ChannelNorm(name='norm_in')(y), frame)
    x = head = ChannelNorm(name='norm_first')(x)
    for i in range(self.blocks):
      x = GeneratorBlock(name=f'block{i}')(x, frame)
    x = x + head
    maps = []
    for i in reversed(range(_STAGES)):
      x = Deconv(self.base * 2**i, name=f'up{i}')(x, frame)
      x = nn.relu(ChannelNorm(name=f'norm{i}')(x))
      maps.append(x)
    if not self.linear:
      return Conv(3, 7, bias_init=nn.initializers.constant(0.5), name='last')(x, frame)
    image = Conv(3, 7, kernel_init=initial(0.1), name='last')(x, frame)
    image = image + BlockSynthesis(CELL, name='linear')(y)
    quarter = maps[1]  # A quarter of the image's size, at which the next two networks work.
    if self.deblocking:
      image = Deblocking(CELL, name='deblocking')(image, quarter, frame)
    if not self.restoration:
      return image
    return image + Restoration(self.restoration, name='restoration')(image, quarter, frame)


class HyperAnalysis(nn.Module):
  """Latents f32[B, 4h, 4w, latents] to hyper-latents f32[B, h, w, hyper]."""

  hyper: int
  magnitudes: bool = False  # Also of the latents' magnitudes, as Ballé et al. (2018) do.

  @nn.compact
  def __call__(self, y: Array, frame: Frame | None = None) -> Array:
    """Applies a 3x3 convolution, then two 5x5 ones of stride 2."""
    y = with_magnitudes(y) if self.magnitudes else y
    y = nn.relu(Conv(self.hyper, name='conv0')(y, frame))
    y = nn.relu(Conv(self.hyper, 5, 2, name='conv1')(y, frame))
    return Conv(self.hyper, 5, 2, kernel_init=initial(8.0), name='conv2')(y, frame)


class HyperSynthesis(nn.Module):
  """Hyper-latents f32[B, h, w, hyper] to means or scales f32[B, 4h, 4w, latents]."""

  latents: int
  start: float = 0.0

  @nn.compact
  def __call__(self, z: Array, frame: Frame | None = None) -> Array:
    """Applies two transposed 5x5 convolutions and a 3x3 one."""
    for i in range(2):
      z = nn.relu(Deconv(z.shape[-1], 5, name=f'up{i}')(z, frame))
    bias = nn.initializers.constant(self.start)
    return Conv(self.latents, bias_init=bias, name='last')(z, frame)


class Discriminator(nn.Module):
  """Discriminator of real and coded images, per patch, given latents (archs.py, Discriminator).

  Every convolution has spectral norm (Miyato et al. 2018), with one power iteration per step. Its
  vectors are in the collection 'batch_stats'.
  """

  filters: tuple[int, ...] = (64, 128, 256, 512)
  details: bool = False  # Also sees the image less its 5x5 mean, enlarged; not in the paper.

  @nn.compact
  def __call__(self, x: Array, y_hat: Array, *, update: bool = False) -> Array:
    """Returns logits f32[B, H / 8, W / 8] of images f32[B, H, W, 3].

    Args:
      x: f32[B, H, W, 3], the images.
      y_hat: f32[B, H / 16, W / 16, C], their decoded latents.
      update: whether to update the vectors of spectral norm.
    """

    def conv(features: int, kernel: int, stride: int, name: str) -> nn.SpectralNorm:
      init = nn.initializers.normal(0.02)
      layer = nn.Conv(features, (kernel, kernel), (stride, stride), kernel_init=init, name=name)
      return nn.SpectralNorm(layer, name=f'{name}_norm')

    act = leaky(0.2)
    seen = act(conv(12, 3, 1, 'latents')(jax.lax.stop_gradient(y_hat), update_stats=update))
    seen = jnp.repeat(jnp.repeat(seen, CELL, 1), CELL, 2)  # Nearest neighbours.
    out = jnp.concatenate([x, _details(x), seen] if self.details else [x, seen], -1)
    for i, features in enumerate(self.filters):
      stride = 2 if i + 1 < len(self.filters) else 1
      out = act(conv(features, 4, stride, f'conv{i}')(out, update_stats=update))
    return conv(1, 4, 1, 'last')(out, update_stats=update)[..., 0]


def _details(x: Array) -> Array:
  """Returns f32[B, H, W, 3] less its local mean, scaled to about the range of images.

  Coded images differ from real ones by a hundredth of their range. Spectral norm prevents layers
  from amplifying that.
  """
  padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), 'edge')
  return 8 * (x - mean_pool(padded, 5, 'VALID'))


def transforms(model: 'Model') -> dict[str, nn.Module]:
  """Returns the networks that run on tiles, by name."""
  return {
    'analysis': Analysis(model.base, model.latents, model.linear, model.centred),
    'hyper_analysis': HyperAnalysis(model.hyper, model.magnitudes),
    'synthesis': Synthesis(
      model.base, model.blocks, model.linear, model.restoration, model.deblocking
    ),
  }


def prior(model: 'Model') -> entropy.Factorized:
  """Returns the density of the hyper-latents."""
  return entropy.Factorized(model.hyper, (3, 3, 3), quantiled=False)


class Model(nn.Module):
  """All parameters of the codec, and its forward pass."""

  base: int
  blocks: int
  latents: int
  hyper: int
  levels: int
  linear: bool = False
  restoration: int = 0
  centred: bool = False
  magnitudes: bool = False
  deblocking: bool = False

  def setup(self) -> None:
    """Creates the networks by name."""
    for name, network in transforms(self).items():
      setattr(self, name, network)
    self.hyper_mean = HyperSynthesis(self.latents)
    self.hyper_scale = HyperSynthesis(self.latents, 1.0)
    self.prior = prior(self)
    start = (self.levels, self.latents, CELL if self.linear else None)
    self.log_gains = self.param('log_gains', lambda _: quantization.initial_log_gains(*start))

  def analyse(self, x: Array) -> Array:
    """Returns the latents f32[B, h, w, C] of images f32[B, H, W, 3], in the type of x."""
    return self.analysis(pad_to_cells(x, CELL))

  def predict(
    self, z_hat: Array, level: Array, q: Array, magnitudes: Array | None = None
  ) -> entropy.Mixture:
    """Returns the distributions of the symbols, which depend on the hyper-latents alone.

    Args:
      z_hat: f32[B, h', w', hyper], decoded hyper-latents.
      level: i32[B], level bytes.
      q: f32[B, h, w, C], symbols, of which only the shape is used.
      magnitudes: is not used.
    """
    del magnitudes
    gain = quantization.gains(self.log_gains, level)[:, None, None]
    scale = self.hyper_scale(z_hat)[:, : q.shape[1], : q.shape[2]].astype(jnp.float32)
    return entropy.gaussian(jnp.zeros_like(scale), scale * gain)

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
    rows, columns = y.shape[1:3]
    gain = quantization.gains(self.log_gains, level)[:, None, None]
    z = self.hyper_analysis(pad_to_cells(y, HYPER_CELL).astype(dtype)).astype(jnp.float32)
    z_hat = quantization.straight_through(z)
    seen = z_hat.astype(dtype)
    mean = self.hyper_mean(seen)[:, :rows, :columns].astype(jnp.float32)
    price = self.predict(seen, level, y).bits
    shifted = (y - mean) * gain
    q = quantization.straight_through(shifted)
    if rdoq:
      q = quantization.cheaper(shifted, price, rdoq)
    key_y, key_z = quantization.split(key)
    density = lambda z: entropy.bits_of(self.prior(z))  # noqa: E731
    bits = {
      'y': quantization.counted(price, q, shifted, key_y, exact=exact).sum((1, 2, 3)),
      'z': quantization.counted(density, z_hat, z, key_z, exact=exact).sum((1, 2, 3)),
    }
    return Rated(q, q / gain + mean, bits)

  def synthesise(self, y_hat: Array) -> Array:
    """Returns images f32[B, 16h, 16w, 3] of decoded latents f32[B, h, w, C], in their type."""
    return self.synthesis(y_hat)

  def __call__(self, x: Array, level: Array) -> Array:
    """Runs all networks, so that all parameters are created."""
    return self.synthesise(self.rate(self.analyse(x), level, None).y_hat)
