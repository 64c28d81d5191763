import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.clustering import k_means
from compress_jax.clustering.k_means import assign, eigen_kmeans, eigen_seeds, kmeans, lloyd
from tests.helpers.points import clouds


def reference(points, start, steps, weights=None):
  """Lloyd's algorithm in float64, every distance spelled out; empty clusters stay."""
  points, centroids = points.astype(np.float64), start.astype(np.float64)
  weights = np.ones(len(points)) if weights is None else weights
  for _ in range(steps):
    labels = np.argmin(((points[:, None] - centroids) ** 2).sum(-1), axis=1)
    for i in range(len(centroids)):
      if weights[labels == i].sum() > 0:
        centroids[i] = np.average(points[labels == i], axis=0, weights=weights[labels == i])
  squares = ((points[:, None] - centroids) ** 2).sum(-1)
  return centroids, np.argmin(squares, axis=1), (weights * squares.min(1)).sum()


def test_a_case_solved_by_hand():
  points = np.array([[0.0], [2.0], [10.0], [14.0]])
  result = kmeans(points, 2, init=points[:2], tol=0.0)
  # {0}, {2, 10, 14} -> 0, 26/3 -> {0, 2}, {10, 14} -> 1, 12, which is stable.
  np.testing.assert_array_equal(result.labels, [0, 0, 1, 1])
  np.testing.assert_allclose(result.centroids, [[1.0], [12.0]])
  np.testing.assert_allclose(result.counts, [2, 2])
  assert (float(result.inertia), int(result.n_iter), bool(result.converged)) == (10.0, 3, True)


@pytest.mark.parametrize('k', [5, 8, 40, 67])
def test_the_lowest_index_wins_ties_in_and_across_groups(k):
  points = np.arange(30.0)[::2, None]
  centroids = np.random.default_rng(k).integers(0, 8, (k, 1)) * 4.0 + 0.5  # Equal ones only tie.
  squares = (points - centroids[:, 0]) ** 2
  labels, _ = assign(points, centroids)
  np.testing.assert_array_equal(labels, squares.argmin(1))


def test_the_lowest_index_wins_ties():
  labels, squares = assign([[0.0], [5.0]], [[9.0], [1.0], [-1.0], [1.0], [5.0], [5.0]])
  np.testing.assert_array_equal(labels, [1, 4])
  np.testing.assert_array_equal(squares, [1, 0])


@pytest.mark.parametrize(
  ('n', 'd', 'k'),
  [(300, 7, 1), (300, 7, 4), (300, 7, 5), (300, 7, 67), (300, 2, 9), (65, 1, 20), (1, 3, 20)],
)
def test_assignment_equals_an_argmin_over_all_distances(n, d, k):
  points = clouds(n, d)
  centroids = clouds(k, d, seed=1)
  labels, squares = assign(points, centroids, chunk_size=64)
  all_squares = ((points[:, None].astype(np.float64) - centroids) ** 2).sum(-1)
  np.testing.assert_array_equal(labels, all_squares.argmin(1))
  np.testing.assert_allclose(squares, all_squares.min(1), rtol=1e-5)


def test_inertia_never_rises_from_step_to_step():
  points = clouds()
  inertia = [float(lloyd(points, points[:12], max_iter=i, tol=0.0).inertia) for i in range(9)]
  assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(inertia))
  assert inertia[-1] < inertia[1]


def test_inertia_never_rises_where_empty_clusters_move():
  points = clouds()
  start = np.concatenate([points[:6], np.full((6, 5), -1e3, np.float32)])
  inertia = [float(lloyd(points, start, max_iter=i, tol=0.0).inertia) for i in range(9)]
  assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(inertia))
  kept = lloyd(points, start, max_iter=8, tol=0.0, empty='keep')
  assert inertia[-1] < float(kept.inertia)


