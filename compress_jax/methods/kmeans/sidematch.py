"""Probabilities of codewords given the blocks decoded before, in integers.

Side-match vector quantisation (Kim, "Side match and overlap match vector
quantizers for images", IEEE Trans. Image Processing 1(2), 1992): edges seldom
fall on the block grid, so a codeword that continues the rows above and the
columns to the left is likelier than one that does not. Kim keeps the codewords
that match best; here the mismatch m of a codeword scales its count by
(m + tau)^-alpha, and the range coder does the rest.

Blocks are visited along anti-diagonals: all blocks of a diagonal depend only on
earlier ones, so they are modelled together. Everything that reaches the coder
is an exact integer held in float64.
"""

from collections.abc import Iterator
from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.methods.kmeans.blocks import SIDE, Plane

Ints = np.ndarray
Floats = np.ndarray  # f64, exact integers.

_EDGE = 2 * SIDE  # Pixels of one channel along a block's left and top side.


def _negative_powers_of_two(n: int) -> Floats:
  """Returns f64[n]: round(2^24 * 2^(-i/256)), by decimal arithmetic, which is exact."""
  with localcontext() as context:
    context.prec = 40
    root = Decimal(2) ** (Decimal(-1) / 256)
    return np.array([int((root**i * 2**24).to_integral_value()) for i in range(n)], np.float64)


_POWERS = _negative_powers_of_two(4096)


class Match(NamedTuple):
  """Quadratic forms that turn the pixels beside a block into mismatches.

  The features of a block (see `Sides`) times `forms[i]` are its mismatches with
  all codewords; i says which neighbours exist: 1 left, 2 above, 3 both.
  """

  edges: Ints  # i64[K, 8, C]: codewords continued to the left (4) and upwards (4).
  forms: Floats  # f64[4, 8 C + 2, K]
  alpha: int  # Exponent of the mismatch, in quarters.
  tau: int  # Offset that is added to the mismatch.


class Sides(NamedTuple):
  """The pixels around the blocks of one diagonal."""

  rows: Ints  # i64[n], row of each block in the grid of blocks.
  columns: Ints  # i64[n], column of each block.
  known: Ints  # i64[n]: 1 left, 2 above, 3 both, 0 for the first block.
  pixels: Ints  # i64[n, 8, C]: neighbours continued into the block, 0 where unknown.


def _mask(known: int) -> Ints:
  return np.repeat([known & 1, known >> 1], SIDE)


def _form(edges: Ints, known: int, *, remove_mean: bool) -> Floats:
  """Returns f64[8 C + 2, K], the mismatch as a linear form of a block's features.

  With d = pixels - edges over the n known sides' pixels of a channel, it is
  sum d^2, or n * sum d^2 - (sum d)^2 where the mean is coded separately. It is scaled so
  that one known side weighs as much as two.
  """
  mask = _mask(known)
  n = int(mask.sum())
  scale = (_EDGE // n) ** (2 if remove_mean else 1) if n else 0
  matrix = np.diag(mask) * (n if remove_mean else 1) - (np.outer(mask, mask) if remove_mean else 0)
  weighted = np.einsum('ij,kjc->kic', matrix * scale, edges)
  constant = (weighted * edges).sum((1, 2))
  linear = -2 * weighted.reshape(len(edges), -1)
  ones = np.ones((len(edges), 1), np.int64)
  return np.concatenate([linear, ones, constant[:, None]], 1).T.astype(np.float64)


def match(codewords: Ints, *, alpha: int, tau: int, remove_mean: bool) -> Match:
  """Returns the side-match model of codewords i64[K, 4, 4, C], continued by half a slope."""
  left = 3 * codewords[:, :, 0] - codewords[:, :, 1]
  top = 3 * codewords[:, 0] - codewords[:, 1]
  edges = np.concatenate([left, top], 1)
  forms = [_form(edges, known, remove_mean=remove_mean) for known in range(4)]
  return Match(edges, np.stack(forms), alpha, tau)


def _constant_energy(pixels: Ints, known: Ints, *, remove_mean: bool) -> Ints:
  """Returns i64[n], the part of the mismatch that does not depend on the codeword."""
  n = np.where(known == 3, _EDGE, SIDE)
  squares, sums = (pixels**2).sum((1, 2)), pixels.sum(1)
  if not remove_mean:
    return squares * (_EDGE // n)
  return (n * squares - (sums**2).sum(1)) * (_EDGE // n) ** 2


def mismatches(model: Match, sides: Sides, *, remove_mean: bool) -> Floats:
  """Returns f64[n, K], squared steps across the block's known sides, in half grey levels."""
  n = len(sides.rows)
  energy = _constant_energy(sides.pixels, sides.known, remove_mean=remove_mean)
  features = np.concatenate([sides.pixels.reshape(n, -1), energy[:, None], np.ones((n, 1))], 1)
  out = np.empty((n, model.forms.shape[-1]))
  for known in np.unique(sides.known):
    rows = sides.known == known
    out[rows] = features[rows] @ model.forms[known]
  return out


def penalties(model: Match, mismatch: Floats) -> Ints:
  """Returns i32[n, K]: alpha * log2(mismatch + tau) minus each row's minimum, in 1/256 bits.

  The logarithm is read from the bits of a float32 (its exponent, and its mantissa
  as a straight line): the result is exact on every machine, and at most 0.09 from log2.
  """
  log = (mismatch + model.tau).astype(np.float32).view(np.int32) >> 15
  log -= log.min(1, keepdims=True)
  log *= model.alpha
  log >>= 2
  return np.minimum(log, len(_POWERS) - 1, out=log)


def weights(penalty: Ints, counts: Floats) -> Floats:
  """Returns f64[n, K]: counts * 2^(24 - penalty / 256), rounded, all of them positive."""
  return coder.entropy_floor(_POWERS[penalty] * counts)


def scan(plane: Plane) -> Iterator[Sides]:
  """Yields the sides of the blocks of i32[H, W, C] by diagonals; the caller fills the plane."""
  rows, columns = plane.shape[0] // SIDE, plane.shape[1] // SIDE
  ramp = np.arange(SIDE)
  for t in range(rows + columns - 1):
    c = np.arange(max(0, t - rows + 1), min(t, columns - 1) + 1)
    r = t - c
    y, x = r[:, None] * SIDE + ramp, c[:, None] * SIDE + ramp
    near, far = np.maximum(x[:, :1] - 1, 0), np.maximum(x[:, :1] - 2, 0)
    left = 3 * plane[y, near] - plane[y, far]
    near, far = np.maximum(y[:, :1] - 1, 0), np.maximum(y[:, :1] - 2, 0)
    top = 3 * plane[near, x] - plane[far, x]
    known = (c > 0) + 2 * (r > 0)
    pixels = np.concatenate([left * (c > 0)[:, None, None], top * (r > 0)[:, None, None]], 1)
    yield Sides(r, c, known, pixels)


def place(plane: Plane, sides: Sides, tiles: Ints) -> None:
  """Writes decoded blocks [n, 4, 4, C] of one diagonal into the plane."""
  view = plane.reshape(plane.shape[0] // SIDE, SIDE, plane.shape[1] // SIDE, SIDE, -1)
  view[sides.rows, :, sides.columns] = tiles
