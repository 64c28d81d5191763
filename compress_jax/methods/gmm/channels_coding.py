"""gmm's files with the channel context: groups of latents in two passes of a checkerboard.

The order in the stream: hyper-latents by static tables; then group by group, of each the anchors
and then the other positions, row by row, in steps of at most `RUN` positions; of each position its
channels in turn. The networks of a step see all positions of the groups before, and those of the
second pass the anchors of their own.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.codec import CodecError, Latents
from compress_jax.exact import checkerboard, hyper, layers, mixture, rates, rdoq
from compress_jax.methods.gmm.geometry import HYPER_CELL, outputs_of_latent
from compress_jax.methods.gmm.serial_coding import seen

RUN = 2048  # Positions of a step: part of the format, and what bounds the memory of large images.


class Coding(NamedTuple):
  """All that decides a probability."""

  mixtures: int  # K
  views: int  # 2 where the networks see the latents' magnitudes beside them, else 1.
  latent_bits: int  # Fraction bits of the latents that the networks see.
  rates: rates.Rates
  prior: hyper.Prior  # Of the hyper-latents.
  hyper: layers.Network  # Hyper-latents to features f64[h, w, F].
  # Of each group, layers of single positions to scales, means and logits. The first one's inputs
  # are F features, the groups before at the 9 places of a 3x3 window, and the group's own latents
  # at the 12 anchors of a 5x5 window.
  groups: layers.Networks


class Group(NamedTuple):
  """The latents of one group."""

  start: int  # The first of their channels.
  stop: int
  rates: rates.Rates  # Of these channels.


# Called with the mixtures of a step, its positions and its channels; returns the symbols
# i64[n, C] that later steps see.
Code = Callable[[mixture.Mixture, np.ndarray, slice], np.ndarray]


def groups(coding: Coding) -> list[Group]:
  """The groups in the order in which they are coded."""
  each = outputs_of_latent(coding.mixtures)
  stops = np.cumsum([layers.ends(network)[1] // each for network in coding.groups]).tolist()
  return [
    Group(start, stop, rates.Rates(*(table[:, start:stop] for table in coding.rates)))
    for start, stop in zip([0, *stops], stops, strict=False)
  ]


def inputs(features: int, views: int, before: int, own: int) -> tuple[int, int, int]:
  """How many inputs of a group's first layer are features, groups before, and anchors."""
  return (
    features,
    len(checkerboard.WINDOW) * views * before,
    len(checkerboard.ANCHORS) * views * own,
  )


def check(coding: Coding) -> None:
  """Raises CodecError where the parts of a model do not fit together."""
  each = outputs_of_latent(coding.mixtures)
  features = layers.ends(coding.hyper)[1]
  fits = hyper.channels(coding.prior) == layers.ends(coding.hyper)[0] and bool(coding.groups)
  fits &= coding.mixtures >= 1 and coding.views in (1, 2)
  before = 0
  for network in coding.groups:
    known, outputs = layers.ends(network)
    own = outputs // max(each, 1)
    fits &= outputs == own * each > 0
    fits &= known == sum(inputs(features, coding.views, before, own))
    fits &= all(layer.kernel == 1 and not layer.shuffle for layer in network)
    before += own
  if not fits or before != rates.channels(coding.rates):
    raise CodecError('the networks of the model do not fit together')


def walk(
  coding: Coding, z: np.ndarray, shape: tuple[int, int], level: int, code: Code
) -> np.ndarray:
  """Visits all groups and passes in the order of the stream.

  Args:
    coding: of the model.
    z: i64[h', w', C'], the symbols of the hyper-latents.
    shape: (h, w) of the latents.
    level: 0..255.
    code: writes, reads or chooses the symbols of a step.

  Returns:
    i64[h, w, C], the symbols that `code` returned.
  """
  height, width = shape
  features = hyper.features(coding.hyper, z, coding.prior, shape).reshape(height * width, -1)
  channels = rates.channels(coding.rates)
  q = np.zeros((height * width, channels), np.int64)
  border = checkerboard.padded(height, width, channels)
  held = checkerboard.inner(border)
  for group, network in zip(groups(coding), coding.groups, strict=True):
    span = slice(group.start, group.stop)
    before = seen(border[..., : group.start], coding.views)
    for second, at in _steps(height, width):
      known = [features[at], checkerboard.gather(before, at, checkerboard.WINDOW)]
      if second:
        own = seen(border[..., span], coding.views)
        known.append(checkerboard.gather(own, at, checkerboard.ANCHORS))
      outputs = _run(network, np.concatenate(known, 1))
      predicted = rates.mixture_at(outputs, coding.mixtures, group.rates, level)
      q[at, span] = code(predicted, at, span)
      fixed = rates.fixed_point(q[at, span], group.rates, level, coding.latent_bits)
      rows, columns = np.divmod(at, width)
      held[rows, columns, span] = fixed
  return q.reshape(height, width, channels)


def _steps(height: int, width: int) -> Iterator[tuple[bool, np.ndarray]]:
  """Whether a step is of the second pass, and its positions i64[n]; a single latent has none."""
  for i, at in enumerate(checkerboard.passes(height, width)):
    for first in range(0, len(at), RUN):
      yield i == 1, at[first : first + RUN]


def _run(network: layers.Network, x: np.ndarray) -> np.ndarray:
  """The outputs f64[n, C] of a group's layers; inputs that are missing at the end are zeros."""
  first = network[0]._replace(weight=network[0].weight[: x.shape[1]])
  return functools.reduce(layers.dense, network[1:], layers.dense(x, first))


def write(coding: Coding, writer: coder.Writer, latents: Latents, level: int) -> None:
  """Codes latents and hyper-latents."""
  q = latents.q.reshape(-1, latents.q.shape[2])

  def code(predicted: mixture.Mixture, at: np.ndarray, span: slice) -> np.ndarray:
    mixture.write(writer, predicted, q[at, span].ravel())
    return q[at, span]

  hyper.write(writer, coding.prior, latents.z)
  walk(coding, latents.z, latents.q.shape[:2], level, code)


def decide(coding: Coding, latents: Latents, level: int, worth: float) -> Latents:
  """The latents with the symbols of `rdoq`, by the mixtures that the nearest ones would see."""
  assert latents.y is not None
  q = latents.q.reshape(-1, latents.q.shape[2])
  scaled = rates.scaled(latents.y, coding.rates, level).reshape(q.shape)
  found = q.copy()

  def code(predicted: mixture.Mixture, at: np.ndarray, span: slice) -> np.ndarray:
    own = q[at, span]
    chosen = rdoq.choose(predicted, own.ravel(), scaled[at, span].ravel(), worth)
    found[at, span] = chosen.reshape(own.shape)
    return own

  walk(coding, latents.z, latents.q.shape[:2], level, code)
  return latents._replace(q=found.reshape(latents.q.shape))


def read(
  coding: Coding, reader: coder.Reader, height: int, width: int, level: int
) -> tuple[Latents, Mapping[str, float]]:
  """The latents of an h x w grid, and the bits of each stream.

  Raises:
    CodecError: the data does not hold them.
  """
  z = hyper.read(reader, coding.prior, hyper.grid(height, width, HYPER_CELL))
  bits_z = reader.bits

  def code(predicted: mixture.Mixture, at: np.ndarray, span: slice) -> np.ndarray:
    return mixture.read(reader, predicted).reshape(len(at), span.stop - span.start)

  q = walk(coding, z, (height, width), level, code)
  return Latents(q, z), {'z': bits_z, 'y': reader.bits - bits_z}
