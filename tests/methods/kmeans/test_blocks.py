"""Blocks, colours and the features that split them: exact, or solved by hand."""

import numpy as np

from compress_jax.methods.kmeans import blocks

RNG = np.random.default_rng(0)


def test_blocks_come_back():
  plane = RNG.integers(0, 256, (12, 20, 3))
  np.testing.assert_array_equal(blocks.from_blocks(blocks.to_blocks(plane)), plane)
  np.testing.assert_array_equal(blocks.to_blocks(plane)[1, 2], plane[4:8, 8:12])


def test_padding_repeats_the_edge():
  padded = blocks.pad_to(np.arange(6).reshape(2, 3, 1), 4)
  assert padded.shape == (4, 4, 1)
  np.testing.assert_array_equal(padded[..., 0], [[0, 1, 2, 2], *[[3, 4, 5, 5]] * 3])


def test_colours_come_back_within_two_levels():
  image = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)
  back = blocks.ycbcr_to_rgb(blocks.rgb_to_ycbcr(image))
  assert np.abs(back.astype(int) - image).max() <= 2


def test_greys_come_back_exactly():
  grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2)
  ycbcr = blocks.rgb_to_ycbcr(grey)
  np.testing.assert_array_equal(ycbcr[:, 0], [[i, 128, 128] for i in range(256)])
  np.testing.assert_array_equal(blocks.ycbcr_to_rgb(ycbcr), grey)


def test_a_constant_survives_halving_and_doubling():
  plane = np.full((8, 12, 2), 77)
  np.testing.assert_array_equal(blocks.double(blocks.halve(plane)), plane)


def test_doubling_interpolates_a_ramp():
  ramp = np.broadcast_to(np.arange(0, 160, 16)[None, :, None], (4, 10, 1))
  inner = blocks.double(ramp)[3, 1:-1, 0]
  np.testing.assert_array_equal(np.diff(inner), 8)


def tile(rows):
  return np.repeat(np.array(rows, float)[:, :, None], 3, 2)


def test_eigenvalues_of_solved_blocks():
  flat = tile(np.full((4, 4), 50))
  # Rows 0, 0, 2, 2 times (1, 1, 1, 1): column covariance 4/3 everywhere, eigenvalue 16/3.
  step = tile([[0] * 4, [0] * 4, [2] * 4, [2] * 4])
  np.testing.assert_allclose(blocks.covariance(np.stack([flat, step])), [0, 16 / 3], atol=1e-9)
  np.testing.assert_allclose(blocks.trace(np.stack([flat, step])), [0, 16 / 3], atol=1e-9)
  # Gram of a flat block: 50^2 * 4 rows * 4 columns / 4.
  np.testing.assert_allclose(blocks.gram(flat[None]), [10_000])
  # Grey pixels: all variance lies on the grey axis; 3 * var(0, 2) with 15 in the denominator.
  np.testing.assert_allclose(blocks.colour(np.stack([flat, step])), [0, 3 * 16 / 15], atol=1e-9)
