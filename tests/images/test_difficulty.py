import numpy as np
import pytest

from compress_jax.images import difficulty


def grey(plane):
  return np.stack([plane] * 3, -1).astype(np.uint8)


NOISE = grey(np.random.default_rng(0).integers(0, 256, (512, 512)))
RAMP = grey(np.broadcast_to(2 * np.arange(100), (40, 100)))


def test_a_flat_image_is_as_easy_as_can_be_and_noise_is_hard():
  assert difficulty.hardness(grey(np.full((8, 8), 77))) == 0
  # The difference of two independent, uniformly distributed bytes has the magnitude d > 0 with
  # probability 2 (256 - d) / 256^2.
  d = np.arange(1, 256)
  expected = (2 * (256 - d) / 256**2 * np.log2(1 + d)).sum()
  assert difficulty.hardness(NOISE) == pytest.approx(expected, abs=0.02)


def test_the_bits_of_a_ramp_are_those_of_its_slope_along_one_of_two_axes():
  across, down = 40 * 99, 39 * 100  # Numbers of differences, of 2 and of 0.
  expected = across * np.log2(3) / (across + down)
  assert difficulty.hardness(RAMP) == pytest.approx(expected)


def test_a_ramp_has_twice_the_differences_at_half_of_the_size():
  assert difficulty.sharpness(RAMP) == pytest.approx(0.5)


def test_means_of_four_bytes_of_noise_differ_half_as_much():
  # The ratio is 2 for normal values, and slightly more for uniform bytes, whose means are closer to
  # normal.
  normal = np.clip(128 + 20 * np.random.default_rng(1).normal(size=(512, 512)), 0, 255)
  assert difficulty.sharpness(grey(normal)) == pytest.approx(2, rel=0.02)


def test_an_image_that_was_enlarged_twice_has_half_the_differences_of_the_original():
  small = np.random.default_rng(2).integers(0, 256, (300, 300))
  large = grey(small.repeat(2, 0).repeat(2, 1))
  # Each pixel stands twice, so 299 of the 599 differences along a side are those of the original
  # and the other 300 are 0.
  assert difficulty.sharpness(large) == pytest.approx(299 / 599)


def test_an_image_that_is_flat_at_half_of_the_size_counts_as_sharp():
  assert difficulty.sharpness(grey(255 * (np.indices((8, 8)).sum(0) % 2))) == 2
