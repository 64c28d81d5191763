"""Coding of planes by a shipped codebook: the shape of each block, then its mean.

The shape (the block minus its mean) is a codeword. Its probability depends on how
well it continues the blocks around it. The mean is predicted as the one that makes
the chosen shape fit best; the difference is coded in the context of the remaining
misfit, which is small where the picture is smooth and large across an edge.
"""

from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.methods.kmeans import blocks, sidematch

Ints = np.ndarray
MISFITS = 10  # Classes of the remaining misfit, one per octave of variance.
_CANDIDATES = 4  # Shapes per block whose means the encoder tries.
_MIDDLE = 128


class Shapes(NamedTuple):
  """The integer model of one luma plane (C = 1) or two chroma planes (C = 2)."""

  codewords: Ints  # i64[K, 4, 4, C], zero mean up to rounding; the first is flat.
  counts: np.ndarray  # f64[contexts, K]: counts of each shape in each context.
  means: np.ndarray  # f64[C, MISFITS, 2 R + 1]: counts of mean differences -R..R.
  step: int  # Quantiser step of the mean difference.
  alpha: int  # Exponent of the side match, in quarters; see `sidematch.Match`.
  tau: int  # Offset of the mismatch; see `sidematch.Match`.
  seen: float  # Count that each use adds to `counts`.


class Statistics(NamedTuple):
  """Sums over the blocks of planes, from which training updates the model."""

  uses: np.ndarray  # f64[contexts, K]
  expected: np.ndarray  # f64[contexts, K]: the uses that the model predicted.
  differences: np.ndarray  # f64[C, MISFITS, 2 R + 1]
  sums: np.ndarray  # f64[K, 16 C]: sums of the shapes that each codeword stood for.


class Choice(NamedTuple):
  """The encoder's labels for the blocks of one plane, their bits, and the decoded plane."""

  labels: Ints  # i64[H/4, W/4]
  bits: float
  plane: blocks.Plane  # Decoded.


def is_sound(model: Shapes, channels: int, contexts: int) -> bool:
  """Returns whether the shapes of all arrays fit together and every count is positive."""
  size = len(model.codewords)
  return (
    size > 1
    and model.step > 0
    and model.tau > 0
    and model.alpha > 0
    and model.codewords.shape == (size, blocks.SIDE, blocks.SIDE, channels)
    and model.counts.shape == (contexts, size)
    and model.means.shape == (channels, MISFITS, 2 * reach(model.step) + 1)
    and bool((model.counts > 0).all() and (model.means > 0).all())
  )


def reach(step: int) -> int:
  """Returns R, the largest difference of means in steps: differences lie in -R..R."""
  return 255 // step + 1


def _match(model: Shapes) -> sidematch.Match:
  return sidematch.match(model.codewords, alpha=model.alpha, tau=model.tau, remove_mean=True)


def _context(labels: Ints, extra: Ints, sides: sidematch.Sides) -> Ints:
  """Returns i64[n]: the number of left and upper shapes that are not flat, plus 3 * `extra`."""
  r, c = sides.rows, sides.columns
  left = np.where(c > 0, labels[r, c - 1] > 0, 0)
  above = np.where(r > 0, labels[r - 1, c] > 0, 0)
  return left + above + 3 * extra[r, c]


def _predict(match: sidematch.Match, sides: sidematch.Sides, label: Ints) -> Ints:
  """Returns i64[n, ..., C], the mean that fits best, for labels i64[n, ...]."""
  known = sides.known.reshape(-1, *[1] * (label.ndim - 1), 1)
  pixels = sides.pixels.sum(1).reshape(len(label), *[1] * (label.ndim - 1), -1)
  halves = match.edges.reshape(len(match.edges), 2, blocks.SIDE, -1).sum(2)[label]
  gap = pixels - (known & 1) * halves[..., 0, :] - (known >> 1) * halves[..., 1, :]
  shift = 3 + (known == 3)  # 4 or 8 pixels in half grey levels.
  mean = np.where(known == 0, _MIDDLE, (gap + (1 << shift - 1)) >> shift)
  return np.clip(mean, 0, 255)


def _misfit(mismatch: np.ndarray) -> Ints:
  """Returns the octave of the remaining variance; mismatches are 256 times variances."""
  exponent = (mismatch + 256).astype(np.float32).view(np.int32) >> 23
  return np.minimum(exponent - 135, MISFITS - 1)


def _place(model: Shapes, label: Ints, mean: Ints) -> Ints:
  return np.clip(model.codewords[label] + mean[:, None, None], 0, 255)


class _Costs(NamedTuple):
  """Arrays of a model that the encoder's search reads."""

  words: np.ndarray  # f64[16 C, K], weighted.
  norms: np.ndarray  # f64[K], weighted squared lengths.
  mean_bits: np.ndarray  # f64[C, MISFITS, 2 R + 1]


def _costs(model: Shapes, weight: np.ndarray) -> _Costs:
  words = (model.codewords * weight).reshape(len(model.codewords), -1)
  norms = (model.codewords**2 * weight).sum((1, 2, 3))
  mean_bits = -np.log2(model.means / model.means.sum(-1, keepdims=True))
  return _Costs(words.T.astype(np.float64), norms, mean_bits)


def _best_difference(
  model: Shapes, gap: np.ndarray, price: np.ndarray, bits: np.ndarray
) -> tuple[Ints, np.ndarray]:
  """Returns levels i64[n, M, C] and costs f64[n, M] for mean gaps f64[n, M, C].

  `bits` is f64[n, M, C, 2 R + 1]. The nearest level, one less and zero are tried.
  """
  r = reach(model.step)
  nearest = np.clip(np.rint(gap / model.step), -r, r).astype(np.int64)
  candidates = np.stack([nearest, nearest - np.sign(nearest), np.zeros_like(nearest)])
  rate = np.take_along_axis(bits, np.moveaxis(candidates, 0, -1) + r, -1)
  cost = price * (gap - model.step * candidates) ** 2 + np.moveaxis(rate, -1, 0)
  best = np.argmin(cost, 0)[None]
  level = np.take_along_axis(candidates, best, 0)[0]
  return level, np.take_along_axis(cost, best, 0)[0].sum(-1)