@pytest.mark.parametrize('weighted', [False, True])
def test_steps_equal_a_float64_reference(weighted):
  points = clouds()
  weights = np.random.default_rng(1).uniform(0.1, 3, 600) if weighted else None
  result = lloyd(points, points[:12], weights=weights, max_iter=6, tol=0.0)
  centroids, labels, inertia = reference(points, points[:12], 6, weights)
  assert int(result.n_iter) == 6
  np.testing.assert_allclose(result.centroids, centroids, rtol=1e-5)
  np.testing.assert_array_equal(result.labels, labels)
  np.testing.assert_allclose(result.inertia, inertia, rtol=1e-5)


@pytest.mark.parametrize('tol', [0.0, 1e-2])
def test_same_end_and_same_number_of_steps_as_scikit_learn(tol):
  cluster = pytest.importorskip('sklearn.cluster')
  points = clouds()
  other = cluster.KMeans(12, init=points[:12], n_init=1, tol=tol, algorithm='lloyd').fit(points)
  result = kmeans(points, 12, init=points[:12], tol=tol)
  assert other.n_iter_ > 3
  assert int(result.n_iter) == other.n_iter_
  np.testing.assert_array_equal(result.labels, other.labels_)
  np.testing.assert_allclose(result.inertia, other.inertia_, rtol=1e-5)


def test_a_fixed_point_is_a_fixed_point():
  points = clouds()
  result = kmeans(points, 12, tol=0.0)
  again = lloyd(points, result.centroids, max_iter=1, tol=0.0)
  np.testing.assert_allclose(again.centroids, result.centroids, rtol=1e-6)
  np.testing.assert_array_equal(again.labels, result.labels)


def test_an_integer_weight_equals_that_many_repetitions():
  points = clouds(200)
  times = np.random.default_rng(2).integers(1, 4, 200)
  weighted = lloyd(points, points[:8], weights=times, tol=0.0)
  repeated = lloyd(np.repeat(points, times, 0), points[:8], tol=0.0)
  np.testing.assert_allclose(weighted.centroids, repeated.centroids, rtol=1e-5)
  np.testing.assert_array_equal(np.repeat(weighted.labels, times), repeated.labels)
  np.testing.assert_allclose(weighted.inertia, repeated.inertia, rtol=1e-4)


@pytest.mark.parametrize('init', ['k-means++', 'random', 'array'])
def test_points_of_weight_zero_influence_nothing(init):
  points = clouds(200)
  padded = np.concatenate([points, np.full((56, 5), 1e4, np.float32)])
  weights = np.concatenate([np.ones(200), np.zeros(56)])
  # One start far from all points: it is empty at first, so the repair is exercised too.
  start = np.concatenate([points[:7], np.full((1, 5), -1e3, np.float32)])
  chosen = start if init == 'array' else init
  small = kmeans(points, 8, init=chosen)
  large = kmeans(padded, 8, init=chosen, weights=weights)
  np.testing.assert_allclose(large.centroids, small.centroids, rtol=1e-5)
  np.testing.assert_array_equal(large.labels[:200], small.labels)
  np.testing.assert_allclose(large.counts, small.counts)


@pytest.mark.parametrize('init', ['k-means++', 'random'])
def test_more_clusters_than_distinct_points(init):
  points = np.repeat(clouds(5), 6, axis=0)
  result = kmeans(points, 11, init=init)
  assert np.isfinite(result.centroids).all()
  assert float(result.inertia) < 1e-6
  assert int((result.counts > 0).sum()) == 5
  np.testing.assert_allclose(result.centroids[result.labels], points, rtol=1e-6)


@pytest.mark.parametrize('init', ['k-means++', 'random'])
def test_constant_data(init):
  result = kmeans(np.full((40, 3), 7.0), 4, init=init)
  np.testing.assert_array_equal(result.centroids, np.full((4, 3), 7.0))
  assert float(result.inertia) == 0 and bool(result.converged)
  np.testing.assert_array_equal(result.labels, np.zeros(40))


