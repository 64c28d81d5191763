"""The channel context of gmm: groups of latents, each coded in two passes of a checkerboard.

D. He, Z. Yang, W. Peng, R. Ma, H. Qin, Y. Wang, "ELIC: efficient learned image compression with
unevenly grouped space-channel contextual adaptive coding", CVPR 2022, on groups of channels;
D. He, Y. Zheng, B. Sun, Y. Wang, H. Qin, "Checkerboard context model for efficient learned image
compression", CVPR 2021, on the two passes. The positions whose row and column have an even sum are
the anchors, which the first pass codes. The second pass codes the others and sees the anchors
around them. Both passes see the hyper-latents and all positions of the groups before. Groups that
are coded in one pass see these alone.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import Params
from compress_jax.layers.blocks import Conv, leaky
from compress_jax.layers.parameters import parameter
from compress_jax.methods.gmm.heads import head

Array = jax.Array

SIZE = 5  # Side of the window in which a position sees the anchors.
# (row, column) of the anchors around a position of the second pass, from its window's corner.
ANCHORS = tuple((r, c) for r in range(SIZE) for c in range(SIZE) if (r + c) % 2)


def anchors(height: int, width: int) -> np.ndarray:
  """Returns f32[height, width, 1]: 1 at the anchors, 0 at the positions of the second pass."""
  rows, columns = np.indices((height, width))
  return ((rows + columns + 1) % 2).astype(np.float32)[..., None]


class Checkerboard(nn.Module):
  """A 5x5 convolution that sees, from each position, only positions of the other pass."""

  features: int

  @nn.compact
  def __call__(self, y: Array) -> Array:
    """Maps f32[B, h, w, C] to f32[B, h, w, features], without a bias."""
    shape = len(ANCHORS), y.shape[-1], self.features
    start = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    taps = parameter(self, 'kernel', start, shape)
    rows, columns = np.array(ANCHORS).T
    kernel = (
      jnp.zeros((SIZE, SIZE, *shape[1:]), y.dtype).at[rows, columns].set(taps.astype(y.dtype))
    )
    return jax.lax.conv_general_dilated(
      y, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


class GroupParameters(nn.Module):
  """The entropy parameters of one group: f32[B, h, w, 3, K, C] of scales, means and logits."""

  channels: int  # C, of the group.
  mixtures: int  # K.
  widths: tuple[int, int]
  slope: float

  @nn.compact
  def __call__(self, features: Array, before: Array, seen: Array | None) -> Array:
    """Applies three layers; the first sees a neighbourhood and the others one position.

    Args:
      features: f32[B, h, w, F], the output of the hyper-synthesis.
      before: f32[B, h, w, V], the groups before.
      seen: f32[B, h, w, W], the anchors of the group itself, and 0 at the other positions; None for
        a group that is coded in one pass.
    """
    act, (wide, narrow) = leaky(self.slope), self.widths
    x = Conv(wide, 1, name='features')(features)
    if seen is not None:
      x += Checkerboard(wide, name='anchors')(seen)
    if before.shape[-1]:
      x += Conv(wide, name='before', use_bias=False)(before)
    x = act(Conv(narrow, 1, name='hidden')(act(x)))
    return head(x, self.mixtures, self.channels, 'last')


class ChannelContext(nn.Module):
  """The entropy parameters of all groups: f32[B, h, w, 3, K, C] of scales, means and logits."""

  groups: tuple[int, ...]  # Channels of each group.
  mixtures: int
  widths: tuple[int, int]
  slope: float
  two_passes: int | None = None  # The number of first groups with two passes; all unless given.

  @nn.compact
  def __call__(self, features: Array, views: Sequence[Array]) -> Array:
    """Predicts every group from the features of hyper-latents and the latents coded before it.

    Args:
      features: f32[B, h, w, F], the output of the hyper-synthesis.
      views: latents f32[B, h, w, C], and their magnitudes if the networks see them.
    """
    first_pass = jnp.asarray(anchors(*features.shape[1:3]), features.dtype)
    parts, start = [], 0
    for i, size in enumerate(self.groups):
      network = GroupParameters(size, self.mixtures, self.widths, self.slope, name=f'group{i}')
      before = jnp.concatenate([view[..., :start] for view in views], -1)
      seen = None
      if self.two_passes is None or i < self.two_passes:
        group = jnp.concatenate([view[..., start : start + size] for view in views], -1)
        seen = group * first_pass
      parts.append(network(features, before, seen))
      start += size
    return jnp.concatenate(parts, -1)


def with_passes(params: Params, two_passes: int) -> Params:
  """Returns the parameters of a `ChannelContext` of which only the first groups have two passes."""
  return {
    f'group{i}': {k: v for k, v in params[f'group{i}'].items() if i < two_passes or k != 'anchors'}
    for i in range(len(params))
  }
