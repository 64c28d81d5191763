"""K-means on points f32[N, D]: seeding, Lloyd's algorithm, assignment; the loop is in lloyd.py.

Memory beside the points is O(N + K * D). Points in a NumPy f32 array that starts at a multiple
of 64 bytes are read in place on a CPU; other NumPy arrays are copied once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.clustering.coordinates import Frame, frame, into, plain
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
  settled,
  widened,
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
  how = chunk, precision, axis_name
  found = frame(points, weights, axis_name)
  data = Data(points, weights * found.mass, found, jnp.zeros_like(start[0]), *how)
  mean, variance = moments(data)
  return run(data._replace(mean=mean), start, max_iter, tol * variance, repair), found


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
  def once(key: Key) -> tuple[KMeansResult, Frame]:
    start = seeding(key, points, weights, k, axis_name)
    return _lloyd_from(points, weights, start, max_iter, tol, axis_name=axis_name, **static)

  if n_init == 1:
    return once(key)
  results = lax.map(once, jax.random.split(key, n_init))
  return jax.tree.map(lambda x: x[jnp.argmin(results[0].inertia)], results)


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
  _check_rules(chunk_size=chunk_size, precision=precision)
  if (wide := widened(points)) is not None:
    centroids = wide.into(checked_start(centroids, wide.points.shape[1], np.float64))
    labels, found = assign(wide.points, centroids, chunk_size=chunk_size, precision=precision)
    squares: Any = wide.squares(found)
    return labels, squares
  rows, weights = checked_points(points, None)
  centroids = checked_start(centroids, rows.shape[1])
  chunk = chunk_rows(rows.shape[0], centroids.shape[0], chunk_size)
  found = _assign_from(rows, weights, centroids, chunk=chunk, precision=precision)
  return settled((found[0], plain(found[1], found[2].scale)), points)


@functools.partial(jax.jit, static_argnames=('chunk', 'precision'))
def _assign_from(
  points: Array, weights: Array, centroids: Array, *, chunk: int, precision: str
) -> tuple[Array, Array, Frame]:
  found = frame(points, weights, None, near=centroids)
  data = Data(points, weights, found, jnp.zeros_like(points[0]), chunk, precision, None)
  data = data._replace(mean=moments(data)[0])
  labels, squares, _ = assign_rows(data, into(found, centroids))
  return labels, squares, found


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
  _check_rules(chunk_size=chunk_size, precision=precision, max_iter=max_iter, tol=tol)
  if (wide := widened(points)) is not None:
    rules: dict[str, Any] = {'max_iter': max_iter, 'tol': tol, 'chunk_size': chunk_size}
    rules |= {'empty': empty, 'precision': precision, 'axis_name': axis_name}
    start = wide.into(checked_start(start, wide.points.shape[1], np.float64))
    return _out_of(wide, lloyd(wide.points, start, weights=weights, **rules))
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
  return settled(_in_units(*result), points)


def _check_rules(*, chunk_size: Any, precision: Any, max_iter: Any = 0, tol: Any = 0.0) -> None:
  """Raises CodecError for rules of the loop that mean nothing; values inside jit pass."""
  if chunk_size is not None:
    check_count('chunk_size', chunk_size, 1)
  if precision not in PRECISIONS:
    raise CodecError(f'precision must be one of {list(PRECISIONS)}, got {precision!r}')
  if not isinstance(max_iter, jax.core.Tracer | jax.Array):
    check_count('max_iter', max_iter, 0)
  if not isinstance(tol, jax.core.Tracer) and not tol >= 0:
    raise CodecError(f'tol must not be negative, got {tol}')


def _out_of(wide: Wide, result: KMeansResult) -> KMeansResult:
  """A result in the coordinates that were given, f64 of NumPy."""
  centroids: Any = wide.out_of(result.centroids)
  inertia: Any = wide.squares(result.inertia)
  return result._replace(centroids=centroids, inertia=inertia)


def _in_units(result: KMeansResult, found: Frame) -> KMeansResult:
  """A result whose inertia and counts are in the units of points and weights."""
  inertia = plain(result.inertia, found.scale, found.mass)
  return result._replace(inertia=inertia, counts=result.counts / found.mass)


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
  """K-means clustering; clean under jit, vmap, pmap and shard_map.

  Args:
    points: [N, D], cast to f32; with `axis_name` the rows of this device, equally many on each.
    k: number of clusters, 1 <= k <= N.
    key: randomness of the seeding; None means key(0).
    init: 'k-means++' (greedy), 'random', 'eigen' (`eigen_kmeans`, on the host), centroids
      f32[K, D], or a function of (key, points, weights, k, axis_name) that returns them.
    scores: f32[N], for 'eigen': the largest eigenvalue of each block.
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
  _check_rules(chunk_size=chunk_size, precision=precision, max_iter=max_iter, tol=tol)
  check_count('k', k, 1)
  check_count('n_init', n_init, 1)
  if (wide := widened(points)) is not None:
    told: dict[str, Any] = {'key': key, 'scores': scores, 'n_init': n_init, 'weights': weights}
    told |= {'max_iter': max_iter, 'tol': tol, 'chunk_size': chunk_size, 'empty': empty}
    told |= {'precision': precision, 'axis_name': axis_name}
    if not isinstance(init, str) and not callable(init):
      init = wide.into(checked_start(init, wide.points.shape[1], np.float64))
    return _out_of(wide, kmeans(wide.points, k, init=init, **told))
  rows, weights = checked_points(points, weights)
  n, d = rows.shape
  total = psum(n, axis_name)  # A constant: the axis has a static size.
  if not 1 <= k <= total:
    raise CodecError(f'k must be between 1 and the number of points {total}, got {k}')
  if isinstance(init, str) and init == 'eigen':
    if scores is None or axis_name is not None or n_init > 1:
      raise CodecError("init='eigen' needs scores, and takes neither axis_name nor n_init")
    lloyd_rules: dict[str, Any] = {'max_iter': max_iter, 'tol': tol, 'chunk_size': chunk_size}
    lloyd_rules |= {'empty': empty, 'precision': precision}
    return eigen_kmeans(points, scores, k, weights=weights, **lloyd_rules)
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
    start = checked_start(init, d)
    if start.shape[0] != k:
      raise CodecError(f'init holds {start.shape[0]} centroids, but k is {k}')
    return settled(lloyd(rows, start, **rules), points)
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
  return settled(_in_units(*result), points)


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
  if (wide := widened(points)) is not None:
    told = {**rules, 'weights': weights, 'split': split}
    return _out_of(wide, eigen_kmeans(wide.points, scores, k, **told))
  points = np.asarray(checked_points(points, weights)[0])
  weights = np.ones(len(points), np.float32) if weights is None else np.asarray(weights, np.float32)
  seeds = eigen_seeds(points, scores, k, weights=weights, split=split)
  parts = []
  for start, members in ((seeds.high, seeds.is_high), (seeds.low, ~seeds.is_high)):
    members = members & (weights > 0)
    if len(start):
      result = _lloyd_padded(points[members], weights[members], start, **rules)
      parts.append(np.asarray(result.centroids))
  return _lloyd_padded(points, weights, np.concatenate(parts), **rules)
