"""Coding of gmm's files with the channel context: groups in two passes of a checkerboard.

Hyper-latents come first in the stream, coded by static tables. The groups follow one by one: first
the anchors of a group, then its other positions, row by row, in steps of at most `RUN` positions.
The channels of a position follow each other. The networks of a step see all positions of the groups
before; in the second pass they also see the anchors of the same group. A group whose network has no
inputs for these is coded in one pass.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.codec import CodecError, Latents
from compress_jax.exact import checkerboard, export, hyper, layers, mixture, rates, rdoq
from compress_jax.methods.gmm.geometry import HYPER_CELL, outputs_of_latent
from compress_jax.methods.gmm.serial_coding import seen

Taps = tuple[tuple[int, int], ...]
_CENTRE: Taps = ((0, 0),)  # The offset of a position's own features.
LAYOUTS = mixture.SYMBOLS, mixture.BINS  # A model holds the index of its layout.
NEWEST = 1  # The layout of models that are exported now.
RUN = 2048  # Positions of a step: part of the format; it bounds the memory for large images.


class Coding(NamedTuple):
  """All that determines a probability."""

  mixtures: int  # K
  views: int  # 2 if the networks see the latents' magnitudes beside them, else 1.
  latent_bits: int  # Fraction bits of the latents that the networks see.
  rates: rates.Rates
  prior: hyper.Prior  # Tables of the hyper-latents.
  hyper: layers.Network  # Hyper-latents to features f64[h, w, F].
  # For each group, layers that predict scales, means and logits at single positions. The inputs of
  # the first layer are F features, the groups before at the 9 positions of a 3x3 window, and the
  # latents of the same group at the 12 anchors of a 5x5 window unless it is coded in one pass.
  groups: layers.Networks
  layout: int = 0  # The index of the tables' layout in LAYOUTS.
  # The largest magnitude of latents, as integers, that the networks see.
  latent_limit: int = export.WIDE.activation


class Group(NamedTuple):
  """The channels of one group of latents."""

  start: int  # The first channel.
  stop: int  # The last channel, exclusive.
  two_passes: bool  # Whether the second pass sees the anchors of the first; else there is one pass.
  rates: rates.Rates  # Gains of these channels.


class Part(NamedTuple):
  """Inputs of a first layer around every position, with their weights.

  The arrays are float32 if the weights are small and all sums of products are exact in it, else
  float64.
  """

  border: np.ndarray  # [H + 4, W + 4, C], as `checkerboard.padded` returns it.
  taps: Taps  # Offsets (row, column) of what is seen.
  weight: np.ndarray  # [len(taps) * C, Cout]


# Called with the mixtures of a step, its positions and its channels; returns the symbols
# i64[n, C] that later steps see.
Code = Callable[[mixture.Mixture, np.ndarray, slice], np.ndarray]


def groups(coding: Coding) -> list[Group]:
  """Returns the groups in the order in which they are coded."""
  each, features = outputs_of_latent(coding.mixtures), layers.ends(coding.hyper)[1]
  found: list[Group] = []
  for network in coding.groups:
    known, outputs = layers.ends(network)
    start = found[-1].stop if found else 0
    stop = start + outputs // each
    two_passes = known > sum(inputs(features, coding.views, start, 0))
    table = rates.Rates(*(table[:, start:stop] for table in coding.rates))
    found.append(Group(start, stop, two_passes, table))
  return found


def inputs(features: int, views: int, before: int, own: int) -> tuple[int, int, int]:
  """Returns the numbers of features, of groups before and of anchors in a first layer's inputs."""
  return (
    features,
    len(checkerboard.WINDOW) * views * before,
    len(checkerboard.ANCHORS) * views * own,
  )


