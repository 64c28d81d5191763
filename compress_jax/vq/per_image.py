"""Photographs coded by a codebook of their own, which the file carries.

The encoder of the faithful mode: eigen-value K-means for several codebook sizes,
each coded for real, the cheapest kept.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from compress_jax import clustering, coder
from compress_jax.codec import CodecError, Image
from compress_jax.vq import blocks, codebook, whole
from compress_jax.vq.blocks import Plane

_SIZES = sorted({round(2 ** (i / 2)) for i in range(2, 25)} | {1, 3})  # 1, 2, 3, 4, 6, ... 4096
_STEPS = 12  # Lloyd steps: the refinement goes on from there.


def _grey(image: Image) -> Plane:
  return blocks.rgb_to_ycbcr(image)[..., :1]


def _from_grey(plane: Plane) -> Image:
  return np.repeat(plane, 3, -1).astype(np.uint8)


class Space(NamedTuple):
  """Colours in which blocks are compared and codewords kept."""

  number: int  # In the file.
  analysis: Callable[[Image], Plane]  # u8[H, W, 3] -> i64[H, W, C], 0..255.
  synthesis: Callable[[Plane], Image]
  axes: np.ndarray  # i64[C, C]: orthonormal axes for coding codewords, times 2^14.
  weight: np.ndarray  # f64[C]: share of a sample's squared error in the MSE of RGB.


_UNIT = 1 << 14
SPACES = {
  'rgb': Space(
    0,
    lambda image: image.astype(np.int64),
    lambda plane: plane.astype(np.uint8),
    codebook.RGB_AXES,
    np.ones(3) / 3,
  ),
  'ycbcr': Space(
    1,
    blocks.rgb_to_ycbcr,
    blocks.ycbcr_to_rgb,
    _UNIT * np.eye(3, dtype=np.int64),
    blocks.YCBCR_WEIGHT,
  ),
  'gray': Space(2, _grey, _from_grey, _UNIT * np.eye(1, dtype=np.int64), np.ones(1)),
}


class Coding(NamedTuple):
  """One way to code an image, and what it costs."""

  cost: float  # Bits + lambda * MSE * pixels.
  book: codebook.Quantised
  codewords: np.ndarray  # i64[K, 4, 4, C], as decoded.


def _centroids(tiles: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Means f64[K, 4, 4, C] of the blocks under each label in use, and their numbers f64[K]."""
  used, index, uses = np.unique(labels, return_inverse=True, return_counts=True)
  flat = tiles.reshape(len(tiles), -1)
  sums = np.stack([np.bincount(index, column, len(used)) for column in flat.T], 1)
  return (sums / uses[:, None]).reshape(-1, *tiles.shape[1:]), uses.astype(np.float64)


def _code(
  plane: Plane, labels: np.ndarray, space: Space, lmbda: float, refine: int, prior: np.ndarray
) -> Coding:
  """Quantises the codebook of `labels` i64[N] and assigns again, `refine` times in earnest.

  0 times is the published algorithm: each block takes the nearest codeword of the
  quantised codebook. Otherwise it takes the one of least rate-distortion cost, and
  codewords move to the mean of their blocks in between (Chou, Lookabaugh & Gray,
  "Entropy-constrained vector quantization", IEEE Trans. ASSP 37(1), 1989).
  """
  tiles = blocks.to_blocks(plane).reshape(-1, blocks.SIDE, blocks.SIDE, plane.shape[2])
  price, best = lmbda * space.weight, None
  for _ in range(max(refine, 1)):
    means, uses = _centroids(tiles, labels)
    book = codebook.quantise(means, uses, price, prior, space.axes)
    codewords = codebook.reconstruct(book, space.axes)
    grid, bits, decoded = whole.choose(plane, codewords, price if refine else None)
    writer = coder.Writer()
    codebook.write(writer, book, prior)
    error = float((((decoded - plane) ** 2).sum((0, 1)) * price).sum())
    coding = Coding(8 * len(writer.finish()) + bits + error, book, codewords)
    best = min(best, coding, key=lambda c: c.cost) if best else coding
    labels = grid.ravel()
  assert best is not None
  return best


