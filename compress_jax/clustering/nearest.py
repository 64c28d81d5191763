"""The nearest centroid of each row by a matrix product, with exact distances where rows nearly tie.

|c|^2 - 2 x.c loses digits where |x| is large beside the distances that are compared. Rows for
which more than one centroid comes within that loss are checked again, with |x - c|^2 written
out. Ties go to the lowest index.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.codec import Array

GROUP = 8  # Rows of scores per minimum; 4 and 16 are no faster.
_BASE = 2**22  # `_only` adds it to row indices: a sum of two of them exceeds any single one.
_RECHECKED = 8  # Rows that are checked again in one step.


class Table(NamedTuple):
  """Centroids, and the arrays that the matrix product of `nearest` reads."""

  centroids: Array  # f32[K, D].
  rows: Array  # f32[G * GROUP, D]: centroids minus the centre, padded to full groups.
  norms: Array  # f32[G * GROUP], |row|^2; infinite for rows that must never be nearest.
  centre: Array  # f32[D], a point near the data: squares about it lose fewer digits.


def table(centroids: Array, centre: Array) -> Table:
  """Returns the table that `nearest` reads, from f32[K, D] and a point f32[D] near the data."""
  extra = -centroids.shape[0] % GROUP
  rows = centroids - centre
  # The first of equal centroids is nearest; the others would leave all of its points in doubt.
  norms = jnp.where(_repeated(centroids), jnp.inf, jnp.sum(rows**2, axis=1))
  norms = jnp.pad(norms, (0, extra), constant_values=jnp.inf)
  return Table(centroids, jnp.pad(rows, ((0, extra), (0, 0))), norms, centre)


def _repeated(centroids: Array) -> Array:
  """Returns bool[K], whether an earlier centroid is equal; it may miss some that share a hash."""
  bits = lax.bitcast_convert_type(centroids + 0.0, jnp.uint32)  # -0.0 and 0.0 are equal.
  factors = (np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64) * 2654435761).astype(np.uint32)
  order = jnp.argsort(jnp.sum(bits * factors, axis=1, dtype=jnp.uint32), stable=True)
  ordered = centroids[order]
  same = jnp.all(ordered[1:] == ordered[:-1], axis=1)
  return jnp.zeros(len(order), bool).at[order[1:]].set(same)


def nearest(x: Array, lookup: Table, precision: str) -> Array:
  """Returns i32[chunk], the index of the nearest centroid of each row of f32[chunk, D]."""
  if 1 in x.shape:  # XLA may round such products differently for each reader of the scores.
    return lax.map(lambda row: _first_least(squares(lookup.centroids, row)), x)
  labels, doubt = by_product(x, lookup, precision)
  return _resolve_doubt(x, lookup.centroids, labels, doubt)


def by_product(x: Array, lookup: Table, precision: str) -> tuple[Array, Array]:
  """Returns the argmin i32[chunk] of |c|^2 - 2 x.c, and bool[chunk]: whether rounding can decide.

  In doubt the index is arbitrary. XLA's argmin on CPU is scalar code, four times slower than the
  matrix product. Minima and sums of whole rows are vector code: they give the minimum of each group
  of rows, the only group that comes near the overall minimum, and its only row that does
  (`python -m experiments.bench kmeans --profile`).
  """
  y = x - lookup.centre
  dots = lax.dot_general(lookup.rows, y, (((1,), (1,)), ((), ())), precision=precision)
  scores = (lookup.norms[:, None] - 2 * dots).reshape(-1, GROUP, x.shape[0])
  # A chain: jnp.min over the middle axis is scalar code again.
  least = functools.reduce(jnp.minimum, [scores[:, i] for i in range(GROUP)])
  best = jnp.min(least, axis=0)
  norm = jnp.sum(y**2, axis=1)
  # Errors of a sum of D products grow with its root, in proportion to |y|^2 + |y - c|^2.
  limit = best + _loss(x.shape[1]) * (2 * norm + jnp.maximum(best, -norm))
  group, several_groups = _only(least <= limit)
  group_scores = jnp.take_along_axis(scores, group[None, None], axis=0, mode='promise_in_bounds')[0]
  row, several_rows = _only(group_scores <= limit)
  return group * GROUP + row, several_groups | several_rows


def _only(hits: Array) -> tuple[Array, Array]:
  """Returns the index i32[M] of the true row in each column of bool[R, M], and whether several are.

  One pass over the rows: the indices of two rows or more, plus `_BASE` each, sum to at least twice
  the base however the sum is rounded. With several true rows the index is arbitrary; with none (NaN
  scores) it is 0.
  """
  rows = hits.shape[0]
  assert rows < _BASE  # A row's index is exact in float32.
  numbers = np.arange(_BASE, _BASE + rows, dtype=np.float32)[:, None]
  total = jnp.sum(jnp.where(hits, numbers, 0.0), axis=0)
  return jnp.clip(total.astype(jnp.int32) - _BASE, 0, rows - 1), total >= 2 * _BASE


def _loss(dims: int) -> float:
  return (4 + 2 * math.sqrt(dims)) * 2.0**-24


def _resolve_doubt(x: Array, centroids: Array, labels: Array, doubt: Array) -> Array:
  """Returns `labels` with the nearest centroid by exact distances for the rows in doubt."""
  count = min(_RECHECKED, x.shape[0])

  def check(state: tuple[Array, Array]) -> tuple[Array, Array]:
    labels, doubt = state
    _, rows = lax.top_k(doubt.astype(jnp.float32), count)  # Rows without doubt do no harm.
    exact = lax.map(lambda row: _first_least(squares(centroids, x[row])), rows)
    return labels.at[rows].set(exact), doubt.at[rows].set(False)

  return lax.while_loop(lambda state: jnp.any(state[1]), check, (labels, doubt))[0]


def squares(centroids: Array, row: Array) -> Array:
  """Returns f32[K], the squared distances of f32[K, D] to f32[D], as a product: vector code."""
  ones = jnp.ones_like(row)
  return lax.dot((centroids - row) ** 2, ones, precision=lax.Precision.HIGHEST)


def _first_least(values: Array) -> Array:
  """Returns i32[], the first index of the minimum of f32[K]."""
  return _first((values == jnp.min(values))[:, None])[0]


def _first(hits: Array) -> Array:
  """Returns i32[M], the first true row of each column of bool[R, M]; 0 without one (NaN scores)."""
  rows = hits.shape[0]
  row = jnp.where(hits, lax.broadcasted_iota(jnp.int32, hits.shape, 0), rows)
  return jnp.min(row, axis=0) % rows
