"""Codebooks in a file come back."""

import numpy as np
import pytest

from compress_jax import coder
from compress_jax.methods.kmeans import codebook
from tests.helpers.codebooks import book_of

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('size,channels', [(1, 3), (2, 3), (37, 3), (300, 3), (20, 1)])
def test_a_codebook_comes_back(size, channels):
  book, words, axes = book_of(size, size, channels)
  writer = coder.Writer()
  codebook.write(writer, book, codebook.flat_prior())
  reader = coder.Reader(writer.finish())
  for sent, got in zip(
    book, codebook.read(reader, channels, size, codebook.flat_prior()), strict=True
  ):
    np.testing.assert_array_equal(sent, got)
  reader.finish()
  order = np.argsort(words.mean((1, 2, 3)))
  error = codebook.reconstruct(book, axes) - words[order]
  assert np.sqrt((error**2).mean()) < 15


def test_extreme_codewords_are_escaped_and_come_back():
  words = np.zeros((3, 4, 4, 3))
  words[1] = 255
  words[2, ::2, ::2] = 255
  uses, price = np.full(3, 1e6), np.ones(3)
  book = codebook.quantise(words, uses, price, codebook.flat_prior(), codebook.RGB_AXES)
  assert np.abs(book.levels).max() > 15
  writer = coder.Writer()
  codebook.write(writer, book, codebook.flat_prior())
  got = codebook.read(coder.Reader(writer.finish()), 3, 3, codebook.flat_prior())
  decoded = codebook.reconstruct(got, codebook.RGB_AXES)
  np.testing.assert_allclose(decoded, words[[0, 2, 1]], atol=3)


def test_the_codebook_transform_is_orthonormal():
  x = RNG.normal(size=(5, 4, 4, 3))
  y = codebook.coefficients(x, codebook.RGB_AXES)
  np.testing.assert_allclose((y**2).sum((1, 2, 3)), (x**2).sum((1, 2, 3)), rtol=1e-3)