def _first_guess(lmbda: float, blocks_: int) -> float:
  """A codebook size near the best one, from experience with photographs."""
  return 136 * (lmbda / 0.0035) ** 0.9 * math.sqrt(blocks_ / 4096)


def best_coding(
  plane: Plane,
  space: Space,
  *,
  lmbda: float,
  size: int | None,
  eigenvalue: Callable[[np.ndarray], np.ndarray],
  split: str,
  refine: int,
  prior: np.ndarray,
) -> Coding:
  """The codebook of `size`, or of the size that costs least; sides are multiples of 4."""
  tiles = blocks.to_blocks(plane).reshape(-1, blocks.SIDE, blocks.SIDE, plane.shape[2])
  points = tiles.reshape(len(tiles), -1).astype(np.float32)
  scores = eigenvalue(tiles)
  distinct = len(np.unique(points, axis=0))

  def coding(k: int) -> Coding:
    found = clustering.eigen_kmeans(points, scores, k, split=split, max_iter=_STEPS)
    return _code(plane, np.asarray(found.labels), space, lmbda, refine, prior)

  if size is not None:
    return coding(min(size, distinct, codebook.MAX_SIZE))
  sizes = [k for k in _SIZES if k < distinct] + [min(distinct, _SIZES[-1])]
  return _valley(coding, sizes, _first_guess(lmbda, len(points)))


def _valley(coding: Callable[[int], Coding], sizes: list[int], guess: float) -> Coding:
  """Walks downhill along `sizes` from the one nearest to `guess`."""
  at = min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i] / guess)))
  found = {at: coding(sizes[at])}
  for step in (1, -1):
    i = at
    while 0 <= i + step < len(sizes):
      found[i + step] = coding(sizes[i + step])
      if found[i + step].cost >= found[i].cost:
        break
      i += step
    if i != at:  # Better on this side: the other cannot be.
      break
  return min(found.values(), key=lambda c: c.cost)


def encode(
  image: Image,
  space: Space,
  *,
  lmbda: float,
  size: int | None,
  eigenvalue: Callable[[np.ndarray], np.ndarray],
  split: str,
  refine: int,
  prior: np.ndarray,
) -> bytes:
  """The payload of u8[H, W, 3]: colour space, codebook, indices."""
  plane = blocks.pad_to(space.analysis(image), blocks.SIDE)
  rules: dict[str, Any] = {
    'eigenvalue': eigenvalue,
    'split': split,
    'refine': refine,
    'prior': prior,
  }
  coding = best_coding(plane, space, lmbda=lmbda, size=size, **rules)
  writer = coder.Writer()
  writer.put_bits(space.number, 2)
  codebook.write(writer, coding.book, prior)
  whole.choose(plane, coding.codewords, lmbda * space.weight if refine else None, writer)
  return writer.finish()


def decode(
  payload: bytes, height: int, width: int, prior: np.ndarray
) -> tuple[Image, Mapping[str, float]]:
  """u8[H, W, 3], and the bits of each part.

  Raises:
    CodecError: the payload is damaged.
  """
  reader = coder.Reader(payload)
  number = reader.get_bits(2)
  space = next((s for s in SPACES.values() if s.number == number), None)
  if space is None:
    raise CodecError(f'no colour space has the number {number}: the file is damaged')
  book = codebook.read(reader, len(space.axes), prior)
  bits = {'codebook': reader.bits}
  codewords = codebook.reconstruct(book, space.axes)
  rows, columns = (side + -side % blocks.SIDE for side in (height, width))
  plane = whole.read(reader, rows, columns, codewords)
  reader.finish()
  bits['indices'] = reader.bits - bits['codebook']
  return space.synthesis(plane[:height, :width]), bits
