"""The loop of K-means: a Lloyd step as a fold over chunks of rows, `lax.while_loop` around it.

Points are f32[N, D], centroids f32[K, D], weights f32[N] with 0 for padding. Memory is
O(N + K * D + chunk * K): no N x K array exists. Coordinates inside
are centred by the weighted mean, because |c|^2 - 2 x.c loses digits far from the origin.
Ties go to the lowest index everywhere.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from compress_jax.codec import Array


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


def psum(x: Any, axis_name: str | None) -> Any:
  """The sum over devices, where rows are spread over them."""
  return x if axis_name is None else lax.psum(x, axis_name)


def fold(data: Data, body: Callable, carry: Any) -> Any:
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


GROUP = 8  # Rows of scores that one minimum is taken of; 4 and 16 are no faster.


def grouped(centroids: Array) -> tuple[Array, Array]:
  """Centroids and their |c|^2, filled up to whole groups with rows that are nearest to nothing."""
  extra = -centroids.shape[0] % GROUP
  norms = jnp.pad(jnp.sum(centroids**2, axis=1), (0, extra), constant_values=jnp.inf)
  return jnp.pad(centroids, ((0, extra), (0, 0))), norms


def nearest(x: Array, rows: Array, norms: Array, precision: str) -> Array:
  """i32[chunk], index of the nearest row of `grouped`: argmin of |c|^2 - 2 x.c, lowest first.

  XLA's argmin on CPU is scalar code, four times slower than the matrix product. Minima of
  whole rows are vector code: the least of each group of rows, the first group that holds the
  least of all, and its first row (`python -m experiments.bench kmeans --profile`).
  """
  dots = lax.dot_general(rows, x, (((1,), (1,)), ((), ())), precision=precision)
  scores = norms[:, None] - 2 * dots
  if 1 in x.shape:
    # XLA makes multiply-adds of such products, and may round them differently for each reader
    # of the scores. A matrix product, and `norms` from outside the loop, are the same for all.
    return jnp.argmin(scores, axis=0)
  scores = scores.reshape(-1, GROUP, x.shape[0])
  # A chain: jnp.min over the middle axis is scalar code again.
  least = functools.reduce(jnp.minimum, [scores[:, i] for i in range(GROUP)])
  best = jnp.min(least, axis=0)
  group = _first(least == best)
  own = jnp.take_along_axis(scores, group[None, None], axis=0, mode='promise_in_bounds')[0]
  return group * GROUP + _first(own == best)


def _first(hits: Array) -> Array:
  """i32[M], the first true row of each column of bool[R, M]; 0 without one (NaN scores)."""
  rows = hits.shape[0]
  row = jnp.where(hits, lax.broadcasted_iota(jnp.int32, hits.shape, 0), rows)
  return jnp.min(row, axis=0) % rows


def assign_rows(data: Data, centroids: Array) -> tuple[Array, Array, Array]:
  """Labels i32[N], squared distances f32[N] and cluster weights f32[K] of this device."""
  rows, norms = grouped(centroids)

  def body(carry: Any, start: Array, x: Array, w: Array) -> Any:
    labels, squares, counts = carry
    own = nearest(x, rows, norms, data.precision)
    square = jnp.sum((x - centroids[own]) ** 2, axis=1)
    labels = lax.dynamic_update_slice_in_dim(labels, own, start, 0)
    squares = lax.dynamic_update_slice_in_dim(squares, square, start, 0)
    return labels, squares, counts.at[own].add(w)

  n = data.points.shape[0]
  k = centroids.shape[0]
  return fold(data, body, (jnp.zeros(n, jnp.int32), jnp.zeros(n), jnp.zeros(k)))


def update(data: Data, centroids: Array) -> tuple[Array, Array, Array]:
  """Labels i32[N], sums f32[K, D] and weights f32[K] of the clusters, over all devices."""
  rows, norms = grouped(centroids)

  def body(carry: Any, start: Array, x: Array, w: Array) -> Any:
    labels, sums, counts = carry
    own = nearest(x, rows, norms, data.precision)
    labels = lax.dynamic_update_slice_in_dim(labels, own, start, 0)
    # Each chunk sums from zero: adding point after point to one large sum loses digits.
    # (Without the barrier XLA adds to the large one all the same.)
    part = jnp.zeros_like(sums).at[own].add(w[:, None] * x)
    return labels, sums + lax.optimization_barrier(part), counts.at[own].add(w)

  k, _ = centroids.shape
  n = data.points.shape[0]
  zero = (jnp.zeros(n, jnp.int32), jnp.zeros_like(centroids), jnp.zeros(k))
  labels, sums, counts = fold(data, body, zero)
  return labels, *psum((sums, counts), data.axis_name)


def squares_to_own(data: Data, centroids: Array, labels: Array) -> Array:
  """f32[N], squared distance to the own centroid; 0 for points without weight."""

  def body(squares: Array, start: Array, x: Array, w: Array) -> Array:
    own = centroids[lax.dynamic_slice_in_dim(labels, start, data.chunk)]
    return lax.dynamic_update_slice_in_dim(squares, jnp.sum((x - own) ** 2, axis=1), start, 0)

  squares = fold(data, body, jnp.zeros(data.points.shape[0]))
  return jnp.where(data.weights > 0, squares, 0.0)


def farthest(data: Data, centroids: Array, labels: Array) -> tuple[Array, Array]:
  """Squared distances f32[M] and rows f32[M, D] of the 4 K points farthest from their own
  centroid, of all devices. Four times K, so that equal points among them do no harm.
  """
  squares = squares_to_own(data, centroids, labels)
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
    far, rows = farthest(data, centroids, labels)

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


def run(data: Data, start: Array, max_iter: Array, tol: Array, repair: Callable) -> KMeansResult:
  """Lloyd's algorithm from f32[K, D], both ends in the coordinates of the points."""

  def step(state: Lloyd) -> Lloyd:
    labels, sums, counts = update(data, state.centroids)
    means = sums / jnp.where(counts > 0, counts, 1.0)[:, None]
    centroids = jnp.where(counts[:, None] > 0, means, state.centroids)
    centroids = repair(data, centroids, labels, counts)
    changed = psum(jnp.sum((labels != state.labels) & (data.weights > 0)), data.axis_name)
    moved = jnp.sum((centroids - state.centroids) ** 2)
    return Lloyd(centroids, labels, state.step + 1, (moved <= tol) | (changed == 0))

  n = data.points.shape[0]
  first = Lloyd(start - data.mean, jnp.full(n, -1, jnp.int32), jnp.int32(0), jnp.bool_(False))
  last = lax.while_loop(lambda s: ~s.done & (s.step < max_iter), step, first)
  labels, squares, counts = assign_rows(data, last.centroids)
  inertia, counts = psum((jnp.sum(data.weights * squares), counts), data.axis_name)
  return KMeansResult(last.centroids + data.mean, labels, inertia, last.step, last.done, counts)


def moments(data: Data) -> tuple[Array, Array]:
  """Weighted mean f32[D] and the mean over D of the weighted variances f32[].

  One pass about `data.mean`, any point near the data: about the origin digits would cancel.
  """

  def add(carry: Any, start: Array, x: Array, w: Array) -> Any:
    sums, squares, total = carry
    return sums + w @ x, squares + w @ jnp.sum(x**2, axis=1), total + jnp.sum(w)

  zero = (jnp.zeros_like(data.mean), jnp.float32(0), jnp.float32(0))
  sums, squares, total = psum(fold(data, add, zero), data.axis_name)
  total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
  shift = sums / total
  variance = jnp.maximum(squares / total - jnp.sum(shift**2), 0.0) / shift.size
  return data.mean + shift, variance


REPAIRS = {'farthest': refill_farthest, 'keep': keep_empty}


def chunk_rows(n: int, k: int, chunk_size: int | None) -> int:
  """Rows at a time: chunk x K scores of 4 MiB keep XLA's threads busy; larger leave the cache."""
  return min(n, chunk_size or max(512, min(8192, 2**20 // k)))
