"""Wasserstein distortion: from squared error to statistics of texture, by local window size.

Y. Qiu, A. B. Wagner, J. Ballé, L. Theis, "Wasserstein distortion: unifying fidelity and realism",
CISS 2024 (arXiv 2310.03629); on features of VGG16 and fast as in section 3 of J. Ballé, L. Versari,
E. Dupont, H. Kim, M. Bauer, "Good, cheap, and fast: overfitted image compression with Wasserstein
distortion", CVPR 2025 (arXiv 2412.00505).

At each position the features of both images within about `sigma` pixels are modelled as Gaussian
distributions, whose squared 2-Wasserstein distance is (mean - mean')^2 + (deviation - deviation')^2
in each channel. With sigma of a pixel or less that is the squared error of the features; with a
large one, textures of equal statistics cost nothing. Windows are made by repeated averaging with
(1, 2, 1) / 4 and halving of the grid, so that level i has a window of about 2^i pixels; sigmas
between two levels blend the two linearly in log2 sigma.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from compress_jax.codec import CodecError
from compress_jax.evaluation import lpips
from compress_jax.layers.blocks import lower_bound

Array = jax.Array

LEVELS = 5  # The largest window has 2^5 pixels.
SCALES = 3  # Sizes of the image whose features are compared, each half of the one before.
# Pixels. The papers take a map of where people look, for which there is no model here.
SIGMA = 8.0
MIN_SIDE = lpips.NETWORKS['vgg'].min_side << (SCALES - 1)
# Added to variances under the square root, whose derivative would be infinite at 0.
_ADDED_VARIANCE = 1e-8


def distortion(
  params: lpips.Params,
  x: Array,
  x_hat: Array,
  sigma: Array | float,
  *,
  scales: int = SCALES,
  levels: int = LEVELS,
) -> Array:
  """Returns the Wasserstein distortion f32[B] of the pixels and the features of VGG16.

  Args:
    params: weights of LPIPS on VGG16, whose heads are not used.
    x: f32[B, H, W, 3] in [0, 1].
    x_hat: f32[B, H, W, 3] in [0, 1].
    sigma: in pixels, one number or f32[H, W]: the size of the window at each position.
    scales: number of sizes of the image whose features are compared.
    levels: as in `between_features`.

  Raises:
    CodecError: the weights are not of VGG16, or the smallest size has a side below 16 pixels.
  """
  net = lpips.name_of(params)
  side = min(x.shape[1:3]) >> (scales - 1)
  if net != 'vgg' or side < lpips.NETWORKS['vgg'].min_side:
    raise CodecError(
      f'Wasserstein distortion needs VGG16 and sides of {16 << (scales - 1)} pixels, not {net} '
      f'and {x.shape[1:3]}'
    )
  sigma = jnp.broadcast_to(jnp.asarray(sigma, jnp.float32), x.shape[1:3])
  both = lpips.normalised(jnp.concatenate([x, x_hat]))
  arrays = [both]
  for scale in range(scales):
    both = _lowpass(both)[:, ::2, ::2] if scale else both
    arrays += lpips.features_of_normalised(params, both, average=True)
  one, other = [each[: len(x)] for each in arrays], [each[len(x) :] for each in arrays]
  return between_features(one, other, sigma, levels=levels)


def about(params: lpips.Params) -> str:
  """Returns for people which distortion it is: its network, its sigma and its weights."""
  return f'Wasserstein distortion (VGG16, sigma {SIGMA:g}), weights {lpips.fingerprint(params)}'


def between_features(
  one: Sequence[Array], other: Sequence[Array], sigma: Array, *, levels: int = LEVELS
) -> Array:
  """Returns the Wasserstein distortion f32[B] between features: the sum over their arrays.

  Args:
    one: f32[B, h, w, C] for each layer, of any sizes.
    other: arrays of the same shapes.
    sigma: f32[H, W], in pixels of the image; a layer of half the size has half of it.
    levels: the largest window is 2^levels positions; larger sigmas count as that.
  """
  total = jnp.zeros(len(one[0]))
  for a, b in zip(one, other, strict=True):
    shape = a.shape[1:3]
    ratio = math.sqrt(sigma.shape[0] * sigma.shape[1] / (shape[0] * shape[1]))
    resized = jax.image.resize(jnp.log2(jnp.maximum(sigma, 1.0)), shape, 'linear')
    total += between(a, b, jnp.clip(resized - math.log2(ratio), 0, levels), levels=levels)
  return total


def between(a: Array, b: Array, log2_sigma: Array, *, levels: int = LEVELS) -> Array:
  """Returns the Wasserstein distortion f32[B] between two arrays of features, as a mean.

  Args:
    a: f32[B, h, w, C].
    b: f32[B, h, w, C].
    log2_sigma: f32[h, w] in 0..levels, at positions of these arrays.
    levels: the number of windows.
  """
  total = _weighted((a - b) ** 2, log2_sigma, 0)
  both = jnp.stack([a, b])
  squares = both**2
  for level in range(1, levels + 1):
    means, powers = _lowpass(both), _lowpass(squares)
    deviations = _root(powers - means**2)
    distances = (means[0] - means[1]) ** 2 + (deviations[0] - deviations[1]) ** 2
    total += _weighted(distances, log2_sigma, level)
    both, squares = means[:, :, ::2, ::2], powers[:, :, ::2, ::2]
    log2_sigma = _lowpass(log2_sigma[None, :, :, None])[0, ::2, ::2, 0]
  return total


def _weighted(distances: Array, log2_sigma: Array, level: int) -> Array:
  """Returns f32[B], the mean of f32[B, h, w, C] weighted by a level's share at each position."""
  share = jnp.maximum(1 - jnp.abs(log2_sigma - level), 0)
  return jnp.mean(share[..., None] * distances, (1, 2, 3))


def _root(variance: Array) -> Array:
  """Returns the square root with a finite derivative; rounding makes some variances negative."""
  bounded = lower_bound(variance, 0.0)
  return jnp.sqrt(bounded + _ADDED_VARIANCE)


def _lowpass(x: Array) -> Array:
  """Returns f32[..., h, w, C] averaged by (1, 2, 1) / 4 along both sides; edges repeat."""
  for axis in (-3, -2):
    size = x.shape[axis]
    first = lax.slice_in_dim(x, 0, 1, axis=axis)
    last = lax.slice_in_dim(x, size - 1, size, axis=axis)
    wide = jnp.concatenate([first, x, last], axis)
    before, after = (lax.slice_in_dim(wide, i, i + size, axis=axis) for i in (0, 2))
    x = (before + 2 * x + after) / 4
  return x