def test_empty_clusters_move_to_the_farthest_distinct_points():
  points = np.array([[0.0], [1.0], [20.0], [20.0], [-30.0]])
  start = np.array([[0.0], [500.0], [600.0]])
  # All points belong to 0, whose mean is 2.2; then -30 is farthest, then 20 (once, not twice).
  result = lloyd(points, start, max_iter=1)
  np.testing.assert_allclose(result.centroids, [[2.2], [-30.0], [20.0]], rtol=1e-6)
  kept = lloyd(points, start, max_iter=1, empty='keep')
  np.testing.assert_allclose(kept.centroids, [[2.2], [500.0], [600.0]], rtol=1e-6)


def test_chunks_change_nothing():
  points = clouds(601)
  whole = kmeans(points, 9, chunk_size=601, tol=0.0)
  for size in (64, 600):
    parts = kmeans(points, 9, chunk_size=size, tol=0.0)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_allclose(parts.centroids, whole.centroids, rtol=1e-5)
    np.testing.assert_allclose(parts.counts, whole.counts)


@pytest.mark.parametrize('offset', [0, 4])
def test_an_array_that_changes_after_the_call_changes_no_result(offset):
  raw = np.zeros(600 * 5 + 32, np.float32)
  first = -raw.ctypes.data % 64 // 4 + offset  # Offset 0 is aligned, and read in place.
  points = raw[first : first + 3000].reshape(600, 5)
  points[:] = clouds()
  expected = kmeans(points.copy(), 9)
  calls = [lambda: kmeans(points, 9), lambda: lloyd(points, expected.centroids)]
  for call in [*calls, lambda: kmeans(points, 9, init=np.array(expected.centroids))]:
    points[:] = clouds()
    result = call()
    points[:] = 0
    np.testing.assert_allclose(result.inertia, expected.inertia, rtol=1e-3)
    assert len(np.unique(result.labels)) == 9
  points[:] = clouds()
  labels, _ = assign(points, expected.centroids)
  points[:] = 0
  np.testing.assert_array_equal(labels, expected.labels)


@pytest.mark.parametrize('init', ['k-means++', 'array'])
def test_vmap_equals_a_loop(init):
  points = np.stack([clouds(150, seed=i) for i in range(3)])
  points[1, :, :] = points[1, :1]  # One constant member, which stops at once.
  start = points[:, :6]

  def run(points, start):
    return kmeans(points, 6, init=start if init == 'array' else init)

  together = jax.vmap(run)(points, start)
  for i in range(3):
    alone = run(points[i], start[i])
    np.testing.assert_array_equal(together.labels[i], alone.labels)
    np.testing.assert_allclose(together.centroids[i], alone.centroids, rtol=1e-5)
    assert int(together.n_iter[i]) == int(alone.n_iter)


def test_jit_takes_the_whole_call():
  points = jnp.asarray(clouds(150))
  inside = jax.jit(lambda x, key: kmeans(x, 6, key=key, n_init=2))(points, jax.random.key(3))
  outside = kmeans(points, 6, key=jax.random.key(3), n_init=2)
  np.testing.assert_array_equal(inside.labels, outside.labels)


@pytest.mark.parametrize('init', ['far', 'k-means++', 'random'])
def test_four_devices_equal_one(init):
  points = clouds(160)
  weights = np.concatenate([np.ones(147), np.zeros(13)])
  start = np.concatenate([points[:6], np.full((2, 5), -1e3, np.float32)])
  # Two starts are empty, so devices must agree on the repair. Random seeds depend on the
  # number of devices: there the seeds come first and are compared from.
  seeding = {'far': lambda *_: jnp.asarray(start)}.get(init, init)
  run = functools.partial(kmeans, k=8, init=seeding, tol=0.0)
  four = jax.pmap(lambda x, w: run(x, weights=w, axis_name='device'), axis_name='device')(
    points.reshape(4, 40, 5), weights.reshape(4, 40)
  )
  for leaf in (four.centroids, four.inertia, four.n_iter, four.counts):
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
  if init == 'random':
    np.testing.assert_allclose(four.inertia[0], run(points, weights=weights).inertia, rtol=0.5)
    return
  one = run(points, weights=weights)
  np.testing.assert_array_equal(four.labels.reshape(-1)[:147], one.labels[:147])
  np.testing.assert_allclose(four.centroids[0], one.centroids, rtol=1e-5)
  np.testing.assert_allclose(four.inertia[0], one.inertia, rtol=1e-4)
  np.testing.assert_allclose(four.counts[0], one.counts)


