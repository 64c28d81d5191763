"""Coding of the codeword indices of colour blocks, for a codebook that the file carries."""

import numpy as np

from compress_jax import coder
from compress_jax.methods.kmeans import blocks, sidematch

Ints = np.ndarray
_ALPHA = 7  # In quarters. This constant and the next two lines were fitted on training images.
_TAU = 9600
_FIRST, _SEEN = 1.0, 3.0  # Counts of a codeword before its first use, and per use.


def _model(codewords: Ints) -> sidematch.Match:
  return sidematch.match(codewords, alpha=_ALPHA, tau=_TAU, remove_mean=False)


def _penalties(model: sidematch.Match, sides: sidematch.Sides) -> Ints:
  return sidematch.penalties(model, sidematch.mismatches(model, sides, remove_mean=False))


def choose(
  plane: blocks.Plane,
  codewords: Ints,
  weight: np.ndarray | None,
  writer: coder.Writer | None = None,
) -> tuple[Ints, float, blocks.Plane]:
  """Codes blocks one diagonal at a time, each by the codeword of least cost.

  Args:
    plane: i32[H, W, C], sides multiples of 4.
    codewords: i64[K, 4, 4, C].
    weight: f64[C], bits per unit of squared error; None takes the nearest codeword.
    writer: codes the indices; None only counts their bits.

  Returns:
    Labels i64[H/4, W/4], their length in bits, and the decoded plane.
  """
  tiles, out = blocks.to_blocks(plane), np.zeros_like(plane)
  labels = np.zeros(tiles.shape[:2], np.int64)
  if len(codewords) == 1:
    return labels, 0.0, blocks.from_blocks(codewords[labels])
  model, counts, bits = _model(codewords), np.full(len(codewords), _FIRST), 0.0
  per_sample = np.ones(plane.shape[2]) if weight is None else weight
  words = (codewords * per_sample).reshape(len(codewords), -1)
  norms = (codewords**2 * per_sample).sum((1, 2, 3))
  for sides in sidematch.scan(out):
    penalty = _penalties(model, sides)
    x = tiles[sides.rows, sides.columns].reshape(len(sides.rows), -1).astype(np.float64)
    distance = norms - 2 * x @ words.T
    cost = distance if weight is None else distance + penalty / 256 - np.log2(counts)
    label = np.argmin(cost, 1)
    labels[sides.rows, sides.columns] = label
    table = sidematch.weights(penalty, counts)
    bits += float(coder.ideal_bits(label, table).sum())
    if writer is not None:
      writer.put(label, table)
    np.add.at(counts, label, _SEEN)
    sidematch.place(out, sides, codewords[label])
  return labels, bits, out


def read(reader: coder.Reader, height: int, width: int, codewords: Ints) -> blocks.Plane:
  """Decodes i32[H, W, C] from the indices that `choose` coded; sides are multiples of 4.

  Raises:
    CodecError: the data is damaged.
  """
  out = np.zeros((height, width, codewords.shape[-1]), np.int32)
  if len(codewords) == 1:
    tile = codewords[0].astype(np.int32)
    return np.tile(tile, (height // blocks.SIDE, width // blocks.SIDE, 1))
  model, counts = _model(codewords), np.full(len(codewords), _FIRST)
  for sides in sidematch.scan(out):
    label = reader.get(sidematch.weights(_penalties(model, sides), counts))
    np.add.at(counts, label, _SEEN)
    sidematch.place(out, sides, codewords[label])
  return out