def _least(cost: np.ndarray, count: int) -> Ints:
  """Returns i64[n, count], the columns of the smallest values of f64[n, K], smallest first."""
  remaining, n, out = cost.copy(), np.arange(len(cost)), []
  for _ in range(count):
    out.append(np.argmin(remaining, 1))
    remaining[n, out[-1]] = np.inf
  return np.stack(out, 1)


def choose(
  plane: blocks.Plane,
  model: Shapes,
  extra: Ints,
  weight: np.ndarray,
  writer: coder.Writer | None = None,
  statistics: Statistics | None = None,
) -> Choice:
  """Codes i32[H, W, C], each block by the shape and mean of least cost.

  Args:
    plane: sides multiples of 4.
    model: the codewords and counts that decide the probabilities.
    extra: i64[H/4, W/4], a class of each block that the decoder knows too.
    weight: f64[C], bits per unit of squared error of a channel's sample.
    writer: codes the symbols; None only counts their bits.
    statistics: sums to add to, in place.
  """
  tiles, out = blocks.to_blocks(plane), np.zeros_like(plane)
  mean = tiles.mean((2, 3))
  centred = (tiles - mean[:, :, None, None]).reshape(*mean.shape[:2], -1)
  match, costs, counts = _match(model), _costs(model, weight), model.counts.copy()
  labels, bits = np.zeros(tiles.shape[:2], np.int64), 0.0
  channel = np.arange(plane.shape[2])
  top = min(_CANDIDATES, len(model.codewords))
  for sides in sidematch.scan(out):
    at = sides.rows, sides.columns
    n = np.arange(len(sides.rows))
    context = _context(labels, extra, sides)
    mismatch = sidematch.mismatches(match, sides, remove_mean=True)
    penalty = sidematch.penalties(match, mismatch)
    cost = costs.norms - 2 * centred[at] @ costs.words + penalty / 256 - np.log2(counts[context])
    likely = _least(cost, top)
    predicted = _predict(match, sides, likely)
    misfit = _misfit(np.take_along_axis(mismatch, likely, 1))
    level, mean_cost = _best_difference(
      model,
      mean[at][:, None] - predicted,
      16 * weight,
      costs.mean_bits[channel, misfit[..., None]],
    )
    pick = np.argmin(np.take_along_axis(cost, likely, 1) + mean_cost, 1)
    label, misfit, level = likely[n, pick], misfit[n, pick], level[n, pick]
    table = sidematch.weights(penalty, counts[context])
    bits += float(coder.ideal_bits(label, table).sum())
    symbols = level + reach(model.step)
    bits += float(costs.mean_bits[channel, misfit[:, None], symbols].sum())
    if writer is not None:
      writer.put(label, table)
      for c in channel:
        writer.put(symbols[:, c], model.means[c, misfit])
    if statistics is not None:
      _learn(statistics, context, label, table, misfit, symbols, centred[at])
    np.add.at(counts, (context, label), model.seen)
    labels[at] = label
    decoded = np.clip(predicted[n, pick] + model.step * level, 0, 255)
    sidematch.place(out, sides, _place(model, label, decoded))
  return Choice(labels, bits, out)


def no_statistics(model: Shapes) -> Statistics:
  """Returns statistics of zeros."""
  zeros = np.zeros_like(model.counts)
  sums = np.zeros((len(model.codewords), model.codewords[0].size))
  return Statistics(zeros, zeros.copy(), np.zeros_like(model.means), sums)


def _learn(
  statistics: Statistics,
  context: Ints,
  label: Ints,
  table: coder.Tables,
  misfit: Ints,
  symbols: Ints,
  centred: np.ndarray,
) -> None:
  channel = np.arange(symbols.shape[-1])
  np.add.at(statistics.uses, (context, label), 1)
  np.add.at(statistics.expected, context, table / table.sum(-1, keepdims=True))
  np.add.at(statistics.differences, (channel, misfit[:, None], symbols), 1)
  np.add.at(statistics.sums, label, centred)


def read(
  reader: coder.Reader, height: int, width: int, model: Shapes, extra: Ints
) -> tuple[Ints, blocks.Plane]:
  """Decodes labels and the plane i32[H, W, C] that `choose` coded; sides are multiples of 4.

  Raises:
    CodecError: the data is damaged.
  """
  channels = model.codewords.shape[-1]
  out = np.zeros((height, width, channels), np.int32)
  labels = np.zeros((height // blocks.SIDE, width // blocks.SIDE), np.int64)
  match, counts = _match(model), model.counts.copy()
  for sides in sidematch.scan(out):
    n = np.arange(len(sides.rows))
    context = _context(labels, extra, sides)
    mismatch = sidematch.mismatches(match, sides, remove_mean=True)
    table = sidematch.weights(sidematch.penalties(match, mismatch), counts[context])
    label = reader.get(table)
    misfit = _misfit(mismatch[n, label])
    symbols = [reader.get(model.means[c, misfit]) for c in range(channels)]
    level = np.stack(symbols, -1) - reach(model.step)
    decoded = np.clip(_predict(match, sides, label) + model.step * level, 0, 255)
    np.add.at(counts, (context, label), model.seen)
    labels[sides.rows, sides.columns] = label
    sidematch.place(out, sides, _place(model, label, decoded))
  return labels, out
