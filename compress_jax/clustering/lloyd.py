"""The loop of K-means: a Lloyd step as a fold over chunks of rows, inside `lax.while_loop`.

Points are f32[N, D], centroids f32[K, D], weights f32[N] with 0 for padding. Memory is
O(N + K * D + chunk * K): no N x K array exists. The loop computes in the coordinates of a
`Frame`. Ties go to the lowest index everywhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from compress_jax.clustering.coordinates import Frame, into, out_of
from compress_jax.clustering.nearest import nearest, table
from compress_jax.codec import Array


class KMeansResult(NamedTuple):
  """The result of K-means: centroids, labels and how the loop ended."""

  centroids: Array  # f32[K, D].
  labels: Array  # i32[N], nearest centroid of each point.
  inertia: Array  # f32[], sum of w * |x - centroid|^2.
  n_iter: Array  # i32[], number of Lloyd steps.
  converged: Array  # bool[], whether it stopped before max_iter.
  counts: Array  # f32[K], weight of each cluster.


class Lloyd(NamedTuple):
  """The state of Lloyd's loop, in the coordinates of the frame."""

  centroids: Array  # f32[K, D].
  labels: Array  # i32[N], labels of the step before.
  step: Array  # i32[].
  done: Array  # bool[].


class Data(NamedTuple):
  """The inputs of a Lloyd step that do not change between steps."""

  points: Array  # f32[N, D], in the coordinates of the caller.
  weights: Array  # f32[N].
  frame: Frame  # The coordinates in which steps are computed.
  mean: Array  # f32[D], mean of the points in these coordinates.
  chunk: int  # Rows per chunk.
  precision: str  # Precision of the matrix product.
  axis_name: str | None  # The mapped axis over which rows are distributed; None without one.


def psum(x: Any, axis_name: str | None) -> Any:
  """Returns the sum over the devices of `axis_name`, or `x` itself without an axis."""
  return x if axis_name is None else lax.psum(x, axis_name)


