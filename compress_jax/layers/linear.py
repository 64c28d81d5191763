"""A linear path beside the networks, which starts as a cosine transform; in none of the papers.

It carries most of an image from the first step of training on. The networks beside it have to learn
only details, and see images minus their local mean.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from compress_jax.codec import CodecError, Params
from compress_jax.layers import dct
from compress_jax.layers.blocks import Frame, from_cells, masked, mean_pool, to_cells
from compress_jax.layers.parameters import parameter

Array = jax.Array

FOLD = 4  # Side of a cell in pixels.
CONTRAST = 4.0  # With this factor details of photographs are about as large as images.


class BlockAnalysis(nn.Module):
  """A linear map of blocks of pixels to latents, at first the cosine transform of variance 1.

  Parameters are near 1, with constant factors that set their scale: a step of Adam then
  changes all of them by about the same fraction.
  """

  features: int
  cell: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns f32[B, h, w, features] of an image f32[B, cell * h, cell * w, 3] in [0, 1]."""
    vectors, deviations = dct.basis(self.cell, self.features)
    size = math.sqrt(vectors.shape[1])
    kernel = parameter(self, 'kernel', lambda *_: jnp.asarray(size * vectors.T), vectors.T.shape)
    kernel = kernel * (1 / (size * deviations))
    return jnp.einsum('bhwi,io->bhwo', to_cells(x - 0.5, self.cell), kernel.astype(x.dtype))


class BlockSynthesis(nn.Module):
  """A linear map of latents to blocks of pixels, at first the inverse of `BlockAnalysis`."""

  cell: int

  @nn.compact
  def __call__(self, y: Array) -> Array:
    """Returns the image f32[B, cell * h, cell * w, 3] of latents f32[B, h, w, C]."""
    vectors, deviations = dct.basis(self.cell, y.shape[-1])
    size = math.sqrt(vectors.shape[1])
    kernel = parameter(self, 'kernel', lambda *_: jnp.asarray(size * vectors), vectors.shape)
    kernel = kernel * (deviations / size)[:, None]
    return from_cells(jnp.einsum('bhwi,io->bhwo', y, kernel.astype(y.dtype)), self.cell) + 0.5


def centred(x: Array, frame: Frame | None = None) -> Array:
  """Returns images f32[B, 4h, 4w, 3] in [0, 1] minus their local mean, as `centred_cells`."""
  return from_cells(centred_cells(to_cells(x - 0.5, FOLD), frame), FOLD)


def centred_cells(cells: Array, frame: Frame | None = None) -> Array:
  """Returns cells f32[B, h, w, 3 n] minus the mean colour of the 7x7 cells around each, times 4.

  Networks need differences: with the colour of a region in all of its inputs a network learns
  ten times more slowly, or not at all. The mean is taken over cells inside the image.
  """
  colours = cells.reshape(*cells.shape[:3], -1, 3).mean(3)
  if frame is None:
    known = all(isinstance(side, int) for side in colours.shape[1:3])
    within = _within if known else _within_any
    share = jnp.asarray(within(*colours.shape[1:3]), colours.dtype)
  else:
    share = mean_pool(masked(jnp.ones_like(colours[..., :1]), frame), 7, 'SAME')
  mean = mean_pool(masked(colours, frame), 7, 'SAME') / jnp.maximum(share, 1e-6)
  return CONTRAST * (cells - jnp.tile(mean, cells.shape[-1] // 3))


def _within(rows: int, columns: int) -> np.ndarray:
  """Returns f32[1, h, w, 1], the share of the 7x7 cells around each that lies inside the image.

  It is computed by NumPy because XLA would take seconds to fold such constants.
  """
  along = (np.convolve(np.ones(count), np.ones(7) / 7, 'full')[3:-3] for count in (rows, columns))
  return np.outer(*along).astype(np.float32)[None, :, :, None]


def _within_any(rows: int, columns: int) -> Array:
  """Returns what `_within` does, for sizes that are not known yet: see `jax.export`."""

  def along(count: int) -> Array:
    place = jnp.arange(count)
    inside = jnp.minimum(place + 4, count) - jnp.maximum(place - 3, 0)
    return inside.astype(jnp.float32) / 7

  return jnp.outer(along(rows), along(columns))[None, :, :, None]


def centring(params: Params) -> Params:
  """Returns the parameters of a codec for `centred=True`, made of those for uncentred images.

  The first layer of the analysis gets the same response to differences. Its response to brightness
  is lost, which is small where a linear path carries the brightness.

  Raises:
    CodecError: the analysis has no first layer of this kind.
  """
  analysis = params['analysis']
  name = next((name for name in ('stem', 'first') if name in analysis), None)
  if name is None:
    raise CodecError('weights go on with centred=True where they have a stem, or are of gan')
  kernel, bias = np.asarray(analysis[name]['kernel']), np.asarray(analysis[name]['bias'])
  first = {'kernel': kernel / CONTRAST, 'bias': bias + 0.5 * kernel.sum((0, 1, 2))}
  return {**params, 'analysis': {**analysis, name: first}}


def check(linear: bool, **options: int) -> None:
  """Raises CodecError for an option that is on without the linear path that it needs."""
  for name, value in options.items():
    if value and not linear:
      raise CodecError(f'{name}={value} is of the linear path: it needs linear=True')