def test_the_best_of_several_starts_is_kept():
  points = clouds()
  keys = jax.random.split(jax.random.key(5), 4)
  single = [float(kmeans(points, 12, init='random', key=key).inertia) for key in keys]
  best = kmeans(points, 12, init='random', key=jax.random.key(5), n_init=4)
  np.testing.assert_allclose(best.inertia, min(single), rtol=1e-6)


def test_k_means_plus_plus_finds_well_separated_clusters():
  rng = np.random.default_rng(0)
  points = np.repeat(np.eye(16) * 1000, 20, axis=0) + rng.normal(size=(320, 16))
  for seed in range(5):
    result = kmeans(points, 16, key=jax.random.key(seed), max_iter=1)
    np.testing.assert_array_equal(result.counts, np.full(16, 20))


def test_eigen_seeds_solved_by_hand():
  points = np.array([[5.0], [1.0], [5.0], [2.0], [9.0], [3.0], [4.0], [4.0]])
  scores = np.array([8.0, 1.0, 8.0, 2.0, 7.0, 2.0, 0.0, 0.0])  # The mean is 3.5.
  seeds = eigen_seeds(points, scores, 4)
  np.testing.assert_array_equal(seeds.is_high, [1, 0, 1, 0, 1, 0, 0, 0])
  np.testing.assert_array_equal(seeds.high, [[5], [9]])  # 5 counts once.
  np.testing.assert_array_equal(seeds.low, [[2], [3]])  # Equal scores: the lower index first.
  # High has two distinct points and Low four: the surplus of either goes to the other.
  assert [len(part) for part in eigen_seeds(points, scores, 6)[:2]] == [2, 4]
  np.testing.assert_array_equal(eigen_seeds(points, scores, 6).low, [[2], [3], [1], [4]])
  # 3 of 8 points are High.
  assert [len(part) for part in eigen_seeds(points, scores, 3, split='proportional')[:2]] == [1, 2]


def test_eigen_seeds_repeat_where_points_run_out_and_take_equal_scores():
  points = np.repeat([[1.0], [2.0], [3.0]], 4, axis=0)
  seeds = eigen_seeds(points, np.full(12, 0.1), 5)
  assert seeds.is_high.all() and len(seeds.low) == 0
  np.testing.assert_array_equal(seeds.high, [[1], [2], [3], [1], [1]])
  result = eigen_kmeans(points, np.full(12, 0.1), 5)
  assert float(result.inertia) == 0
  np.testing.assert_array_equal(result.counts, [4, 4, 4, 0, 0])


def test_eigen_seeds_ignore_points_of_weight_zero():
  points, scores = clouds(50), np.random.default_rng(0).uniform(size=50)
  more = np.concatenate([points, points[:9] + 1])
  weights = np.concatenate([np.ones(50), np.zeros(9)])
  seeds = eigen_seeds(more, np.concatenate([scores, np.full(9, 1e6)]), 6, weights=weights)
  expected = eigen_seeds(points, scores, 6)
  np.testing.assert_array_equal(seeds.high, expected.high)
  np.testing.assert_array_equal(seeds.low, expected.low)


def test_init_eigen_is_eigen_kmeans():
  points = np.random.default_rng(3).normal(size=(60, 4)).astype(np.float32)
  scores = (points**2).sum(1)
  one = kmeans(points, 6, init='eigen', scores=scores, tol=0.0)
  other = eigen_kmeans(points, scores, 6, tol=0.0)
  np.testing.assert_array_equal(one.centroids, other.centroids)


