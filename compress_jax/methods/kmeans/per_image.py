"""Photographs coded by a codebook that is made for the image and carried by the file.

The encoder of the mode `image`: eigen-value K-means for several codebook sizes,
each coded completely, the cheapest kept.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.clustering import k_means
from compress_jax.codec import CodecError, Image
from compress_jax.methods.kmeans import blocks, codebook, colour_blocks
from compress_jax.methods.kmeans.blocks import Plane

_SIZES = [1, 2, 3, *(round(2 ** (i / 2)) for i in range(4, 23))]  # 4, 6, 8, 11, ... 2048
# Largest numbers of Lloyd steps. Refinement continues after 12 steps; the published algorithm runs
# until centroids stop moving (19 to 30 steps on photographs).
_STEPS, _UNTIL_CONVERGED = 12, 1000


def _grey(image: Image) -> Plane:
  return blocks.rgb_to_ycbcr(image)[..., :1]


def _from_grey(plane: Plane) -> Image:
  return np.repeat(plane, 3, -1).astype(np.uint8)


class Space(NamedTuple):
  """A colour space in which blocks are compared and codewords kept."""

  number: int  # Its number in the file.
  analysis: Callable[[Image], Plane]  # u8[H, W, 3] -> i32[H, W, C], 0..255.
  synthesis: Callable[[Plane], Image]
  axes: np.ndarray  # i64[C, C]: orthonormal axes for coding codewords, times 2^14.
  weight: np.ndarray  # f64[C]: share of a sample's squared error in the MSE of RGB.


_UNIT = 1 << 14
SPACES = {
  'rgb': Space(
    0,
    lambda image: image.astype(np.int32),
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


class Options(NamedTuple):
  """The options of the encoder's search for a codebook."""

  lmbda: float  # Minimise bits + lmbda * MSE * pixels.
  prior: np.ndarray  # f64[codebook.CONTEXTS]
  size: int | None = None  # Number of codewords; None tries several.
  eigenvalue: Callable[[np.ndarray], np.ndarray] = blocks.covariance
  split: str = 'half'  # Division of the seeds between the classes.
  # Rounds in which codewords move to the mean of their blocks and blocks are assigned again
  # by rate-distortion cost; 0 is the published algorithm.
  refine: int = 2


class Coding(NamedTuple):
  """A codebook and labels that code an image, with their cost."""

  cost: float  # Bits + lambda * MSE * pixels.
  book: codebook.Quantised
  codewords: np.ndarray  # i64[K, 4, 4, C], as decoded.
  labels: np.ndarray  # i64[N]


