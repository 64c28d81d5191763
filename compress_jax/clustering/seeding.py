"""Seeds of K-means: random rows of the data, rows far from each other, or rows of highest score."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.clustering.coordinates import frame, into
from compress_jax.codec import Array, CodecError, Key

# (key, points f32[N, D], weights f32[N], k, axis_name) -> f32[K, D].
Seeding = Callable[[Key, Array, Array, int, str | None], Array]


def random_seeds(key: Key, points: Array, weights: Array, k: int, axis_name: str | None) -> Array:
  """Returns K rows drawn without replacement, in proportion to their weights (Gumbel top-k)."""
  if axis_name is not None:
    key = jax.random.fold_in(key, lax.axis_index(axis_name))
  scores = jnp.log(weights) + jax.random.gumbel(key, weights.shape)
  best, index = lax.top_k(scores, min(k, weights.size))
  rows = points[index]
  if axis_name is not None:
    best, rows = lax.all_gather((best, rows), axis_name, tiled=True)
    best, index = lax.top_k(best, k)
    rows = rows[index]
  return jnp.where(jnp.isfinite(best)[:, None], rows, rows[0])


def _draw(key: Key, points: Array, mass: Array, count: int, axis_name: str | None) -> Array:
  """Returns f32[count, D], rows drawn in proportion to `mass`, f32[N], over all devices."""
  sums = jnp.cumsum(mass)
  order = jnp.arange(mass.size)
  totals = sums[-1:] if axis_name is None else lax.all_gather(sums[-1], axis_name)
  device = 0 if axis_name is None else lax.axis_index(axis_name)
  ends = jnp.cumsum(totals)
  target = jax.random.uniform(key, (count,)) * ends[-1]
  # Rounding must not choose a row or a device without mass: the last with mass gets the remainder.
  owner = jnp.minimum(
    jnp.sum(ends <= target[:, None], axis=1),
    jnp.max(jnp.where(totals > 0, jnp.arange(totals.size), 0)),
  )
  remainder = target - jnp.where(owner > 0, ends[owner - 1], 0.0)
  hit = (sums > remainder[:, None]) & (mass > 0)
  last = jnp.max(jnp.where(mass > 0, order, 0))
  index = jnp.minimum(jnp.min(jnp.where(hit, order, mass.size), axis=1), last)
  rows = points[index]
  if axis_name is None:
    return rows
  return lax.psum(jnp.where((owner == device)[:, None], rows, 0.0), axis_name)


def plus_plus_seeds(
  key: Key, points: Array, weights: Array, k: int, axis_name: str | None
) -> Array:
  """Returns seeds by greedy k-means++ (Arthur & Vassilvitskii, SODA 2007).

  Each seed is the best of 2 + floor(ln K) draws.

  A row is drawn in proportion to w * D^2, D its distance to the nearest seed so far; in
  proportion to w alone for the first seed, and when every D is 0.
  """

  coordinates = frame(points, weights, axis_name)
  weights = weights * coordinates.mass

  def total(mass: Array) -> Array:
    return jnp.sum(mass) if axis_name is None else lax.psum(jnp.sum(mass), axis_name)

  def squares_to(row: Array) -> Array:
    return jnp.sum((into(coordinates, points) - into(coordinates, row)) ** 2, axis=1)

  def add(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
    seeds, squares = state
    mass = weights * squares
    mass = jnp.where(total(mass) > 0, mass, weights)
    rows = _draw(jax.random.fold_in(key, i), points, mass, trials, axis_name)
    shorter = lax.map(lambda row: jnp.minimum(squares, squares_to(row)), rows)
    best = jnp.argmin(lax.map(lambda x: total(weights * x), shorter))
    return seeds.at[i].set(rows[best]), shorter[best]

  trials = 2 + int(math.log(k))
  first = _draw(jax.random.fold_in(key, 0), points, weights, 1, axis_name)[0]
  seeds = jnp.zeros((k, points.shape[1])).at[0].set(first)
  return lax.fori_loop(1, k, add, (seeds, squares_to(first)))[0]


class EigenSeeds(NamedTuple):
  """The seeds of the two classes, K rows together."""

  high: np.ndarray  # f32[K1, D].
  low: np.ndarray  # f32[K2, D].
  is_high: np.ndarray  # bool[N], whether a point's score is at or above the mean.


def _top_distinct(points: np.ndarray, order: np.ndarray, k: int) -> list[int]:
  """Returns the first `k` indices of `order` whose rows differ from all rows before."""
  rows: dict[bytes, int] = {}
  for index in order:
    if len(rows) >= k:
      break
    rows.setdefault(points[index].tobytes(), int(index))
  return list(rows.values())


def _half(k: int, high: float) -> int:
  del high
  return k // 2


def _proportional(k: int, high: float) -> int:
  """Returns High's number of seeds in proportion to its weight; each class gets at least one."""
  return min(max(round(k * high), 1), k - 1)


SPLITS: dict[str, Callable[[int, float], int]] = {'half': _half, 'proportional': _proportional}


def eigen_seeds(
  points: Any, scores: Any, k: int, *, weights: Any = None, split: str = 'half'
) -> EigenSeeds:
  """Returns the distinct points with the highest scores of two classes, High and Low.

  The classes are divided by the weighted mean of the scores; ties of scores go to the lower
  index. A class with too few distinct points gives its share to the other; with fewer than K
  in all, seeds repeat. Deterministic, on the host.

  Args:
    points: f32[N, D].
    scores: f32[N], the largest eigenvalue of each block.
    k: number of seeds.
    weights: f32[N]; a point of weight 0 is no seed and moves no threshold.
    split: High's share of seeds, 'half', or 'proportional' to the weight of the class.

  Raises:
    CodecError: for an unknown split, shapes that do not fit, k < 1, or no weight at all.
  """
  points = np.ascontiguousarray(points, np.float32) + 0.0  # -0.0 and 0.0 are the same point.
  scores = np.asarray(scores, np.float64)
  if not np.isfinite(scores).all():
    raise CodecError('scores must be finite, got NaN or infinity')
  if scores.size and (most := np.abs(scores).max()) > np.finfo(np.float32).max:
    scores = scores / most
  scores = scores.astype(np.float32)
  weights = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
  if points.ndim != 2 or scores.shape != points.shape[:1] or weights.shape != points.shape[:1]:
    raise CodecError(
      f'shapes do not fit: points {points.shape}, scores {scores.shape}, weights {weights.shape}'
    )
  if k < 1 or not weights.sum() > 0:
    raise CodecError(f'need k >= 1 and some weight, got k {k} and weight {weights.sum()}')
  if split not in SPLITS:
    raise CodecError(f'split must be one of {sorted(SPLITS)}, got {split!r}')

  # The mean of equal scores must not round above them: then High would be empty.
  mean = min(np.average(scores.astype(np.float64), weights=weights), scores[weights > 0].max())
  is_high = scores >= mean
  order = np.argsort(-scores, kind='stable')
  order = order[weights[order] > 0]
  high = _top_distinct(points, order[is_high[order]], k)
  low = _top_distinct(points, order[~is_high[order]], k)
  share = float(weights[is_high].sum() / weights.sum())
  k1 = min(max(SPLITS[split](k, share), k - len(low)), len(high))
  high, low = high[:k1], low[: k - k1]
  missing = k - len(high) - len(low)
  high = high + (high + low)[:1] * missing
  return EigenSeeds(points[high], points[low], is_high)
