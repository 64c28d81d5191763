"""Blocks as a mean and a shape: planes come back."""

import numpy as np
import pytest

from compress_jax import coder
from compress_jax.methods.kmeans import shapes, sidematch
from tests.helpers.codebooks import picture, shape_model

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('channels', [1, 2])
def test_planes_come_back(channels):
  plane, model = picture(40, 24, channels), shape_model(channels, 9)
  extra = RNG.integers(0, 3, (10, 6))
  writer = coder.Writer()
  choice = shapes.choose(plane, model, extra, np.full(channels, 0.01), writer)
  data = writer.finish()
  assert abs(8 * len(data) - choice.bits) < 64
  reader = coder.Reader(data)
  labels, decoded = shapes.read(reader, 40, 24, model, extra)
  reader.finish()
  np.testing.assert_array_equal(labels, choice.labels)
  np.testing.assert_array_equal(decoded, choice.plane)
  assert np.sqrt(((decoded - plane) ** 2).mean()) < 15


def test_the_predicted_mean_continues_the_neighbours():
  words = np.zeros((1, 4, 4, 1), np.int64)
  match = sidematch.match(words, alpha=6, tau=10, remove_mean=True)
  plane = np.zeros((8, 8, 1), np.int64)
  plane[:4, 4:], plane[4:, :4] = 100, 60
  sides = [s for s in sidematch.scan(plane) if (s.rows == 1).any() and (s.columns == 1).any()][-1]
  assert shapes._predict(match, sides, np.zeros(1, np.int64)).tolist() == [[80]]
