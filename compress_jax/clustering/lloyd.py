"""The loop of K-means: a Lloyd step as a fold over chunks of rows, `lax.while_loop` around it.

Points are f32[N, D], centroids f32[K, D], weights f32[N] with 0 for padding. Memory is
O(N + K * D + chunk * K): no N x K array exists. Coordinates inside are those
of a `frame`. Ties go to the lowest index everywhere.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from compress_jax.clustering.coordinates import Frame, into, out_of
from compress_jax.clustering.nearest import nearest, table
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
  frame: Frame  # In whose coordinates all work is done.
  mean: Array  # f32[D], of the points in these coordinates.
  chunk: int  # Rows at a time.
  precision: str  # Of the matrix product.
  axis_name: str | None  # Devices that hold the other rows.


def psum(x: Any, axis_name: str | None) -> Any:
  """The sum over devices, where rows are spread over them."""
  return x if axis_name is None else lax.psum(x, axis_name)


def fold(data: Data, body: Callable, carry: Any) -> Any:
  """Folds `body(carry, start, x, w)` over chunks of rows in the coordinates of the frame.

  The last chunk is moved back to end at row N; the rows it repeats weigh nothing.
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
  """Labels i32[N], squared distances f32[N] and cluster weights f32[K] of this device."""
  found = table(centroids, data.mean)

  def body(carry: Any, start: Array, x: Array, w: Array) -> Any:
    labels, squares, counts = carry
    own = nearest(x, found, data.precision)
    square = jnp.sum((x - centroids[own]) ** 2, axis=1)
    labels = lax.dynamic_update_slice_in_dim(labels, own, start, 0)
    squares = lax.dynamic_update_slice_in_dim(squares, square, start, 0)
    return labels, squares, counts.at[own].add(w)

  n = data.points.shape[0]
  k = centroids.shape[0]
  return fold(data, body, (jnp.zeros(n, jnp.int32), jnp.zeros(n), jnp.zeros(k)))


def update(data: Data, centroids: Array) -> tuple[Array, Array, Array]:
  """Labels i32[N], sums f32[K, D] and weights f32[K] of the clusters, over all devices."""
  found = table(centroids, data.mean)

  def body(carry: Any, start: Array, x: Array, w: Array) -> Any:
    labels, sums, counts = carry
    own = nearest(x, found, data.precision)
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
  rows = into(data.frame, data.points[index])
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
  """Lloyd's algorithm from f32[K, D], both ends in the coordinates of the points.

  The inertia is in those of the frame.
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
  """Weighted mean f32[D] and the mean over D of the weighted variances f32[].

  Both are in the coordinates of the frame. One pass about `data.mean`, any point near the data:
  about the origin digits would cancel.
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
  """Rows at a time: chunk x K scores of 4 MiB keep XLA's threads busy; larger leave the cache."""
  return min(n, chunk_size or max(512, min(8192, 2**20 // k)))