def test_eigen_kmeans_clusters_each_class_and_then_all():
  points, scores = clouds(300), np.random.default_rng(0).uniform(size=300)
  seeds = eigen_seeds(points, scores, 10)
  high, _, _ = reference(points[seeds.is_high], seeds.high, 300)
  low, _, _ = reference(points[~seeds.is_high], seeds.low, 300)
  expected = lloyd(points, np.concatenate([high, low]), tol=0.0, empty='keep')
  result = eigen_kmeans(points, scores, 10, tol=0.0, max_iter=300, empty='keep')
  np.testing.assert_allclose(result.centroids, expected.centroids, rtol=1e-5)
  np.testing.assert_array_equal(result.labels, expected.labels)


def test_sizes_close_to_each_other_share_one_compilation():
  assert len({k_means._bucket(n) for n in range(1000, 2049)}) <= 5
  assert all(n <= k_means._bucket(n) <= max(1.25 * n + 1, 16 + n) for n in range(1, 5000))


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda x: kmeans(x, 0), 'got 0'),
    (lambda x: kmeans(x, 9), 'got 9'),
    (lambda x: kmeans(x[0], 1), r'shape \(2,\)'),
    (lambda x: kmeans(np.where(x == 0, np.nan, x), 2), 'NaN'),
    (lambda x: kmeans(x, 2, weights=[1, 1, 1, -2]), '-2'),
    (lambda x: kmeans(x, 2, weights=[1, 1]), r'\(2,\)'),
    (lambda x: kmeans(x, 2, init='best'), 'best'),
    (lambda x: kmeans(x, 2, init='eigen'), 'eigen'),
    (lambda x: kmeans(x, 2, init=x), '4 centroids'),
    (lambda x: kmeans(x, 2, init=np.full((2, 2), np.inf)), 'infinity'),
    (lambda x: kmeans(x, 2, empty='split'), 'split'),
    (lambda x: kmeans(x, 2, tol=-1.0), '-1'),
    (lambda x: lloyd(x, np.zeros((2, 3))), r'\(2, 3\)'),
    (lambda x: eigen_seeds(x, [1, 2], 2), r'\(2,\)'),
    (lambda x: eigen_seeds(x, [1, 2, 3, 4], 2, split='third'), 'third'),
  ],
)
def test_bad_input_is_refused_with_the_value_named(call, message):
  with pytest.raises(ValueError, match=message):
    call(np.arange(8.0).reshape(4, 2))


def test_arrays_that_a_function_closes_over_go_through_jit_and_tolerances_through_vmap():
  points = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3)), jnp.float32)
  start, weights = points[:4], jnp.ones(64)
  fit = lambda tol: kmeans(points, 4, init=start, weights=weights, tol=tol)  # noqa: E731
  tolerances = jnp.array([0.5, 0.0])
  together = jax.jit(jax.vmap(fit))(tolerances)
  for i, tol in enumerate((0.5, 0.0)):
    alone = fit(tol)
    np.testing.assert_array_equal(together.labels[i], alone.labels)
    assert together.n_iter[i] == alone.n_iter
  assert together.n_iter[0] < together.n_iter[1]


@pytest.mark.parametrize('init', ['k-means++', 'random'])
def test_results_are_the_same_where_jax_holds_64_bits(init):
  points = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
  expected = kmeans(points, 5, init=init)
  with jax.enable_x64(True):
    found = kmeans(points, 5, init=init)
    jitted = jax.jit(lambda points: kmeans(points, 5, init=init))(points.astype(np.float64))
    labels, squares = assign(points, expected.centroids)
  for result in (found, jitted):
    assert [v.dtype for v in result] == [v.dtype for v in expected]
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_allclose(result.centroids, expected.centroids, rtol=1e-6)
  np.testing.assert_array_equal(labels, expected.labels)
  assert squares.dtype == np.float32
