"""Realism of coded textures: a Fréchet distance between features that are not learned.

PSNR favours blurred textures. A distance between the distributions of local features of original
and coded images does not. Features of a network that was part of a codec's training would favour
that codec, so they are those of wavelet scattering here: J. Bruna, S. Mallat, "Invariant
scattering convolution networks", PAMI 2013. The distance between Gaussians fitted to both
is that of M. Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash
equilibrium", NeurIPS 2017, section 4, where features come from Inception.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from compress_jax.codec import CodecError, Image

SCALES, ANGLES = 4, 6
FEATURES = SCALES * ANGLES + SCALES * (SCALES - 1) // 2 * ANGLES**2
_TILE = 128  # Side in pixels of the tiles that are transformed.
_CELL = 2**SCALES  # Side in pixels of the cells over which features are averaged.
_RIM = 1  # Cells at the edge of a tile that are dropped, because the transform wraps around.
_LUMA = (0.299, 0.587, 0.114)  # Weights of R, G and B in luma, ITU-R BT.601.
_LEAST = 0.5  # Added to responses, in grey levels: weaker ones are invisible.


class Moments(NamedTuple):
  """Sums over the features of an image, to which a Gaussian is fitted."""

  cells: int  # Number of features.
  total: np.ndarray  # f64[D], their sum.
  products: np.ndarray  # f64[D, D], the sum of their outer products.


@functools.cache
def wavelets() -> tuple[np.ndarray, np.ndarray]:
  """Returns frequency responses f32[J, L, S, S] of Morlet wavelets, and f32[S, S] of an average.

  Deviations are 0.8 * 2^j, frequencies 3/4 pi / 2^j, slants 4 / L, as in the software of Mallat's
  group.
  """
  around = 2 * np.pi * np.fft.fftfreq(_TILE)
  shifts = 2 * np.pi * np.arange(-1, 2)
  alias = np.stack(np.meshgrid(shifts, shifts, indexing='ij'), -1).reshape(-1, 1, 1, 2)
  grid = np.stack(np.meshgrid(around, around, indexing='ij'), -1) + alias  # [9, S, S, 2]
  bank = np.empty((SCALES, ANGLES, _TILE, _TILE), np.float32)
  for scale in range(SCALES):
    for angle in range(ANGLES):
      turn = np.pi * angle / ANGLES
      turned = grid @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
      width = 0.8 * 2**scale * np.array([1, ANGLES / 4])
      centre = np.array([0.75 * np.pi / 2**scale, 0])
      bell = lambda at, width=width: np.exp(-0.5 * ((at * width) ** 2).sum(-1))  # noqa: E731
      around_centre, around_zero = bell(turned - centre).sum(0), bell(turned).sum(0)
      # The correction removes the response to a constant.
      share = around_centre[0, 0] / around_zero[0, 0]
      bank[scale, angle] = around_centre - share * around_zero
  average = np.exp(-0.5 * (0.8 * 2 ** (SCALES - 1)) ** 2 * (grid**2).sum(-1)).sum(0)
  return bank, average.astype(np.float32)


def features(image: Image) -> np.ndarray:
  """Returns f64[n, D], scattering features of each cell of 16 x 16 pixels.

  They are logarithms of the local mean of |x * w| and ||x * w| * w'|.

  Raises:
    CodecError: a side is below 128 pixels.
  """
  height, width = (side // _TILE * _TILE for side in image.shape[:2])
  if not height or not width:
    raise CodecError(f'realism needs sides of {_TILE} pixels, not {image.shape[:2]}')
  luma = (image[:height, :width] @ np.array(_LUMA)).astype(np.float32)
  tiles = luma.reshape(height // _TILE, _TILE, width // _TILE, _TILE).swapaxes(1, 2)
  return np.concatenate([_scattering(tile) for tile in tiles.reshape(-1, _TILE, _TILE)])


def _scattering(tile: np.ndarray) -> np.ndarray:
  """Returns the features f64[n, D] of a tile f32[S, S]."""
  bank, average = wavelets()
  first = np.abs(scipy.fft.ifft2(scipy.fft.fft2(tile) * bank))
  spectra = scipy.fft.fft2(first)
  rows = [_means(spectra, average).reshape(-1, (_TILE // _CELL - 2 * _RIM) ** 2)]
  for scale in range(SCALES - 1):
    second = np.abs(scipy.fft.ifft2(spectra[scale][:, None, None] * bank[scale + 1 :]))
    means = _means(scipy.fft.fft2(second), average)
    rows.append(means.reshape(-1, rows[0].shape[1]))
  return np.log(np.concatenate(rows).T.astype(np.float64) + _LEAST)


def _means(spectra: np.ndarray, average: np.ndarray) -> np.ndarray:
  """Returns f32[..., n, n], local averages, one per cell, without the cells at the edge."""
  blurred = scipy.fft.ifft2(spectra * average).real
  inner = blurred[..., _CELL // 2 :: _CELL, _CELL // 2 :: _CELL]
  return np.maximum(inner[..., _RIM:-_RIM, _RIM:-_RIM], 0)


def moments(image: Image) -> Moments:
  """Returns the sums over an image's features that `distance` needs."""
  rows = features(image)
  return Moments(len(rows), rows.sum(0), rows.T @ rows)


def distance(one: Sequence[Moments], other: Sequence[Moments]) -> float:
  """Returns the squared Fréchet distance between the features of two sets; 0 for equal sets."""
  (mean_a, cov_a), (mean_b, cov_b) = _gaussian(one), _gaussian(other)
  root = _root(cov_a)
  mixed = np.linalg.eigvalsh(root @ cov_b @ root)
  shared = np.sqrt(np.maximum(mixed, 0)).sum()
  squared = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared
  return float(max(squared, 0.0))


def _gaussian(parts: Sequence[Moments]) -> tuple[np.ndarray, np.ndarray]:
  count = sum(part.cells for part in parts)
  mean = sum((part.total for part in parts), np.zeros(FEATURES)) / count
  products = sum((part.products for part in parts), np.zeros((FEATURES, FEATURES)))
  return mean, products / count - np.outer(mean, mean)


def _root(covariance: np.ndarray) -> np.ndarray:
  values, vectors = np.linalg.eigh(covariance)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def interval(
  one: Sequence[Moments], other: Sequence[Moments], *, draws: int = 50, seed: int = 0
) -> tuple[float, float]:
  """Returns the 95 % bootstrap interval of a distance: pairs of images are drawn with replacement.

  Distances of sets drawn from a set are biased upwards; the bias is removed by the basic bootstrap
  (Efron & Tibshirani 1993, section 13.4).
  """
  rng, twice = np.random.default_rng(seed), 2 * distance(one, other)
  distances = []
  for _ in range(draws):
    picked = rng.integers(0, len(one), len(one))
    distances.append(distance([one[i] for i in picked], [other[i] for i in picked]))
  low, high = np.quantile(distances, [0.025, 0.975])
  return max(twice - float(high), 0.0), twice - float(low)
