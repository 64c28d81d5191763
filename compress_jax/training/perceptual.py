"""Perceptual distances between images, as terms of the losses of training.

`perceptual_of` returns LPIPS or Wasserstein distortion, whose weights are files, or a substitute
that needs none.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from compress_jax.codec import CodecError
from compress_jax.evaluation import lpips, wasserstein
from compress_jax.training import losses

Array = jax.Array
Features = Sequence[Array]  # f32[B, h, w, C] for each layer of a discriminator.

# Weights of the substitute for LPIPS. At HiFiC's rates on Kodak LPIPS is 0.03..0.07 and
# 1 - MS-SSIM 0.02..0.06 (the authors' data.csv). Feature matching on AVIF files of 0.3..0.9 bpp was
# measured as 0.13..0.24 by a discriminator after 350 steps, and a third of that before training.
# So each term is about half of LPIPS.
STRUCTURE, MATCHING = 0.5, 0.1
# The weight of Wasserstein distortion relative to LPIPS. For JPEG and AVIF files of 0.5..1.9 bpp of
# three Kodak images it is 0.8..2.5 and LPIPS 0.01..0.3; the geometric mean of the ratios is 0.06.
WASSERSTEIN = 0.05


class Perceptual(NamedTuple):
  """A perceptual distance between images: near 0.05 for a good codec at 0.3 bpp."""

  about: str  # A description of the distance for the log.
  # Returns f32[B] from the weights, images, coded images, and the discriminator's features of both.
  distance: Callable[[Any, Array, Array, Features, Features], Array]
  weights: Any = ()  # Arrays that do not learn.


def perceptual_of(path: Path | str | None, measure: str = 'lpips') -> Perceptual:
  """Returns a perceptual distance: LPIPS, Wasserstein distortion or a substitute without weights.

  Args:
    path: path of the weights, see `lpips.find`; None asks for the substitute for LPIPS.
    measure: 'lpips', on AlexNet, or 'wasserstein', on VGG16.

  Raises:
    CodecError: there are no such weights.
  """
  if measure == 'wasserstein':
    return _wasserstein(path)
  if path is None:
    about = f'no LPIPS: {STRUCTURE} * (1 - MS-SSIM) + {MATCHING} * feature matching instead of it'
    return Perceptual(about, _substitute)

  def distance(weights: Any, x: Array, x_hat: Array, real: Features, coded: Features) -> Array:
    del real, coded
    return lpips.distance(weights, x, x_hat)

  weights = lpips.find(path)
  return Perceptual(f'{lpips.about(weights)} of {path}', distance, weights)


def _wasserstein(path: Path | str | None) -> Perceptual:
  """Returns Wasserstein distortion, scaled to the size of LPIPS."""
  if path is None:
    raise CodecError('Wasserstein distortion needs --lpips: weights of LPIPS on VGG16')

  def distance(weights: Any, x: Array, x_hat: Array, real: Features, coded: Features) -> Array:
    del real, coded
    return WASSERSTEIN * wasserstein.distortion(weights, x, x_hat, wasserstein.SIGMA)

  weights = lpips.find(path, 'vgg')
  return Perceptual(f'{wasserstein.about(weights)} of {path}', distance, weights)


def _substitute(weights: Any, x: Array, x_hat: Array, real: Features, coded: Features) -> Array:
  del weights
  structure = 1 - losses.ms_ssim(x, x_hat)
  return STRUCTURE * structure + MATCHING * losses.feature_matching(real, coded)
