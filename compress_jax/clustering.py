"""K-means: Lloyd's algorithm as one jitted `lax.while_loop` over chunks of rows.

Points are f32[N, D], centroids f32[K, D], weights f32[N] with 0 for padding. Memory is
O(N + K * D + chunk * K): no N x K array and no copy of the points exist. Coordinates inside
are centred by the weighted mean, because |c|^2 - 2 x.c loses digits far from the origin.
Ties go to the lowest index everywhere.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.codec import Array, CodecError, Key
from compress_jax.seeding import Seeding, eigen_seeds, plus_plus_seeds, random_seeds


class KMeansResult(NamedTuple):
  """Where K-means stopped."""

  centroids: Array  # f32[K, D].
  labels: Array  # i32[N], nearest centroid of each point.
  inertia: Array  # f32[], sum of w * |x - centroid|^2.
  n_iter: Array  # i32[], Lloyd steps done.
  converged: Array  # bool[], whether it stopped before max_iter.
  counts: Array  # f32[K], weight of each cluster.


class Lloyd(NamedTuple):
  """The state of the loop, in centred coordinates."""

  centroids: Array  # f32[K, D].
  labels: Array  # i32[N], of the step before.
  step: Array  # i32[].
  done: Array  # bool[].


class Data(NamedTuple):
  """What every step reads."""

  points: Array  # f32[N, D], as given.
  weights: Array  # f32[N].
  mean: Array  # f32[D].
  chunk: int  # Rows at a time.
  precision: str  # Of the matrix product.
  axis_name: str | None  # Devices that hold the other rows.


def _psum(x: Any, axis_name: str | None) -> Any:
  return x if axis_name is None else lax.psum(x, axis_name)


def _fold(data: Data, body: Callable, carry: Any) -> Any:
  """Folds `body(carry, start, x, w)` over chunks of centred rows.

  The last chunk is moved back to end at row N; the rows it repeats weigh nothing.
  """
  size = data.chunk
  n = data.points.shape[0]

  def step(i: Array, carry: Any) -> Any:
    start = jnp.minimum(i * size, n - size)
    x = lax.dynamic_slice_in_dim(data.points, start, size) - data.mean
    w = lax.dynamic_slice_in_dim(data.weights, start, size)
    return body(carry, start, x, jnp.where(start + jnp.arange(size) >= i * size, w, 0.0))

  return lax.fori_loop(0, -(-n // size), step, carry)


def _nearest(x: Array, centroids: Array, precision: str) -> Array:
  """i32[chunk], index of the nearest centroid: argmin of |c|^2 - 2 x.c, lowest index first.

  A tournament of four: XLA's argmin on CPU is scalar code, four times slower than the matrix
  product. Comparing whole rows is vector code (`python -m experiments.bench kmeans --profile`).
  """
  k = centroids.shape[0]
  extra = -k % 4
  norms = jnp.pad(jnp.sum(centroids**2, axis=1), (0, extra), constant_values=jnp.inf)
  rows = jnp.pad(centroids, ((0, extra), (0, 0)))
  dots = lax.dot_general(rows, x, (((1,), (1,)), ((), ())), precision=precision)
  scores = norms[:, None] - 2 * dots
  index = lax.broadcasted_iota(jnp.int32, scores.shape, 0)
  while scores.shape[0] > 1:
    extra = -scores.shape[0] % 4
    if extra:
      scores = jnp.pad(scores, ((0, extra), (0, 0)), constant_values=jnp.inf)
      index = jnp.pad(index, ((0, extra), (0, 0)))
    scores, index = _winners(scores, index)
  return index[0]


def _winners(scores: Array, index: Array) -> tuple[Array, Array]:
  """The least of each four neighbouring rows; the first of equals."""
  scores = scores.reshape(-1, 4, scores.shape[1])
  index = index.reshape(scores.shape)
  best, arg = scores[:, 0], index[:, 0]
  for i in range(1, 4):
    better = scores[:, i] < best
    best, arg = jnp.where(better, scores[:, i], best), jnp.where(better, index[:, i], arg)
  return best, arg


def _assign(data: Data, centroids: Array) -> tuple[Array, Array, Array]:
  """Labels i32[N], squared distances f32[N] and cluster weights f32[K] of this device."""

  def body(carry: Any, start: Array, x: Array, w: Array) -> Any:
    labels, squares, counts = carry
    nearest = _nearest(x, centroids, data.precision)
    square = jnp.sum((x - centroids[nearest]) ** 2, axis=1)
    labels = lax.dynamic_update_slice_in_dim(labels, nearest, start, 0)
    squares = lax.dynamic_update_slice_in_dim(squares, square, start, 0)
    return labels, squares, counts.at[nearest].add(w)

  n = data.points.shape[0]
  k = centroids.shape[0]
  return _fold(data, body, (jnp.zeros(n, jnp.int32), jnp.zeros(n), jnp.zeros(k)))


def _update(data: Data, centroids: Array) -> tuple[Array, Array, Array]:
  """Labels i32[N], sums f32[K, D] and weights f32[K] of the clusters, over all devices."""

  def body(carry: Any, start: Array, x: Array, w: Array) -> Any:
    labels, sums, counts = carry
    nearest = _nearest(x, centroids, data.precision)
    labels = lax.dynamic_update_slice_in_dim(labels, nearest, start, 0)
    return labels, sums.at[nearest].add(w[:, None] * x), counts.at[nearest].add(w)

  k, _ = centroids.shape
  n = data.points.shape[0]
  zero = (jnp.zeros(n, jnp.int32), jnp.zeros_like(centroids), jnp.zeros(k))
  labels, sums, counts = _fold(data, body, zero)
  return labels, *_psum((sums, counts), data.axis_name)


def _squares(data: Data, centroids: Array, labels: Array) -> Array:
  """f32[N], squared distance to the own centroid; 0 for points without weight."""

  def body(squares: Array, start: Array, x: Array, w: Array) -> Array:
    own = centroids[lax.dynamic_slice_in_dim(labels, start, data.chunk)]
    return lax.dynamic_update_slice_in_dim(squares, jnp.sum((x - own) ** 2, axis=1), start, 0)

  squares = _fold(data, body, jnp.zeros(data.points.shape[0]))
  return jnp.where(data.weights > 0, squares, 0.0)


def _farthest(data: Data, centroids: Array, labels: Array) -> tuple[Array, Array]:
  """Squared distances f32[M] and rows f32[M, D] of the 4 K points farthest from their own
  centroid, of all devices. Four times K, so that equal points among them do no harm.
  """
  squares = _squares(data, centroids, labels)
  squares, index = lax.top_k(squares, min(squares.size, 4 * centroids.shape[0]))
  rows = data.points[index] - data.mean
  if data.axis_name is None:
    return squares, rows
  return lax.all_gather((squares, rows), data.axis_name, tiled=True)


def refill_farthest(data: Data, centroids: Array, labels: Array, counts: Array) -> Array:
  """Moves each empty centroid onto the point farthest from its own, until none is off.

  Each move shortens the distances to the moved centroid, so equal points are taken once.
  """

  def repair(state: Any) -> Any:
    _, centroids = state
    far, rows = _farthest(data, centroids, labels)

    def move(state: Any) -> Any:
      empty, far, centroids = state
      slot, row = jnp.argmax(empty), rows[jnp.argmax(far)]
      far = jnp.minimum(far, jnp.sum((rows - row) ** 2, axis=1))
      return empty.at[slot].set(False), far, centroids.at[slot].set(row)

    left = (counts == 0, far, centroids)
    left = lax.while_loop(lambda s: jnp.any(s[0]) & jnp.any(s[1] > 0), move, left)
    return jnp.bool_(False), left[2]

  # A loop of at most one round: unlike lax.cond it still skips the work under vmap.
  return lax.while_loop(lambda s: s[0], repair, (jnp.any(counts == 0), centroids))[1]


def keep_empty(data: Data, centroids: Array, labels: Array, counts: Array) -> Array:
  """Leaves empty centroids where they are."""
  del data, labels, counts
  return centroids


def _lloyd(data: Data, start: Array, max_iter: Array, tol: Array, repair: Callable) -> KMeansResult:
  """Lloyd's algorithm from f32[K, D], both ends in the coordinates of the points."""

  def step(state: Lloyd) -> Lloyd:
    labels, sums, counts = _update(data, state.centroids)
    means = sums / jnp.where(counts > 0, counts, 1.0)[:, None]
    centroids = jnp.where(counts[:, None] > 0, means, state.centroids)
    centroids = repair(data, centroids, labels, counts)
    changed = _psum(jnp.sum((labels != state.labels) & (data.weights > 0)), data.axis_name)
    moved = jnp.sum((centroids - state.centroids) ** 2)
    return Lloyd(centroids, labels, state.step + 1, (moved <= tol) | (changed == 0))

  n = data.points.shape[0]
  first = Lloyd(start - data.mean, jnp.full(n, -1, jnp.int32), jnp.int32(0), jnp.bool_(False))
  last = lax.while_loop(lambda s: ~s.done & (s.step < max_iter), step, first)
  labels, squares, counts = _assign(data, last.centroids)
  inertia, counts = _psum((jnp.sum(data.weights * squares), counts), data.axis_name)
  return KMeansResult(last.centroids + data.mean, labels, inertia, last.step, last.done, counts)