def fold(data: Data, body: Callable, carry: Any) -> Any:
  """Folds `body(carry, start, x, w)` over chunks of rows in the coordinates of the frame.

  The last chunk is shifted back so that it ends at row N; the rows that it repeats get weight 0.
  """
  size = data.chunk
  n = data.points.shape[0]

  def step(i: Array, carry: Any) -> Any:
    start = jnp.minimum(i * size, n - size)
    x = into(data.frame, lax.dynamic_slice_in_dim(data.points, start, size))
    w = lax.dynamic_slice_in_dim(data.weights, start, size)
    return body(carry, start, x, jnp.where(start + jnp.arange(size) >= i * size, w, 0.0))

  return lax.fori_loop(0, -(-n // size), step, carry)


def assign_rows(data: Data, centroids: Array) -> tuple[Array, Array, Array]:
  """Returns labels i32[N], squared distances f32[N] and cluster weights f32[K] of this device."""
  lookup = table(centroids, data.mean)

  def body(carry: Any, start: Array, x: Array, w: Array) -> Any:
    labels, squares, counts = carry
    label = nearest(x, lookup, data.precision)
    square = jnp.sum((x - centroids[label]) ** 2, axis=1)
    labels = lax.dynamic_update_slice_in_dim(labels, label, start, 0)
    squares = lax.dynamic_update_slice_in_dim(squares, square, start, 0)
    return labels, squares, counts.at[label].add(w)

  n = data.points.shape[0]
  k = centroids.shape[0]
  return fold(data, body, (jnp.zeros(n, jnp.int32), jnp.zeros(n), jnp.zeros(k)))


def update(data: Data, centroids: Array) -> tuple[Array, Array, Array]:
  """Returns labels i32[N], and sums f32[K, D] and weights f32[K] of the clusters on all devices."""
  lookup = table(centroids, data.mean)

  def body(carry: Any, start: Array, x: Array, w: Array) -> Any:
    labels, sums, counts = carry
    label = nearest(x, lookup, data.precision)
    labels = lax.dynamic_update_slice_in_dim(labels, label, start, 0)
    # Each chunk sums from zero: adding point after point to one large sum loses digits.
    # (Without the barrier XLA adds to the large one all the same.)
    part = jnp.zeros_like(sums).at[label].add(w[:, None] * x)
    return labels, sums + lax.optimization_barrier(part), counts.at[label].add(w)

  k, _ = centroids.shape
  n = data.points.shape[0]
  zero = (jnp.zeros(n, jnp.int32), jnp.zeros_like(centroids), jnp.zeros(k))
  labels, sums, counts = fold(data, body, zero)
  return labels, *psum((sums, counts), data.axis_name)


def squared_errors(data: Data, centroids: Array, labels: Array) -> Array:
  """Returns f32[N], squared distances to the centroids of `labels`; 0 for points of weight 0."""

  def body(squares: Array, start: Array, x: Array, w: Array) -> Array:
    assigned = centroids[lax.dynamic_slice_in_dim(labels, start, data.chunk)]
    return lax.dynamic_update_slice_in_dim(squares, jnp.sum((x - assigned) ** 2, axis=1), start, 0)

  squares = fold(data, body, jnp.zeros(data.points.shape[0]))
  return jnp.where(data.weights > 0, squares, 0.0)


def farthest(data: Data, centroids: Array, labels: Array) -> tuple[Array, Array]:
  """Returns squared distances f32[M] and rows f32[M, D] of the points farthest from a centroid.

  The points come from all devices, up to 4 K from each: equal points among them then do no harm.
  """
  squares = squared_errors(data, centroids, labels)
  squares, index = lax.top_k(squares, min(squares.size, 4 * centroids.shape[0]))
  rows = into(data.frame, data.points[index])
  if data.axis_name is None:
    return squares, rows
  return lax.all_gather((squares, rows), data.axis_name, tiled=True)


def refill_farthest(data: Data, centroids: Array, labels: Array, counts: Array) -> Array:
  """Moves empty centroids onto the points farthest from their centroids.

  Each move shortens the distances to the moved centroid, so that of equal points one is chosen.
  Empty centroids stay where they are once no point is away from its centroid.
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
  """Runs Lloyd's algorithm from the centroids `start`, f32[K, D].

  Centroids go in and come out in the coordinates of the points; the inertia is in those of the
  frame.
  """

  def step(state: Lloyd) -> Lloyd:
    labels, sums, counts = update(data, state.centroids)
    means = sums / jnp.where(counts > 0, counts, 1.0)[:, None]
    centroids = jnp.where(counts[:, None] > 0, means, state.centroids)
    centroids = repair(data, centroids, labels, counts)
    changed = psum(jnp.sum((labels != state.labels) & (data.weights > 0)), data.axis_name)
    moved = jnp.sum((centroids - state.centroids) ** 2)
    return Lloyd(centroids, labels, state.step + 1, (moved <= tol) | (changed == 0))

  n = data.points.shape[0]
  first = Lloyd(into(data.frame, start), jnp.full(n, -1, jnp.int32), jnp.int32(0), jnp.bool_(False))
  last = lax.while_loop(lambda s: ~s.done & (s.step < max_iter), step, first)
  labels, squares, counts = assign_rows(data, last.centroids)
  inertia, counts = psum((jnp.sum(data.weights * squares), counts), data.axis_name)
  centroids = out_of(data.frame, last.centroids)
  return KMeansResult(centroids, labels, inertia, last.step, last.done, counts)


def moments(data: Data) -> tuple[Array, Array]:
  """Returns the weighted mean f32[D] of the points and the mean f32[] over D of their variances.

  Both are in the coordinates of the frame. One pass sums differences from `data.mean`, any point
  near the data: sums about the origin would lose digits by cancellation.
  """

  def add(carry: Any, start: Array, x: Array, w: Array) -> Any:
    sums, squares, total = carry
    x = x - data.mean
    return sums + w @ x, squares + w @ jnp.sum(x**2, axis=1), total + jnp.sum(w)

  zero = (jnp.zeros_like(data.mean), jnp.float32(0), jnp.float32(0))
  sums, squares, total = psum(fold(data, add, zero), data.axis_name)
  total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
  shift = sums / total
  variance = jnp.maximum(squares / total - jnp.sum(shift**2), 0.0) / shift.size
  return data.mean + shift, variance


REPAIRS = {'farthest': refill_farthest, 'keep': keep_empty}


def chunk_rows(n: int, k: int, chunk_size: int | None) -> int:
  """Returns the number of rows per chunk.

  By default chunk x K scores take 4 MiB: that keeps XLA's threads busy and stays in the cache.
  """
  return min(n, chunk_size or max(512, min(8192, 2**20 // k)))
