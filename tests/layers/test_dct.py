"""The cosine basis is orthonormal and complete, in the order of an AR(1) model of photographs."""

import numpy as np
import pytest
from scipy import fft, optimize

from compress_jax.layers import dct
from tests.helpers.photographs_model import (
  COLOURS,
  DEVIATION,
  blocks,
)


@pytest.mark.parametrize('cell,channels', [(2, 12), (8, 192), (8, 40), (16, 12), (16, 768)])
def test_vectors_are_orthonormal(cell, channels):
  vectors, deviations = dct.basis(cell, channels)
  assert vectors.shape == (channels, 3 * cell**2) and deviations.shape == (channels,)
  np.testing.assert_allclose(vectors @ vectors.T, np.eye(channels), atol=1e-5)


@pytest.mark.parametrize('cell', [4, 8, 16])
def test_coefficients_are_those_of_the_cosine_transform_of_colour_sums_and_differences(cell):
  block = np.random.default_rng(0).normal(size=(cell, cell, 3))
  expected = fft.dctn(block @ COLOURS.T, axes=(0, 1), norm='ortho')
  found = dct.basis(cell, 3 * cell**2).vectors @ block.ravel()
  np.testing.assert_allclose(np.sort(found), np.sort(expected.ravel()), atol=1e-4)


def test_the_strongest_vectors_are_the_mean_and_the_two_slowest_waves_of_grey():
  vectors = dct.basis(8, 3).vectors.reshape(3, 8, 8, 3)
  slow = np.cos(np.pi / 8 * (np.arange(8) + 0.5)) * (2 / (8 * 8 * 3)) ** 0.5
  np.testing.assert_allclose(vectors[0], np.full((8, 8, 3), 192**-0.5), rtol=1e-5)
  expected = np.broadcast_to(slow[:, None, None], (8, 8, 3))
  found = sorted(vectors[1:], key=lambda vector: vector.std(1).max())  # Along columns, along rows.
  np.testing.assert_allclose(found[0], expected, atol=1e-6)
  np.testing.assert_allclose(found[1], expected.transpose(1, 0, 2), atol=1e-6)


@pytest.mark.parametrize('cell,channels', [(8, 40), (16, 12)])
def test_the_strongest_vectors_are_chosen_in_falling_order(cell, channels):
  few, every = dct.basis(cell, channels), dct.basis(cell, 3 * cell**2)
  assert (np.diff(every.deviations) <= 0).all()
  np.testing.assert_array_equal(few.vectors, every.vectors[:channels])
  np.testing.assert_array_equal(few.deviations, every.deviations[:channels])
  # An orthonormal basis keeps the variance of all values.
  energy = (every.deviations.astype(float) ** 2).sum()
  assert energy == pytest.approx(3 * cell**2 * DEVIATION**2, rel=1e-5)


@pytest.mark.parametrize('cell', [4, 8])
def test_deviations_are_those_of_drawn_blocks(cell):
  vectors, deviations = dct.basis(cell, 3 * cell**2)
  n = 20_000
  found = (blocks(np.random.default_rng(cell), n, cell).reshape(n, -1) @ vectors.T).std(0)
  # Of a deviation from n normal values the deviation is 1 / sqrt(2 n); 5 of them is far.
  np.testing.assert_allclose(found, deviations, rtol=5 / np.sqrt(2 * n))


@pytest.mark.parametrize('lmbda', [0.0009, 0.013, 0.1])
def test_the_step_minimises_bits_and_error_at_high_rates(lmbda):
  # A uniform error within a step; every halving of it costs each of three colours a bit.
  def cost(step):
    return -3 * np.log2(step) + lmbda * step**2 / 12

  best = optimize.minimize_scalar(cost, bounds=(0.1, 500), method='bounded')
  assert 255 * dct.step(lmbda) == pytest.approx(best.x, rel=1e-4)
