"""Wavelet-based linear shortcuts beside the stages of a transform, in flax.linen.

H. Li, S. Li, W. Dai, M. Cao, N. Kan, C. Li, J. Zou, H. Xiong, "On disentangled training for
nonlinear transform in learned image compression", ICLR 2025 (AuxT). A chain of linear maps runs
beside the network, and its result is added after each change of resolution. The first values are
those of the authors' code.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from compress_jax.codec import Params
from compress_jax.layers.blocks import from_cells, initial, to_cells
from compress_jax.layers.parameters import parameter

Array = jax.Array

# This matrix maps the four pixels of a 2x2 cell, row by row, to the bands LL, LH, HL and HH. It is
# its own inverse.
_HAAR = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
_PROJECTION = 'projection'  # Name of the layers that are kept near orthogonal.
PENALTY = 0.1  # Weight of `orthogonality` in the loss.
_FAINT = 0.05  # Factor of the projections of shortcuts that are added to trained networks.


def haar(x: Array) -> Array:
  """Returns f32[B, h, w, 4 C] of f32[B, 2h, 2w, C]: the bands of one level, each of C channels."""
  return _mixed(to_cells(x, 2))


def inverse_haar(bands: Array) -> Array:
  """Returns f32[B, 2h, 2w, C] of f32[B, h, w, 4 C]: undoes `haar`."""
  return from_cells(_mixed(bands), 2)


class WaveletDown(nn.Module):
  """A linear map to half the resolution: a Haar transform, a scale of each band, a projection."""

  features: int
  gain: float = 1.0  # Factor of the first values of the projection.

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns f32[B, h, w, features] of f32[B, 2h, 2w, C]."""
    bands = haar(x)
    scales = parameter(self, 'scales', _scales, (bands.shape[-1],))
    bands = bands * jnp.exp(scales).astype(x.dtype)
    return Projection(self.features, self.gain, name=_PROJECTION)(bands)


class WaveletUp(nn.Module):
  """A linear map to twice the resolution, the mirror image of `WaveletDown`."""

  features: int
  gain: float = 1.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns f32[B, 2h, 2w, features] of f32[B, h, w, C]."""
    bands = Projection(4 * self.features, self.gain, name=_PROJECTION)(x)
    scales = parameter(self, 'scales', _scales, (bands.shape[-1],))
    return inverse_haar(bands * jnp.exp(-scales).astype(x.dtype))


class Projection(nn.Module):
  """A matrix product over channels, with a bias."""

  features: int
  gain: float = 1.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns f32[B, H, W, features] of f32[B, H, W, C]."""
    kernel = parameter(self, 'kernel', initial(self.gain), (x.shape[-1], self.features))
    bias = parameter(self, 'bias', nn.initializers.zeros, (self.features,))
    return jnp.einsum('bhwi,io->bhwo', x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


def at_once(levels: Callable[[Array], Array], x: Array) -> Array:
  """Returns f32[B, h, w, s * s * F], the cells of what `levels` makes of f32[B, h, w, C].

  Cells of wavelets do not overlap, so a chain of `WaveletUp` maps every position by the same
  matrix, which the chain's outputs for unit vectors show. One product with it is faster than the
  chain, whose middle levels are large arrays.

  Args:
    levels: a chain of `WaveletUp`, from f32[B, h, w, C] to f32[B, s * h, s * w, F].
    x: f32[B, h, w, C].
  """
  channels = x.shape[-1]
  unit = jnp.concatenate([jnp.zeros((1, channels)), jnp.eye(channels)])
  outputs = levels(unit[:, None, None]).reshape(channels + 1, -1)  # f32[C + 1, s * s * F]
  offset, matrix = outputs[0], outputs[1:] - outputs[0]
  return jnp.einsum('bhwi,io->bhwo', x, matrix.astype(x.dtype)) + offset.astype(x.dtype)


def orthogonality(params: Params) -> Array:
  """Returns f32[], how far the projections of all shortcuts are from orthogonal ones.

  That is the sum over projections of the mean squared difference between a Gram matrix, the
  smaller of its two, and the identity.
  """
  total = jnp.zeros(())
  for path, kernel in traverse_util.flatten_dict(params).items():
    if path[-2:] == (_PROJECTION, 'kernel'):
      rows = kernel if kernel.shape[0] <= kernel.shape[1] else kernel.T
      total += jnp.mean((rows @ rows.T - jnp.eye(len(rows))) ** 2)
  return total


def faint(params: Params) -> Params:
  """Returns parameters whose shortcuts contribute little: their projections are scaled by 0.05.

  Shortcuts that begin like that can be added to trained networks, which go on learning from where
  they are.
  """

  def scaled(path: tuple[Any, ...], value: Array) -> Array:
    return value * _FAINT if path[-2:] == (_PROJECTION, 'kernel') else value

  return traverse_util.path_aware_map(scaled, params)


def _scales(key: Array, shape: tuple[int]) -> Array:
  """Returns the first logarithms of the scales: 1/2, and 0 for the band HH."""
  del key
  return jnp.repeat(jnp.array([0.5, 0.5, 0.5, 0.0]), shape[0] // 4)


def _mixed(cells: Array) -> Array:
  """Returns f32[B, h, w, 4 C], with the transform applied over the four parts of the channels."""
  parts = cells.reshape(*cells.shape[:3], 4, -1)
  return jnp.einsum('bhwic,io->bhwoc', parts, jnp.asarray(_HAAR, cells.dtype)).reshape(cells.shape)
