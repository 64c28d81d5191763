"""Validation counts whole files and decoded pixels."""

import numpy as np
import pytest

from compress_jax.codec import Codec
from compress_jax.training import validation


def codec(size, error):
  """Files of `size` bytes; decoding adds `error` to every value."""
  return Codec(
    encode=lambda released, image: (
      released + bytes(size - 4) + bytes([*image.shape[:2], *image[0, 0, :2]])
    ),
    decode=lambda released, file: np.full((*file[-4:-2], 3), file[-2] + error, np.uint8),
  )


def test_values_are_means_over_images_and_the_score_weighs_lambdas():
  images = [np.full((8, 16, 3), 100, np.uint8), np.full((16, 16, 3), 50, np.uint8)]
  found = validation.validate({0.0009: codec(63, 2), 0.1: codec(127, 0)}, b'R', images)
  bpp = (8 * 64 / 128 + 8 * 64 / 256) / 2
  assert found.values['bpp_0.0009'] == bpp
  assert found.values['psnr_0.0009'] == pytest.approx(10 * np.log10(255**2 / 4))
  assert found.values['psnr_0.1'] > 100
  weights = [(0.0009 * 0.1) ** 0.25 / lmbda**0.5 for lmbda in (0.0009, 0.1)]
  costs = [weights[0] * (bpp + 0.0009 * 4), weights[1] * 2 * bpp]
  assert found.score == pytest.approx(np.mean(costs), rel=1e-6)
  assert found.values['score'] == found.score
  assert (found.decoded['0.0009'] == 102).all() and found.decoded['0.1'].shape == (8, 16, 3)


def test_psnr_is_the_mean_of_the_images_own():
  images = [np.full((8, 8, 3), grey, np.uint8) for grey in (100, 200)]
  erring = codec(63, 0)._replace(
    decode=lambda released, file: np.full((*file[-4:-2], 3), file[-2] + file[-2] // 50, np.uint8)
  )  # By 2 and by 4 grey levels.
  found = validation.validate({0.01: erring}, b'R', images)
  own = [10 * np.log10(255**2 / error**2) for error in (2, 4)]
  assert found.values['psnr_0.01'] == pytest.approx(np.mean(own))
  bpp = 8 * 64 / 64
  assert found.score == pytest.approx((0.0009 * 0.1) ** 0.25 / 0.1 * (bpp + 0.01 * 10), rel=1e-6)
