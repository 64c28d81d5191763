"""The mode of kmeans whose files carry their codebook."""

import numpy as np
import pytest

from compress_jax.clustering import k_means
from compress_jax.codec import Image
from compress_jax.images import sets
from compress_jax.methods.kmeans import per_image
from tests.helpers import small_models


@pytest.fixture
def results(monkeypatch):
  """What every run of K-means gave."""
  found = []
  run = k_means.eigen_kmeans

  def recorded(*args, **rules):
    found.append(run(*args, **rules))
    return found[-1]

  monkeypatch.setattr(k_means, 'eigen_kmeans', recorded)
  return found


def crop() -> Image:
  return sets.centre_crop(small_models.photographs()['chelsea'], 192)


@pytest.mark.parametrize('size', [16, 64])
def test_the_published_algorithm_runs_until_centroids_stop_moving(size, results):
  space = per_image.SPACES['rgb']
  prior = np.ones(per_image.codebook.CONTEXTS)
  options = per_image.Options(0.013, prior, size=size, refine=0)
  per_image.best_coding(space.analysis(crop()), space, options)
  assert [bool(result.converged) for result in results] == [True]
  assert int(results[0].n_iter) > 12  # Where a refinement would take over.