def _moments(data: Data) -> tuple[Array, Array]:
  """Weighted mean f32[D] and the mean over D of the weighted variances f32[].

  One pass about `data.mean`, any point near the data: about the origin digits would cancel.
  """

  def add(carry: Any, start: Array, x: Array, w: Array) -> Any:
    sums, squares, total = carry
    return sums + w @ x, squares + w @ jnp.sum(x**2, axis=1), total + jnp.sum(w)

  zero = (jnp.zeros_like(data.mean), jnp.float32(0), jnp.float32(0))
  sums, squares, total = _psum(_fold(data, add, zero), data.axis_name)
  total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
  shift = sums / total
  variance = jnp.maximum(squares / total - jnp.sum(shift**2), 0.0) / shift.size
  return data.mean + shift, variance


REPAIRS = {'farthest': refill_farthest, 'keep': keep_empty}
SEEDINGS: dict[str, Seeding] = {'k-means++': plus_plus_seeds, 'random': random_seeds}


def _chunk(n: int, k: int, chunk_size: int | None) -> int:
  """Rows at a time: a chunk of scores, chunk x K floats, should stay in the cache."""
  return min(n, chunk_size or max(256, min(512, 2**20 // k)))


@functools.partial(jax.jit, static_argnames=('chunk', 'precision', 'axis_name', 'repair'))
def _lloyd_from(
  points: Array,
  weights: Array,
  start: Array,
  max_iter: Array,
  tol: Array,
  *,
  repair: Callable,
  chunk: int,
  precision: str,
  axis_name: str | None,
) -> KMeansResult:
  data = Data(points, weights, jnp.mean(start, axis=0), chunk, precision, axis_name)
  mean, variance = _moments(data)
  return _lloyd(data._replace(mean=mean), start, max_iter, tol * variance, repair)


@functools.partial(
  jax.jit,
  static_argnames=(
    'k',
    'seeding',
    'n_init',
    'chunk',
    'precision',
    'axis_name',
    'repair',
  ),
)
def _best_of(
  key: Key,
  points: Array,
  weights: Array,
  max_iter: Array,
  tol: Array,
  *,
  k: int,
  seeding: Seeding,
  n_init: int,
  axis_name: str | None,
  **static: Any,
) -> KMeansResult:
  def once(key: Key) -> KMeansResult:
    start = seeding(key, points, weights, k, axis_name)
    return _lloyd_from(points, weights, start, max_iter, tol, axis_name=axis_name, **static)

  if n_init == 1:
    return once(key)
  results = lax.map(once, jax.random.split(key, n_init))
  return jax.tree.map(lambda x: x[jnp.argmin(results.inertia)], results)


def _known(array: Any) -> bool:
  """Whether values can be looked at: not inside jit, vmap or pmap."""
  return not isinstance(array, jax.core.Tracer)


@jax.jit
def _all_finite(x: Array) -> Array:
  """bool[]; jitted so that no mask of the size of x is stored."""
  return jnp.all(jnp.isfinite(x))


def _checked_points(points: Any, weights: Any) -> tuple[Array, Array]:
  """Points and weights as f32 arrays. Raises CodecError for what cannot be clustered."""
  points = jnp.asarray(points, jnp.float32)
  if points.ndim != 2 or 0 in points.shape:
    raise CodecError(f'points must be a non-empty [N, D] array, got shape {points.shape}')
  if _known(points) and not bool(_all_finite(points)):
    raise CodecError('points must be finite, got NaN or infinity')
  if weights is None:
    return points, jnp.ones(points.shape[0])
  weights = jnp.asarray(weights, jnp.float32)
  if weights.shape != points.shape[:1]:
    raise CodecError(f'weights must have shape {points.shape[:1]}, got {weights.shape}')
  if _known(weights) and not bool((jnp.isfinite(weights) & (weights >= 0)).all()):
    raise CodecError(f'weights must be finite and not negative, got {float(jnp.min(weights))}')
  return points, weights


def _checked_start(start: Any, d: int) -> Array:
  start = jnp.asarray(start, jnp.float32)
  if start.ndim != 2 or start.shape[0] < 1 or start.shape[1] != d:
    raise CodecError(f'centroids must have shape [K, {d}] with K >= 1, got {start.shape}')
  if _known(start) and not bool(jnp.isfinite(start).all()):
    raise CodecError('centroids must be finite, got NaN or infinity')
  return start


def _pick(table: dict[str, Any], what: str, name: str) -> Any:
  if name not in table:
    raise CodecError(f'{what} must be one of {sorted(table)}, got {name!r}')
  return table[name]


def assign(
  points: Any, centroids: Any, *, chunk_size: int | None = None, precision: str = 'highest'
) -> tuple[Array, Array]:
  """Nearest centroid of each point, the lowest index on ties.

  Args:
    points: f32[N, D].
    centroids: f32[K, D].
    chunk_size: rows at a time; None chooses.
    precision: of the matrix product.

  Returns:
    Labels i32[N] and exact squared distances f32[N].

  Raises:
    CodecError: for shapes that do not fit and values that are not finite.
  """
  points, weights = _checked_points(points, None)
  centroids = _checked_start(centroids, points.shape[1])
  chunk = _chunk(points.shape[0], centroids.shape[0], chunk_size)
  return _assign_from(points, weights, centroids, chunk=chunk, precision=precision)


@functools.partial(jax.jit, static_argnames=('chunk', 'precision'))
def _assign_from(
  points: Array, weights: Array, centroids: Array, *, chunk: int, precision: str
) -> tuple[Array, Array]:
  mean = jnp.mean(centroids, axis=0)
  labels, squares, _ = _assign(
    Data(points, weights, mean, chunk, precision, None), centroids - mean
  )
  return labels, squares


def lloyd(
  points: Any,
  start: Any,
  *,
  weights: Any = None,
  max_iter: int = 100,
  tol: float = 1e-4,
  chunk_size: int | None = None,
  empty: str = 'farthest',
  precision: str = 'highest',
  axis_name: str | None = None,
) -> KMeansResult:
  """Lloyd's algorithm from the centroids `start`, f32[K, D]; K may exceed N. See `kmeans`."""
  points, weights = _checked_points(points, weights)
  start = _checked_start(start, points.shape[1])
  return _lloyd_from(
    points,
    weights,
    start,
    jnp.int32(max_iter),
    jnp.float32(tol),
    repair=_pick(REPAIRS, 'empty', empty),
    chunk=_chunk(points.shape[0], start.shape[0], chunk_size),
    precision=precision,
    axis_name=axis_name,
  )


def kmeans(
  points: Any,
  k: int,
  *,
  key: Key | None = None,
  init: Any = 'k-means++',
  n_init: int = 1,
  weights: Any = None,
  max_iter: int = 100,
  tol: float = 1e-4,
  chunk_size: int | None = None,
  empty: str = 'farthest',
  precision: str = 'highest',
  axis_name: str | None = None,
) -> KMeansResult:
  """K-means clustering; clean under jit, vmap, pmap and shard_map.

  Args:
    points: [N, D], cast to f32; with `axis_name` the rows of this device, equally many on each.
    k: number of clusters, 1 <= k <= N.
    key: randomness of the seeding; None means key(0).
    init: 'k-means++' (greedy), 'random', centroids f32[K, D], or a function of
      (key, points, weights, k, axis_name) that returns them. For 'eigen' see `eigen_kmeans`.
    n_init: seedings tried one after another; the lowest inertia is kept.
    weights: f32[N]; a point of weight 0 influences nothing.
    max_iter: most Lloyd steps.
    tol: stop when the squared moves of all centroids sum to no more than this times the mean
      variance of the coordinates (scikit-learn's rule); 0 means when labels stop changing.
    chunk_size: rows at a time; None chooses.
    empty: 'farthest' moves empty centroids onto far points, 'keep' leaves them.
    precision: of the matrix product; below 'highest' labels may differ between devices.
    axis_name: of the mapped axis over which rows are distributed.

  Raises:
    CodecError: for arguments that cannot be clustered (values are checked outside jit only).
  """
  points, weights = _checked_points(points, weights)
  n, d = points.shape
  rows = _psum(n, axis_name)  # A constant: the axis has a static size.
  if not 1 <= k <= rows:
    raise CodecError(f'k must be between 1 and the number of points {rows}, got {k}')
  if n_init < 1 or max_iter < 0 or tol < 0:
    raise CodecError(f'need n_init >= 1, max_iter >= 0, tol >= 0, got {n_init}, {max_iter}, {tol}')
  rules = {
    'weights': weights,
    'max_iter': max_iter,
    'tol': tol,
    'chunk_size': chunk_size,
    'empty': empty,
    'precision': precision,
    'axis_name': axis_name,
  }
  if not isinstance(init, str) and not callable(init):
    start = _checked_start(init, d)
    if start.shape[0] != k:
      raise CodecError(f'init holds {start.shape[0]} centroids, but k is {k}')
    return lloyd(points, start, **rules)
  return _best_of(
    jax.random.key(0) if key is None else key,
    points,
    weights,
    jnp.int32(max_iter),
    jnp.float32(tol),
    k=k,
    seeding=_pick(SEEDINGS, 'init', init) if isinstance(init, str) else init,
    n_init=n_init,
    repair=_pick(REPAIRS, 'empty', empty),
    chunk=_chunk(n, k, chunk_size),
    precision=precision,
    axis_name=axis_name,
  )


def _bucket(n: int) -> int:
  """The next size of a ladder with four rungs per octave: few shapes, at most 25 % padding."""
  rung = 1 << max(n.bit_length() - 3, 4)
  return -(-n // rung) * rung


def _lloyd_padded(
  points: np.ndarray, weights: np.ndarray, start: np.ndarray, **rules: Any
) -> KMeansResult:
  """`lloyd` on rows padded with weight 0, so that nearby sizes share one compilation."""
  n = points.shape[0]
  extra = _bucket(n) - n
  result = lloyd(
    np.pad(points, ((0, extra), (0, 0))), start, weights=np.pad(weights, (0, extra)), **rules
  )
  return result._replace(labels=result.labels[:n])


def eigen_kmeans(
  points: Any, scores: Any, k: int, *, weights: Any = None, split: str = 'half', **rules: Any
) -> KMeansResult:
  """K-means seeded in two classes: Lloyd in High, in Low, then on all points from both.

  Somasundaram & Mary Shanthi Rani, IJAIS 3(7), 2012. Runs on the host between jitted parts.

  Args:
    points: f32[N, D].
    scores: f32[N], the largest eigenvalue of each block.
    k: number of centroids; more than distinct points leaves some unused.
    weights: f32[N]; a point of weight 0 influences nothing.
    split: 'half' or 'proportional', see `eigen_seeds`.
    **rules: of `lloyd`.

  Returns:
    The result of the last run; n_iter counts its steps only.
  """
  points = np.asarray(points, np.float32)
  weights = np.ones(len(points), np.float32) if weights is None else np.asarray(weights, np.float32)
  seeds = eigen_seeds(points, scores, k, weights=weights, split=split)
  parts = []
  for start, members in ((seeds.high, seeds.is_high), (seeds.low, ~seeds.is_high)):
    members = members & (weights > 0)
    if len(start):
      result = _lloyd_padded(points[members], weights[members], start, **rules)
      parts.append(np.asarray(result.centroids))
  return _lloyd_padded(points, weights, np.concatenate(parts), **rules)