def check(coding: Coding) -> None:
  """Raises CodecError if the parts of a model do not fit together."""
  each = outputs_of_latent(coding.mixtures)
  features = layers.ends(coding.hyper)[1]
  fits = hyper.channels(coding.prior) == layers.ends(coding.hyper)[0] and bool(coding.groups)
  fits &= coding.mixtures >= 1 and coding.views in (1, 2) and coding.layout in range(len(LAYOUTS))
  fits &= 0 < coding.latent_limit <= export.WIDE.activation
  fits &= coding.hyper[-1].limit < layers.EXACT32
  before = 0
  for network in coding.groups:
    known, outputs = layers.ends(network)
    own = outputs // max(each, 1)
    fits &= outputs == own * each > 0
    fits &= known in {sum(inputs(features, coding.views, before, seen)) for seen in (0, own)}
    fits &= all(layer.kernel == 1 and not layer.shuffle for layer in network)
    before += own
  if not fits or before != rates.channels(coding.rates):
    raise CodecError('the networks of the model do not fit together')


def walk(
  coding: Coding, z: np.ndarray, shape: tuple[int, int], level: int, code: Code
) -> np.ndarray:
  """Visits all groups and passes in the order of the stream.

  Args:
    coding: the integers of the model.
    z: i64[h', w', C'], the symbols of the hyper-latents.
    shape: (h, w) of the latents.
    level: 0..255.
    code: writes, reads or chooses the symbols of a step.

  Returns:
    i64[h, w, C], the symbols that `code` returned.
  """
  height, width = shape
  channels = rates.channels(coding.rates)
  features = checkerboard.padded(height, width, layers.ends(coding.hyper)[1])
  checkerboard.inner(features)[:] = hyper.features(coding.hyper, z, coding.prior, shape)
  q = np.zeros((height * width, channels), np.int64)
  border = checkerboard.padded(height, width, channels)
  held = checkerboard.inner(border)
  for group, network in zip(groups(coding), coding.groups, strict=True):
    span = slice(group.start, group.stop)
    counts = inputs(features.shape[2], coding.views, group.start, 0)
    of_features, of_before, of_own = np.split(network[0].weight, np.cumsum(counts[:2]))
    parts = _parts(features, _CENTRE, of_features)
    if group.start:
      before = border[..., : group.start]
      parts.extend(_parts(before, checkerboard.WINDOW, of_before, coding.views))
    everywhere = np.arange(height * width)
    passes = checkerboard.passes(height, width) if group.two_passes else (everywhere,)
    for second, positions in enumerate(passes):
      if second:
        parts.extend(_parts(border[..., span], checkerboard.ANCHORS, of_own, coding.views))
      for at in _steps(positions):
        predicted = rates.mixture_at(
          predict(network, parts, at), coding.mixtures, group.rates, level
        )
        q[at, span] = code(predicted, at, span)
        held[(*np.divmod(at, width), span)] = rates.fixed_point(
          q[at, span], group.rates, level, coding.latent_bits, coding.latent_limit
        )
  return q.reshape(height, width, channels)