def _centroids(tiles: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns means f64[K, 4, 4, C] of the blocks of each label in use, and their counts f64[K]."""
  used, index, uses = np.unique(labels, return_inverse=True, return_counts=True)
  flat = tiles.reshape(len(tiles), -1)
  sums = np.stack([np.bincount(index, column, len(used)) for column in flat.T], 1)
  return (sums / uses[:, None]).reshape(-1, *tiles.shape[1:]), uses.astype(np.float64)


def _code(
  plane: Plane,
  labels: np.ndarray,
  space: Space,
  price: np.ndarray,
  weight: np.ndarray | None,
  prior: np.ndarray,
) -> Coding:
  """Quantises the codebook of `labels` i64[N] and assigns the blocks again to its codewords.

  Where `weight` is None, each block takes the nearest codeword, which is the published algorithm.
  Otherwise it takes that of least bits + weight * error (Chou, Lookabaugh & Gray,
  "Entropy-constrained vector quantization", IEEE Trans. ASSP 37(1), 1989). `price` is the weight of
  an error in the cost of the whole coding.
  """
  tiles = blocks.to_blocks(plane).reshape(-1, blocks.SIDE, blocks.SIDE, plane.shape[2])
  means, uses = _centroids(tiles, labels)
  book = codebook.quantise(means, uses, price, prior, space.axes)
  codewords = codebook.reconstruct(book, space.axes)
  grid, bits, decoded = colour_blocks.choose(plane, codewords, weight)
  writer = coder.Writer()
  codebook.write(writer, book, prior)
  error = float((((decoded - plane) ** 2).sum((0, 1)) * price).sum())
  return Coding(8 * len(writer.finish()) + bits + error, book, codewords, grid.ravel())


def _block_weight(space: Space, options: Options) -> np.ndarray | None:
  """Returns the weight of errors in the choice of a block; None for the published algorithm.

  Blocks are chosen one at a time, which ignores that a good block makes later ones cheaper.
  Counting errors more, up to twice at low rates, gives the least cost of the whole file
  (validation photographs, lambda 0.0009 to 0.05).
  """
  if options.refine == 0:
    return None
  return (1 + min(0.0009 / options.lmbda, 1) ** 0.5) * options.lmbda * space.weight


def _first_guess(tiles: np.ndarray, price: np.ndarray) -> float:
  """Returns a codebook size near the best one: half the number of blocks that need a codeword.

  A block needs one if leaving it flat costs more than 50 bits, about the price of
  a codeword. The rule was fitted on training photographs, where it is right within a factor of two.
  """
  detail = ((tiles - tiles.mean((1, 2), keepdims=True)) ** 2).sum((1, 2)) @ price
  return 8 + 0.5 * float((detail > 50).sum())


def best_coding(plane: Plane, space: Space, options: Options) -> Coding:
  """Returns the coding of the requested size, or the cheapest; sides are multiples of 4."""
  tiles = blocks.to_blocks(plane).reshape(-1, blocks.SIDE, blocks.SIDE, plane.shape[2])
  points = tiles.reshape(len(tiles), -1).astype(np.float32)
  scores = options.eigenvalue(tiles)
  distinct = len(np.unique(points, axis=0))
  price, prior = options.lmbda * space.weight, options.prior
  weight = _block_weight(space, options)
  most = _STEPS if options.refine else _UNTIL_CONVERGED

  def coding(k: int) -> Coding:
    result = k_means.eigen_kmeans(points, scores, k, split=options.split, max_iter=most)
    return _code(plane, np.asarray(result.labels), space, price, weight, prior)

  if options.size is not None:
    best = coding(min(options.size, distinct))
  else:
    sizes = [k for k in _SIZES if k < distinct] + [min(distinct, _SIZES[-1])]
    best = _valley(coding, sizes, _first_guess(tiles, price))
  last = best
  for _ in range(options.refine - 1):
    last = _code(plane, last.labels, space, price, weight, prior)
    best = min(best, last, key=lambda c: c.cost)
  return best


def _valley(coding: Callable[[int], Coding], sizes: list[int], guess: float) -> Coding:
  """Returns the best coding along `sizes`, going downhill in cost from the size nearest `guess`."""
  at = min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i] / guess)))
  codings = {at: coding(sizes[at])}
  for step in (1, -1):
    i = at
    while 0 <= i + step < len(sizes):
      codings[i + step] = coding(sizes[i + step])
      if codings[i + step].cost >= codings[i].cost:
        break
      i += step
    if i != at:  # This side is cheaper, so that the other cannot be.
      break
  return min(codings.values(), key=lambda c: c.cost)


def encode(image: Image, space: Space, options: Options) -> bytes:
  """Returns the payload of u8[H, W, 3]: colour space, codebook, indices."""
  plane = blocks.pad_to(space.analysis(image), blocks.SIDE)
  coding = best_coding(plane, space, options)
  writer = coder.Writer()
  writer.put_bits(space.number, 2)
  codebook.write(writer, coding.book, options.prior)
  colour_blocks.choose(plane, coding.codewords, _block_weight(space, options), writer)
  return writer.finish()


def decode(
  payload: bytes, height: int, width: int, prior: np.ndarray
) -> tuple[Image, Mapping[str, float]]:
  """Returns u8[H, W, 3], and the bits of each part.

  Raises:
    CodecError: the payload is damaged.
  """
  reader = coder.Reader(payload)
  number = reader.get_bits(2)
  space = next((s for s in SPACES.values() if s.number == number), None)
  if space is None:
    raise CodecError(f'no colour space has the number {number}: the file is damaged')
  rows, columns = (side + -side % blocks.SIDE for side in (height, width))
  most = rows * columns // blocks.SIDE**2
  book = codebook.read(reader, len(space.axes), most, prior)
  bits = {'codebook': reader.bits}
  codewords = codebook.reconstruct(book, space.axes)
  plane = colour_blocks.read(reader, rows, columns, codewords)
  reader.finish()
  bits['indices'] = reader.bits - bits['codebook']
  return space.synthesis(plane[:height, :width]), bits
