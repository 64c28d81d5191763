"""Blocks of all colours at a time: indices come back, and a price moves bits and error."""

import numpy as np
import pytest

from compress_jax import coder
from compress_jax.methods.kmeans import blocks, codebook
from compress_jax.methods.kmeans import colour_blocks as whole
from tests.helpers.codebooks import book_of, picture

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('size', [1, 2, 50])
def test_indices_come_back_and_their_length_is_foreseen(size):
  plane = picture(40, 28)
  words = codebook.reconstruct(book_of(3, size)[0], codebook.RGB_AXES)
  writer = coder.Writer()
  labels, bits, decoded = whole.choose(plane, words, np.full(3, 0.001), writer)
  np.testing.assert_array_equal(decoded, blocks.from_blocks(words[labels]))
  data = writer.finish()
  assert abs(8 * len(data) - bits) < 64
  np.testing.assert_array_equal(whole.read(coder.Reader(data), 40, 28, words), decoded)


def test_without_a_price_every_block_takes_its_nearest_codeword():
  plane, words = picture(32, 32), RNG.integers(0, 256, (30, 4, 4, 3))
  labels, _, _ = whole.choose(plane, words, None)
  tiles = blocks.to_blocks(plane)[:, :, None]
  distance = ((tiles - words) ** 2).sum((3, 4, 5))
  np.testing.assert_array_equal(
    np.take_along_axis(distance, labels[..., None], 2)[..., 0], distance.min(2)
  )


def test_a_higher_price_of_error_buys_less_error_with_more_bits():
  plane, words = picture(64, 64), codebook.reconstruct(book_of(5, 60)[0], codebook.RGB_AXES)
  found = [whole.choose(plane, words, np.full(3, price)) for price in (1e-4, 1e-3, 1e-2)]
  errors = [((decoded - plane) ** 2).mean() for _, _, decoded in found]
  assert errors[0] > errors[1] > errors[2]
  assert found[0][1] < found[1][1] < found[2][1]