def _steps(positions: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the positions i64[n] of each step of a pass."""
  for first in range(0, len(positions), RUN):
    yield positions[first : first + RUN]


def _parts(latents: np.ndarray, taps: Taps, weight: np.ndarray, views: int = 1) -> list[Part]:
  """Returns the parts of f64[H + 4, W + 4, C], without channels that are all zero.

  Taps of small weights are grouped into parts whose sums are exact in float32. Taps that alone
  exceed that form one part in float64.
  """
  used = np.flatnonzero(latents.any((0, 1)))
  rows = np.arange(len(weight)).reshape(-1, latents.shape[2])[:, used]
  weight = weight.take(rows.ravel(), 0)
  # The conversion is exact: `check` demands that features and latents are below 2^24.
  border = seen(latents.take(used, 2).astype(weight.dtype, copy=False), views)
  if weight.dtype == np.float64:
    return [Part(border, taps, weight)]
  of_taps = np.split(weight, len(taps))
  bounds = _largest_sums(border, np.stack([layers.peaks(some) for some in of_taps], 1))
  large = np.flatnonzero(bounds >= layers.EXACT32)
  chosen: list[tuple[list[int], type]] = [(run, np.float32) for run in _runs(bounds)]
  chosen += [(large.tolist(), np.float64)] if large.size else []
  return [
    Part(
      border.astype(kind, copy=False),
      tuple(taps[i] for i in run),
      np.concatenate([of_taps[i] for i in run]).astype(kind, copy=False),
    )
    for run, kind in chosen
  ]


def _largest_sums(border: np.ndarray, peaks: np.ndarray) -> np.ndarray:
  """Returns the largest values f64[T] of |border| * peaks over all positions.

  Args:
    border: [H + 4, W + 4, C].
    peaks: f64[C, T].
  """
  rows = max(1, RUN // border.shape[1])
  bands = (border[top : top + rows] for top in range(0, len(border), rows))
  return np.max([(np.abs(band) @ peaks).max((0, 1)) for band in bands], 0)


def _runs(bounds: np.ndarray) -> Iterator[list[int]]:
  """Yields the indices of numbers below 2^24, in runs that add up to less than 2^24."""
  run: list[int] = []
  for i in np.flatnonzero(bounds < layers.EXACT32).tolist():
    if bounds[[*run, i]].sum() >= layers.EXACT32:
      yield run
      run = []
    run.append(i)
  if run:
    yield run


def predict(network: layers.Network, parts: Sequence[Part], at: np.ndarray) -> np.ndarray:
  """Returns the outputs f64[n, C] of a group's layers at positions i64[n].

  Inputs of the first layer that belong to no part count as zero.
  """
  products = np.zeros((len(at), network[0].bias.size))
  for part in parts:
    products += checkerboard.gather(part.border, at, part.taps) @ part.weight
  return functools.reduce(layers.dense, network[1:], layers.outputs(products, network[0]))


def write(coding: Coding, writer: coder.Writer, latents: Latents, level: int) -> None:
  """Codes latents and hyper-latents."""
  q = latents.q.reshape(-1, latents.q.shape[2])

  def code(predicted: mixture.Mixture, at: np.ndarray, span: slice) -> np.ndarray:
    mixture.write(writer, predicted, q[at, span].ravel(), LAYOUTS[coding.layout])
    return q[at, span]

  hyper.write(writer, coding.prior, latents.z)
  walk(coding, latents.z, latents.q.shape[:2], level, code)


def decide(coding: Coding, latents: Latents, level: int, worth: float) -> Latents:
  """Returns the latents with symbols chosen by rate and distortion, as in `exact.rdoq`.

  The mixtures are those that the nearest symbols lead to.
  """
  assert latents.y is not None
  q = latents.q.reshape(-1, latents.q.shape[2])
  scaled = rates.scaled(latents.y, coding.rates, level).reshape(q.shape)
  decided = q.copy()

  def code(predicted: mixture.Mixture, at: np.ndarray, span: slice) -> np.ndarray:
    nearest = q[at, span]
    chosen = rdoq.choose(predicted, nearest.ravel(), scaled[at, span].ravel(), worth)
    decided[at, span] = chosen.reshape(nearest.shape)
    return nearest

  walk(coding, latents.z, latents.q.shape[:2], level, code)
  return latents._replace(q=decided.reshape(latents.q.shape))


def read(
  coding: Coding, reader: coder.Reader, height: int, width: int, level: int
) -> tuple[Latents, Mapping[str, float]]:
  """Returns the latents of an h x w grid, and the bits of each stream.

  Raises:
    CodecError: the data does not hold them.
  """
  z = hyper.read(reader, coding.prior, hyper.grid(height, width, HYPER_CELL))
  bits_z = reader.bits

  def code(predicted: mixture.Mixture, at: np.ndarray, span: slice) -> np.ndarray:
    symbols = mixture.read(reader, predicted, LAYOUTS[coding.layout])
    return symbols.reshape(len(at), span.stop - span.start)

  q = walk(coding, z, (height, width), level, code)
  return Latents(q, z), {'z': bits_z, 'y': reader.bits - bits_z}
