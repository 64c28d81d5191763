"""K-means of data of any magnitude, and of several at once, beside distances in f64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.clustering.k_means import assign, eigen_kmeans, kmeans, lloyd
from compress_jax.codec import CodecError
from tests.helpers.points import clouds


def distances(points, centroids):
  """f64[N, K], squared, written out."""
  wide = np.asarray(points, np.float64)[:, None] - np.asarray(centroids, np.float64)
  return (wide**2).sum(-1)


def assert_nearest(labels, points, centroids):
  """The centroid of each label is as near as any, but for the last digits of f32."""
  found = distances(points, centroids)
  own = found[np.arange(len(found)), np.asarray(labels)]
  least = found.min(1)
  assert ((own - least) <= 1e-5 * least).all(), (own - least).max()


def test_mixed_magnitudes_have_the_nearest_centroid():
  centroids = np.array([[-1e6], [1e5], [1e5 + 1], [1e6]])
  points = np.linspace(1e5, 1e5 + 1, 101)[:, None]
  labels, squares = assign(points, centroids)
  np.testing.assert_array_equal(labels, 1 + (np.arange(101) > 50))
  np.testing.assert_allclose(squares, distances(points, centroids).min(1), atol=1e-2)


@pytest.mark.parametrize('d', [1, 2, 5, 48])
@pytest.mark.parametrize('inside', [False, True])
def test_clouds_far_from_each_other_have_the_nearest_centroid(d, inside):
  rng = np.random.default_rng(d)
  homes = 10.0 ** rng.uniform(0, 6, (6, d)) * rng.choice([-1, 1], (6, d))
  points = (homes[rng.integers(6, size=500)] + rng.normal(size=(500, d))).astype(np.float32)
  centroids = (homes.repeat(7, 0) + rng.normal(size=(42, d))).astype(np.float32)
  run = jax.jit(assign) if inside else assign
  assert_nearest(run(points, centroids)[0], points, centroids)
  batch = jax.vmap(lambda x: assign(x, centroids)[0])(points.reshape(5, 100, d))
  assert_nearest(batch.reshape(-1), points, centroids)


def test_an_outlier_does_not_blur_the_others():
  points = np.array([[1.0, 1], [2, 1], [3, 1], [1e9, 1]], np.float32)
  result = kmeans(points, 4, init=points)
  np.testing.assert_array_equal(result.labels, [0, 1, 2, 3])
  np.testing.assert_array_equal(result.centroids, points)
  assert float(result.inertia) == 0


def test_a_far_centroid_does_not_blur_the_near_ones():
  points = np.linspace(0, 1, 11, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
  centroids = np.array([[0.1, 0.1], [0.8, 0.8], [1e30, 0], [-3e38, 3e38]], np.float32)
  labels, _ = assign(points, centroids)
  np.testing.assert_array_equal(labels, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
  np.testing.assert_array_equal(assign(points, 1e30 * centroids[[1, 0]])[0], np.ones(11))


SCALES = [1e-44, 1e-37, 1e-20, 1e-10, 1e10, 1e18, 1e25, 1e37]


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('init', ['k-means++', 'random', 'array'])
def test_any_magnitude_clusters_like_any_other(scale, init):
  wide = clouds(300) / 200
  narrow = (wide * 2.0 ** np.round(np.log2(scale))).astype(np.float32)
  if scale < 1e-38:  # Few digits are left: both have the same.
    wide = narrow.astype(np.float64) / 2.0 ** np.round(np.log2(scale))
  usual, found = (
    kmeans(x, 6, init=x[:6] if init == 'array' else init, tol=1e-4) for x in (wide, narrow)
  )
  np.testing.assert_array_equal(found.labels, usual.labels)
  factor = 2.0 ** np.round(np.log2(scale))
  centroids = np.asarray(found.centroids, np.float64) / factor
  np.testing.assert_allclose(centroids, usual.centroids, rtol=1e-5)
  inertia = np.asarray(found.inertia, np.float64) / factor**2
  np.testing.assert_allclose(inertia, usual.inertia, rtol=1e-5)
  labels, squares = assign(narrow, found.centroids)
  np.testing.assert_array_equal(labels, usual.labels)
  np.testing.assert_allclose(np.asarray(squares, np.float64).sum() / factor**2, inertia, rtol=1e-4)


@pytest.mark.parametrize('scale', [2.0**-100, 2.0**100])
def test_any_magnitude_clusters_inside_of_jit_vmap_and_pmap(scale):
  wide = clouds(160)
  narrow = wide * np.float32(scale)
  usual = kmeans(wide, 6, init=wide[:6])
  run = lambda x: kmeans(x, 6, init=x[:6])  # noqa: E731
  np.testing.assert_array_equal(jax.jit(run)(narrow).labels, usual.labels)
  both = jax.vmap(run)(jnp.stack([wide, narrow]))
  np.testing.assert_array_equal(both.labels, [usual.labels] * 2)
  four = jax.pmap(
    lambda x, start: kmeans(x, 6, init=start, axis_name='device'),
    axis_name='device',
    in_axes=(0, None),
  )(narrow.reshape(4, 40, 5), narrow[:6])
  np.testing.assert_array_equal(four.labels.reshape(-1), usual.labels)
  np.testing.assert_allclose(four.centroids[0] / scale, usual.centroids, rtol=1e-5)


@pytest.mark.parametrize(('factor', 'offset'), [(1e300, 0.0), (1e-300, 0.0), (1.0, 1e12)])
def test_more_than_f32_holds_is_clustered_in_its_digits(factor, offset):
  wide = clouds(200).astype(np.float64)
  given = wide * factor + offset
  usual, found = (kmeans(x, 6, init=x[:6]) for x in (wide, given))
  np.testing.assert_array_equal(found.labels, usual.labels)
  centroids = (np.asarray(found.centroids) - offset) / factor
  np.testing.assert_allclose(centroids, usual.centroids, rtol=1e-5)
  np.testing.assert_array_equal(assign(given, found.centroids)[0], usual.labels)
  np.testing.assert_array_equal(lloyd(given, given[:6]).labels, usual.labels)
  scores = wide[:, 0]
  one, other = (eigen_kmeans(x, scores, 6) for x in (wide, given))
  np.testing.assert_array_equal(one.labels, other.labels)


def test_whole_numbers_keep_their_digits():
  points = 1_700_000_000 + np.array([[0], [1], [10], [11]])
  result = kmeans(points, 2, init=points[[0, 2]])
  np.testing.assert_array_equal(result.labels, [0, 0, 1, 1])
  np.testing.assert_allclose(result.centroids, 1_700_000_000 + np.array([[0.5], [10.5]]), rtol=0)


@pytest.mark.parametrize('mass', [1e-30, 1e30])
def test_weights_of_any_magnitude_cluster_alike(mass):
  points, weights = clouds(200), np.random.default_rng(0).uniform(1, 2, 200)
  usual = kmeans(points, 6, weights=weights)
  found = kmeans(points, 6, weights=mass * weights)
  np.testing.assert_array_equal(found.labels, usual.labels)
  np.testing.assert_allclose(found.counts / mass, usual.counts, rtol=1e-5)
  np.testing.assert_allclose(np.asarray(found.inertia) / mass, usual.inertia, rtol=1e-4)


def test_equal_centroids_leave_no_point_in_doubt():
  from compress_jax.clustering import nearest

  points, centroids = jnp.asarray(clouds(400)), jnp.asarray(clouds(9)).repeat(5, 0)
  found = nearest.table(centroids, points.mean(0))
  own, doubt = nearest.by_product(points, found, 'highest')
  assert float(doubt.mean()) < 0.01
  np.testing.assert_array_equal(own % 5, np.zeros(400))
  np.testing.assert_array_equal(own, distances(points, centroids).argmin(1))


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda x: kmeans(x * 1j, 2), 'complex'),
    (lambda x: kmeans([['a', 'b']], 1), 'real numbers'),
    (lambda x: kmeans([[1, 2], [3]], 1), 'array of numbers'),
    (lambda x: kmeans(x, 2.5), '2.5'),
    (lambda x: kmeans(x, True), 'True'),
    (lambda x: kmeans(x, 2, n_init=0), 'n_init'),
    (lambda x: kmeans(x, 2, max_iter=1.5), '1.5'),
    (lambda x: kmeans(x, 2, max_iter=-1), '-1'),
    (lambda x: kmeans(x, 2, tol=np.nan), 'nan'),
    (lambda x: kmeans(x, 2, chunk_size=0), 'chunk_size'),
    (lambda x: assign(x, x, chunk_size=-3), '-3'),
    (lambda x: kmeans(x, 2, precision='best'), 'best'),
    (lambda x: kmeans(x, 2, weights=np.zeros(4)), 'above 0'),
    (lambda x: kmeans(x * np.inf, 2), 'NaN or infinity'),
    (lambda x: assign(x, x * np.nan), 'NaN or infinity'),
    (lambda x: eigen_kmeans(x, [1, np.nan, 2, 3], 2), 'scores'),
    (lambda x: eigen_kmeans(x * np.nan, [1, 1, 2, 3], 2), 'NaN or infinity'),
  ],
)
def test_what_cannot_be_clustered_is_refused(call, message):
  with pytest.raises(CodecError, match=message):
    call(np.arange(1.0, 9).reshape(4, 2))
