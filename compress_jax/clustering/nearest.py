"""The nearest centroid of each row: by a matrix product, and near ties by the distances themselves.

|c|^2 - 2 x.c loses digits where |x| is large beside the distances that are compared. Rows for
which more than one centroid comes within that loss are looked at again, with |x - c|^2 written
out. Ties go to the lowest index.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from compress_jax.codec import Array

GROUP = 8  # Rows of scores that one minimum is taken of; 4 and 16 are no faster.
_BASE = 2**22  # `_only` adds it to the numbers of rows, so that a sum tells one from several.
_AGAIN = 8  # Rows that are looked at again together.


class Table(NamedTuple):
  """Centroids, and what the matrix product needs of them."""

  centroids: Array  # f32[K, D].
  rows: Array  # f32[G * GROUP, D]: less the centre, and filled up to whole groups.
  norms: Array  # f32[G * GROUP], |row|^2; infinite where nothing is to be nearest.
  centre: Array  # f32[D], near the points: their squares lose fewer digits about it.


def table(centroids: Array, centre: Array) -> Table:
  """What `nearest` looks up."""
  extra = -centroids.shape[0] % GROUP
  rows = centroids - centre
  # Of equal centroids the first is nearest; the others would leave all of its points in doubt.
  norms = jnp.where(_repeated(centroids), jnp.inf, jnp.sum(rows**2, axis=1))
  norms = jnp.pad(norms, (0, extra), constant_values=jnp.inf)
  return Table(centroids, jnp.pad(rows, ((0, extra), (0, 0))), norms, centre)


def _repeated(centroids: Array) -> Array:
  """bool[K], whether an earlier centroid is equal; those that share a hash may be missed."""
  bits = lax.bitcast_convert_type(centroids + 0.0, jnp.uint32)  # -0.0 and 0.0 are equal.
  factors = (np.arange(1, 2 * bits.shape[1], 2, dtype=np.uint64) * 2654435761).astype(np.uint32)
  order = jnp.argsort(jnp.sum(bits * factors, axis=1, dtype=jnp.uint32), stable=True)
  ordered = centroids[order]
  same = jnp.all(ordered[1:] == ordered[:-1], axis=1)
  return jnp.zeros(len(order), bool).at[order[1:]].set(same)


def nearest(x: Array, found: Table, precision: str) -> Array:
  """i32[chunk], index of the nearest centroid of f32[chunk, D]."""
  if 1 in x.shape:  # XLA may round such products differently for each reader of the scores.
    return lax.map(lambda row: _first_least(squares(found.centroids, row)), x)
  own, doubt = by_product(x, found, precision)
  return _looked_at_again(x, found.centroids, own, doubt)


def by_product(x: Array, found: Table, precision: str) -> tuple[Array, Array]:
  """The argmin i32[chunk] of |c|^2 - 2 x.c, and bool[chunk]: whether rounding may decide it.

  Where it may, the index is any. XLA's argmin on CPU is scalar code, four times slower than the
  matrix product. Minima and sums of whole rows are vector code: the least of each group of rows,
  the only group that comes near the least of all, and its only row that does
  (`python -m experiments.bench kmeans --profile`).
  """
  y = x - found.centre
  dots = lax.dot_general(found.rows, y, (((1,), (1,)), ((), ())), precision=precision)
  scores = (found.norms[:, None] - 2 * dots).reshape(-1, GROUP, x.shape[0])
  # A chain: jnp.min over the middle axis is scalar code again.
  least = functools.reduce(jnp.minimum, [scores[:, i] for i in range(GROUP)])
  best = jnp.min(least, axis=0)
  size = jnp.sum(y**2, axis=1)
  # Errors of a sum of D products grow with its root, in proportion to |y|^2 + |y - c|^2.
  limit = best + _loss(x.shape[1]) * (2 * size + jnp.maximum(best, -size))
  group, groups = _only(least <= limit)
  own = jnp.take_along_axis(scores, group[None, None], axis=0, mode='promise_in_bounds')[0]
  member, members = _only(own <= limit)
  return group * GROUP + member, groups | members


def _only(hits: Array) -> tuple[Array, Array]:
  """The true row i32[M] of each column of bool[R, M], and bool[M], whether there are several.

  One pass over the rows: the numbers of two rows or more sum to twice the base at least, however
  the sum is rounded. Where there are several the row is any; it is 0 without one (NaN scores).
  """
  rows = hits.shape[0]
  assert rows < _BASE  # The number of a row is exact in float32.
  numbers = np.arange(_BASE, _BASE + rows, dtype=np.float32)[:, None]
  total = jnp.sum(jnp.where(hits, numbers, 0.0), axis=0)
  return jnp.clip(total.astype(jnp.int32) - _BASE, 0, rows - 1), total >= 2 * _BASE


def _loss(dims: int) -> float:
  return (4 + 2 * math.sqrt(dims)) * 2.0**-24


def _looked_at_again(x: Array, centroids: Array, own: Array, doubt: Array) -> Array:
  """`own`, with the nearest centroid for the rows in doubt."""
  count = min(_AGAIN, x.shape[0])

  def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
    own, doubt = state
    _, rows = lax.top_k(doubt.astype(jnp.float32), count)  # Others among them do no harm.
    labels = lax.map(lambda row: _first_least(squares(centroids, x[row])), rows)
    return own.at[rows].set(labels), doubt.at[rows].set(False)

  return lax.while_loop(lambda state: jnp.any(state[1]), again, (own, doubt))[0]


def squares(centroids: Array, row: Array) -> Array:
  """f32[K], the squared distances of f32[K, D] to f32[D]; a product is vector code."""
  ones = jnp.ones_like(row)
  return lax.dot((centroids - row) ** 2, ones, precision=lax.Precision.HIGHEST)


def _first_least(values: Array) -> Array:
  """i32[], the first index of the least of f32[K]."""
  return _first((values == jnp.min(values))[:, None])[0]


def _first(hits: Array) -> Array:
  """i32[M], the first true row of each column of bool[R, M]; 0 without one (NaN scores)."""
  rows = hits.shape[0]
  row = jnp.where(hits, lax.broadcasted_iota(jnp.int32, hits.shape, 0), rows)
  return jnp.min(row, axis=0) % rows
