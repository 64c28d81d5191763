"""K-means on points f32[N, D]: seeding, Lloyd's algorithm and assignment.

Memory beside the points is O(N + K * D). Points in a NumPy f32 array that starts at a multiple
of 64 bytes are read in place on a CPU; other NumPy arrays are copied once. The loop itself is in
lloyd.py.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.clustering.coordinates import Frame, frame, into, unscaled
from compress_jax.clustering.lloyd import (
  REPAIRS,
  Data,
  KMeansResult,
  assign_rows,
  chunk_rows,
  moments,
  psum,
  run,
)
from compress_jax.clustering.points import (
  Wide,
  check_count,
  checked_points,
  checked_start,
  finished,
  in_32_bits,
  rescaled,
)
from compress_jax.clustering.seeding import Seeding, eigen_seeds, plus_plus_seeds, random_seeds
from compress_jax.codec import Array, CodecError, Key

PRECISIONS = 'default', 'high', 'highest'
SEEDINGS: dict[str, Seeding] = {'k-means++': plus_plus_seeds, 'random': random_seeds}


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
) -> tuple[KMeansResult, Frame]:
  static = chunk, precision, axis_name
  coordinates = frame(points, weights, axis_name)
  data = Data(points, weights * coordinates.mass, coordinates, jnp.zeros_like(start[0]), *static)
  mean, variance = moments(data)
  return run(data._replace(mean=mean), start, max_iter, tol * variance, repair), coordinates


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
) -> tuple[KMeansResult, Frame]:
  def cluster(key: Key) -> tuple[KMeansResult, Frame]:
    start = seeding(key, points, weights, k, axis_name)
    return _lloyd_from(points, weights, start, max_iter, tol, axis_name=axis_name, **static)

  if n_init == 1:
    return cluster(key)
  results = lax.map(cluster, jax.random.split(key, n_init))
  return jax.tree.map(lambda x: x[jnp.argmin(results[0].inertia)], results)


def _pick(table: dict[str, Any], option: str, name: str) -> Any:
  if name not in table:
    raise CodecError(f'{option} must be one of {sorted(table)}, got {name!r}')
  return table[name]


@in_32_bits
def assign(
  points: Any, centroids: Any, *, chunk_size: int | None = None, precision: str = 'highest'
) -> tuple[Array, Array]:
  """Returns the nearest centroid of each point, the lowest index on ties.

  Args:
    points: f32[N, D].
    centroids: f32[K, D].
    chunk_size: rows per chunk; None chooses.
    precision: 'default', 'high' or 'highest', of the matrix product.

  Returns:
    Labels i32[N] and exact squared distances f32[N].

  Raises:
    CodecError: for shapes that do not fit and values that are not finite.
  """
  _check_options(chunk_size=chunk_size, precision=precision)
  if (wide := rescaled(points)) is not None:
    centroids = wide.into(checked_start(centroids, wide.points.shape[1], np.float64))
    labels, distances = assign(wide.points, centroids, chunk_size=chunk_size, precision=precision)
    squares: Any = wide.squares(distances)
    return labels, squares
  rows, weights = checked_points(points, None)
  centroids = checked_start(centroids, rows.shape[1])
  chunk = chunk_rows(rows.shape[0], centroids.shape[0], chunk_size)
  labels, squares, coordinates = _assign_from(
    rows, weights, centroids, chunk=chunk, precision=precision
  )
  return finished((labels, unscaled(squares, coordinates.scale)), points)


@functools.partial(jax.jit, static_argnames=('chunk', 'precision'))
def _assign_from(
  points: Array, weights: Array, centroids: Array, *, chunk: int, precision: str
) -> tuple[Array, Array, Frame]:
  coordinates = frame(points, weights, None, near=centroids)
  data = Data(points, weights, coordinates, jnp.zeros_like(points[0]), chunk, precision, None)
  data = data._replace(mean=moments(data)[0])
  labels, squares, _ = assign_rows(data, into(coordinates, centroids))
  return labels, squares, coordinates


@in_32_bits
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
  """Runs Lloyd's algorithm from the centroids `start`, f32[K, D]; K may exceed N.

  The other arguments and the result are those of `kmeans`.
  """
  _check_options(chunk_size=chunk_size, precision=precision, max_iter=max_iter, tol=tol)
  if (wide := rescaled(points)) is not None:
    options: dict[str, Any] = {'max_iter': max_iter, 'tol': tol, 'chunk_size': chunk_size}
    options |= {'empty': empty, 'precision': precision, 'axis_name': axis_name}
    start = wide.into(checked_start(start, wide.points.shape[1], np.float64))
    return _out_of(wide, lloyd(wide.points, start, weights=weights, **options))
  rows, weights = checked_points(points, weights)
  start = checked_start(start, rows.shape[1])
  result = _lloyd_from(
    rows,
    weights,
    start,
    jnp.int32(max_iter),
    jnp.float32(tol),
    repair=_pick(REPAIRS, 'empty', empty),
    chunk=chunk_rows(rows.shape[0], start.shape[0], chunk_size),
    precision=precision,
    axis_name=axis_name,
  )
  return finished(_in_units(*result), points)


def _check_options(*, chunk_size: Any, precision: Any, max_iter: Any = 0, tol: Any = 0.0) -> None:
  """Raises CodecError for options out of range; values that are traced inside jit pass."""
  if chunk_size is not None:
    check_count('chunk_size', chunk_size, 1)
  if precision not in PRECISIONS:
    raise CodecError(f'precision must be one of {list(PRECISIONS)}, got {precision!r}')
  if not isinstance(max_iter, jax.core.Tracer | jax.Array):
    check_count('max_iter', max_iter, 0)
  if not isinstance(tol, jax.core.Tracer) and not tol >= 0:
    raise CodecError(f'tol must not be negative, got {tol}')


def _out_of(wide: Wide, result: KMeansResult) -> KMeansResult:
  """Returns a result of rescaled points in the coordinates of the caller, as f64 of NumPy."""
  centroids: Any = wide.out_of(result.centroids)
  inertia: Any = wide.squares(result.inertia)
  return result._replace(centroids=centroids, inertia=inertia)


def _in_units(result: KMeansResult, coordinates: Frame) -> KMeansResult:
  """Returns a result whose inertia and counts are in the units of points and weights."""
  inertia = unscaled(result.inertia, coordinates.scale, coordinates.mass)
  return result._replace(inertia=inertia, counts=result.counts / coordinates.mass)


@in_32_bits
def kmeans(
  points: Any,
  k: int,
  *,
  key: Key | None = None,
  init: Any = 'k-means++',
  scores: Any = None,
  n_init: int = 1,
  weights: Any = None,
  max_iter: int = 100,
  tol: float = 1e-4,
  chunk_size: int | None = None,
  empty: str = 'farthest',
  precision: str = 'highest',
  axis_name: str | None = None,
) -> KMeansResult:
  """Clusters points by K-means; works under jit, vmap, pmap and shard_map.

  Args:
    points: [N, D], cast to f32; with `axis_name` the rows of this device, equally many on each.
    k: number of clusters, 1 <= k <= N.
    key: randomness of the seeding; None means key(0).
    init: 'k-means++' (greedy), 'random', 'eigen' (`eigen_kmeans`, on the host), centroids
      f32[K, D], or a function of (key, points, weights, k, axis_name) that returns them. Name
      that function once and pass the same object each time: each new one, such as a lambda that is
      written in the call, is compiled anew.
    scores: f32[N], for 'eigen': the largest eigenvalue of each block.
    n_init: number of seedings that are tried; the lowest inertia is kept.
    weights: f32[N]; a point of weight 0 influences nothing.
    max_iter: largest number of Lloyd steps.
    tol: stops when the squared moves of all centroids sum to no more than this times the mean
      variance of the coordinates (scikit-learn's rule); 0 stops when labels stop changing.
    chunk_size: rows per chunk; None chooses.
    empty: 'farthest' moves empty centroids onto far points, 'keep' leaves them.
    precision: 'default', 'high' or 'highest', of the matrix product; below 'highest' labels may
      differ between devices.
    axis_name: the mapped axis over which rows are distributed.

  Returns:
    A `KMeansResult`: `centroids` f32[K, D]; `labels` i32[N], the nearest centroid of each point,
    with `axis_name` of the rows of this device; `inertia` f32[], the weighted sum of squared
    distances; `n_iter` i32[], Lloyd steps done; `converged` bool[], whether they stopped before
    `max_iter`; and `counts` f32[K], the weight of each cluster. Where f32 cannot hold the points,
    centroids and inertia are NumPy arrays of f64.

  Raises:
    CodecError: for arguments that cannot be clustered (values are checked outside jit only).
  """
  _check_options(chunk_size=chunk_size, precision=precision, max_iter=max_iter, tol=tol)
  check_count('k', k, 1)
  check_count('n_init', n_init, 1)
  if (wide := rescaled(points)) is not None:
    options: dict[str, Any] = {'key': key, 'scores': scores, 'n_init': n_init, 'weights': weights}
    options |= {'max_iter': max_iter, 'tol': tol, 'chunk_size': chunk_size, 'empty': empty}
    options |= {'precision': precision, 'axis_name': axis_name}
    if not isinstance(init, str) and not callable(init):
      init = wide.into(checked_start(init, wide.points.shape[1], np.float64))
    return _out_of(wide, kmeans(wide.points, k, init=init, **options))
  rows, weights = checked_points(points, weights)
  n, d = rows.shape
  total = psum(n, axis_name)  # A constant: the axis has a static size.
  if not 1 <= k <= total:
    raise CodecError(f'k must be between 1 and the number of points {total}, got {k}')
  if isinstance(init, str) and init == 'eigen':
    if scores is None or axis_name is not None or n_init > 1:
      raise CodecError("init='eigen' needs scores, and takes neither axis_name nor n_init")
    options = {'max_iter': max_iter, 'tol': tol, 'chunk_size': chunk_size}
    options |= {'empty': empty, 'precision': precision}
    return eigen_kmeans(points, scores, k, weights=weights, **options)
  options = {
    'weights': weights,
    'max_iter': max_iter,
    'tol': tol,
    'chunk_size': chunk_size,
    'empty': empty,
    'precision': precision,
    'axis_name': axis_name,
  }
  if not isinstance(init, str) and not callable(init):
    start = checked_start(init, d)
    if start.shape[0] != k:
      raise CodecError(f'init holds {start.shape[0]} centroids, but k is {k}')
    return finished(lloyd(rows, start, **options), points)
  result = _best_of(
    jax.random.key(0) if key is None else key,
    rows,
    weights,
    jnp.int32(max_iter),
    jnp.float32(tol),
    k=k,
    seeding=_pick(SEEDINGS, 'init', init) if isinstance(init, str) else init,
    n_init=n_init,
    repair=_pick(REPAIRS, 'empty', empty),
    chunk=chunk_rows(n, k, chunk_size),
    precision=precision,
    axis_name=axis_name,
  )
  return finished(_in_units(*result), points)


def _bucket(n: int) -> int:
  """Returns the next of the padded sizes, four per octave: few shapes, at most 25 % padding."""
  step = 1 << max(n.bit_length() - 3, 4)
  return -(-n // step) * step


def _lloyd_padded(
  points: np.ndarray, weights: np.ndarray, start: np.ndarray, **options: Any
) -> KMeansResult:
  """Runs `lloyd` on rows padded with weight 0, so that nearby sizes share one compilation."""
  n = points.shape[0]
  extra = _bucket(n) - n
  result = lloyd(
    np.pad(points, ((0, extra), (0, 0))), start, weights=np.pad(weights, (0, extra)), **options
  )
  return result._replace(labels=result.labels[:n])


@in_32_bits
def eigen_kmeans(
  points: Any, scores: Any, k: int, *, weights: Any = None, split: str = 'half', **options: Any
) -> KMeansResult:
  """Clusters points by K-means seeded in two classes, High and Low.

  Lloyd's algorithm runs in each class by itself, then on all points from the centroids of both.

  Somasundaram & Mary Shanthi Rani, IJAIS 3(7), 2012. Runs on the host between jitted parts.

  Args:
    points: f32[N, D].
    scores: f32[N], the largest eigenvalue of each block.
    k: number of centroids; more than distinct points leaves some unused.
    weights: f32[N]; a point of weight 0 influences nothing.
    split: 'half' or 'proportional', see `eigen_seeds`.
    **options: keyword arguments of `lloyd`.

  Returns:
    The result of the last run; n_iter counts its steps only.
  """
  if (wide := rescaled(points)) is not None:
    options = {**options, 'weights': weights, 'split': split}
    return _out_of(wide, eigen_kmeans(wide.points, scores, k, **options))
  points = np.asarray(checked_points(points, weights)[0])
  weights = np.ones(len(points), np.float32) if weights is None else np.asarray(weights, np.float32)
  seeds = eigen_seeds(points, scores, k, weights=weights, split=split)
  parts = []
  for start, members in ((seeds.high, seeds.is_high), (seeds.low, ~seeds.is_high)):
    members = members & (weights > 0)
    if len(start):
      result = _lloyd_padded(points[members], weights[members], start, **options)
      parts.append(np.asarray(result.centroids))
  return _lloyd_padded(points, weights, np.concatenate(parts), **options)
