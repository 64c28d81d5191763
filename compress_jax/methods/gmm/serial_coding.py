"""Coding of gmm's files: hyper-latents by static tables, then latents along a wavefront.

In a step of the wavefront the first slice of latents is coded at all positions, then the next.
"""

import itertools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from compress_jax import coder
from compress_jax.codec import CodecError, Latents
from compress_jax.exact import hyper, layers, mixture, packed, rates, rdoq, wavefront
from compress_jax.methods.gmm.geometry import HYPER_CELL, outputs_of_latent

_BATCH = 2048  # Positions whose mixtures the encoder predicts at a time.


class Coding(NamedTuple):
  """All that determines a probability."""

  mixtures: int  # K
  latent_bits: int  # Fraction bits of the latents that the networks see.
  rates: rates.Rates
  prior: hyper.Prior  # Tables of the hyper-latents.
  hyper: layers.Network  # Hyper-latents to features f64[h, w, 2C].
  context: layers.Network  # One layer: neighbours f64[n, 12 C] to features f64[n, 2C].
  # Both features, side by side, to scales, means and logits of the first slice of latents.
  parameters: layers.Network
  # The same of the other slices, from both features and the latents of the slices before.
  later: layers.Networks = ()


class Slice(NamedTuple):
  """The channels of latents of a position that are coded together."""

  start: int  # The first channel.
  stop: int  # The last channel, exclusive.
  rates: rates.Rates  # Gains of these channels.


def slices(coding: Coding) -> list[Slice]:
  """Returns the slices in the order in which they are coded."""
  each = outputs_of_latent(coding.mixtures)
  sizes = [layers.ends(network)[1] // each for network in _networks(coding)]
  stops = np.cumsum(sizes).tolist()
  spans = [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
  return [
    Slice(span.start, span.stop, rates.Rates(*(table[:, span] for table in coding.rates)))
    for span in spans
  ]


def _networks(coding: Coding) -> layers.Networks:
  return (coding.parameters, *coding.later)


def _views(coding: Coding) -> int:
  """Returns 2 if the networks see the latents' magnitudes beside them, else 1."""
  return layers.ends(coding.context)[0] // (len(wavefront.TAPS) * rates.channels(coding.rates))


def seen(latents: np.ndarray, views: int) -> np.ndarray:
  """Returns latents f64[..., C] as the networks see them; with magnitudes they are f64[..., 2C]."""
  return latents if views == 1 else np.concatenate([latents, np.abs(latents)], -1)


def check(coding: Coding) -> None:
  """Raises CodecError if the parts of a model do not fit together."""
  n, k = rates.channels(coding.rates), coding.mixtures
  each, views = max(outputs_of_latent(k), 1), _views(coding)
  known = layers.ends(coding.hyper)[1] + layers.ends(coding.context)[1]
  fits = hyper.channels(coding.prior) == layers.ends(coding.hyper)[0]
  fits &= layers.ends(coding.context)[0] == len(wavefront.TAPS) * n * views
  fits &= len(coding.context) == 1 and views in (1, 2) and k >= 1
  before = 0
  for network in _networks(coding):
    inputs, outputs = layers.ends(network)
    fits &= inputs == known + views * before and outputs % each == 0
    before += outputs // each
  single = itertools.chain(coding.context, *_networks(coding))
  if not fits or before != n or any(layer.kernel != 1 for layer in single):
    raise CodecError('the networks of the model do not fit together')


def predict(
  coding: Coding, features: np.ndarray, neighbours: np.ndarray, own: np.ndarray, level: int
) -> list[mixture.Mixture]:
  """Returns the mixtures of many positions, for each slice.

  Args:
    coding: the integers of the model.
    features: f64[n, 2C], the output of the hyper-synthesis.
    neighbours: f64[n, 12 C], the inputs of the context, as `seen` returns them.
    own: f64[n, C], latents of these positions as `rates.fixed_point` returns them.
    level: 0..255.
  """
  known = np.concatenate([features, layers.dense(neighbours, coding.context[0])], 1)
  mixtures = []
  for network, part in zip(_networks(coding), slices(coding), strict=True):
    outputs = _beside(known, own[:, : part.start], _views(coding))
    for layer in network:
      outputs = layers.dense(outputs, layer)
    mixtures.append(rates.mixture_at(outputs, coding.mixtures, part.rates, level))
  return mixtures


def _beside(known: np.ndarray, before: np.ndarray, views: int) -> np.ndarray:
  """Returns the inputs of the parameter network of a slice."""
  return np.concatenate([known, seen(before, views)], 1) if before.shape[1] else known


class Stepwise(NamedTuple):
  """The networks of decoding, in the layout for few positions at a time."""

  context: tuple[packed.Packed, ...]
  parameters: tuple[tuple[packed.Packed, ...], ...]
  slices: list[Slice]
  views: int


def stepwise(coding: Coding) -> Stepwise:
  """Returns the networks that run at every step of decoding, in the layout of `packed`."""
  networks = tuple(packed.pack(network) for network in _networks(coding))
  return Stepwise(packed.pack(coding.context), networks, slices(coding), _views(coding))


def see_step(nets: Stepwise, features: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
  """Returns the inputs that all slices of a few positions share: both features side by side."""
  return np.concatenate([features, packed.run(nets.context, neighbours)], 1)


def predict_step(
  coding: Coding, nets: Stepwise, index: int, known: np.ndarray, own: np.ndarray, level: int
) -> mixture.Mixture:
  """Returns the mixtures of one slice, equal to those of `predict` but faster for few positions.

  Args:
    coding: the integers of the model.
    nets: its networks.
    index: the index of the slice.
    known: the inputs that `see_step` returns.
    own: f64[n, C], the latents of these positions; only slices before this one are used.
    level: 0..255.
  """
  part = nets.slices[index]
  outputs = packed.run(nets.parameters[index], _beside(known, own[:, : part.start], nets.views))
  return rates.mixture_at(outputs, coding.mixtures, part.rates, level)


def write(coding: Coding, writer: coder.Writer, latents: Latents, level: int) -> None:
  """Codes latents and hyper-latents."""
  height, width, _ = latents.q.shape
  hyper.write(writer, coding.prior, latents.z)
  features = hyper.features(coding.hyper, latents.z, coding.prior, (height, width))
  y = rates.fixed_point(latents.q, coding.rates, level, coding.latent_bits)
  border = wavefront.padded(seen(y, _views(coding)))
  rows, columns, bounds = wavefront.order(height, width)
  parts = slices(coding)
  for first, last in pairwise(_cuts(bounds)):  # Nothing here depends on how steps group.
    span = slice(bounds[first], bounds[last])
    at = rows[span], columns[span]
    predicted = predict(coding, features[at], wavefront.gather(border, *at), y[at], level)
    places, steps = _stream_order(bounds[first : last + 1] - bounds[first], parts)
    fields = zip(*predicted, strict=True)
    models = mixture.Mixture(*(np.concatenate(field)[places] for field in fields))
    symbols = [latents.q[at][:, part.start : part.stop].ravel() for part in parts]
    mixture.write_steps(writer, models, np.concatenate(symbols)[places], steps)


def decide(coding: Coding, latents: Latents, level: int, worth: float) -> Latents:
  """Returns the latents with symbols chosen by rate and distortion, as in `exact.rdoq`.

  The mixtures are those that the nearest symbols lead to.
  """
  assert latents.y is not None
  height, width, _ = latents.q.shape
  features = hyper.features(coding.hyper, latents.z, coding.prior, (height, width))
  fixed = rates.fixed_point(latents.q, coding.rates, level, coding.latent_bits)
  border = wavefront.padded(seen(fixed, _views(coding)))
  scaled = rates.scaled(latents.y, coding.rates, level)
  rows, columns, _ = wavefront.order(height, width)
  q = latents.q.copy()
  for first in range(0, height * width, _BATCH):
    at = rows[first : first + _BATCH], columns[first : first + _BATCH]
    predicted = predict(coding, features[at], wavefront.gather(border, *at), fixed[at], level)
    for model, part in zip(predicted, slices(coding), strict=True):
      own = (*at, slice(part.start, part.stop))
      chosen = rdoq.choose(model, latents.q[own].ravel(), scaled[own].ravel(), worth)
      q[own] = chosen.reshape(-1, part.stop - part.start)
  return latents._replace(q=q)


def _stream_order(bounds: np.ndarray, parts: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the order in the stream of symbols that are stored slice by slice.

  In the stream, steps follow each other, and in each step the slices.

  Args:
    bounds: i64[steps + 1], positions at which steps begin.
    parts: the slices.

  Returns:
    The places i64[n] of symbols in the concatenation of all slices, and the indices
    i64[steps * slices + 1] among them at which the slices of steps begin.
  """
  sizes = np.array([part.stop - part.start for part in parts])
  counts = np.outer(np.diff(bounds), sizes).ravel()  # Symbols of every slice of every step.
  starts = np.add.outer(bounds[:-1], np.zeros_like(sizes)) * sizes
  starts += bounds[-1] * np.array([part.start for part in parts])
  ends = np.append(0, np.cumsum(counts))
  places = np.arange(ends[-1]) + np.repeat(starts.ravel() - ends[:-1], counts)
  return places, ends


def _cuts(bounds: np.ndarray) -> list[int]:
  """Returns the ends of runs of steps that have about _BATCH positions each."""
  cuts = [0]
  while cuts[-1] < len(bounds) - 1:
    end = int(np.searchsorted(bounds, bounds[cuts[-1]] + _BATCH, 'right')) - 1
    cuts.append(max(end, cuts[-1] + 1))
  return cuts


def read(
  coding: Coding, reader: coder.Reader, height: int, width: int, level: int
) -> tuple[Latents, Mapping[str, float]]:
  """Returns the latents of an h x w grid, and the bits of each stream.

  Raises:
    CodecError: the data does not hold them.
  """
  z = hyper.read(reader, coding.prior, hyper.grid(height, width, HYPER_CELL))
  bits_z = reader.bits
  features = hyper.features(coding.hyper, z, coding.prior, (height, width))
  q = np.zeros((height, width, coding.rates.gain.shape[1]), np.int64)
  nets = stepwise(coding)
  border = wavefront.padded(seen(q.astype(np.float64), nets.views))
  inner = border[wavefront.BORDER :, wavefront.BORDER : -wavefront.BORDER]
  rows, columns, bounds = wavefront.order(height, width)
  for start, stop in pairwise(bounds):
    at = rows[start:stop], columns[start:stop]
    known = see_step(nets, features[at], wavefront.gather(border, *at))
    symbols = np.zeros((stop - start, q.shape[2]), np.int64)
    own = np.zeros(symbols.shape)
    for i, part in enumerate(nets.slices):
      predicted = predict_step(coding, nets, i, known, own, level)
      span = slice(part.start, part.stop)
      symbols[:, span] = mixture.read(reader, predicted).reshape(stop - start, -1)
      own[:, span] = rates.fixed_point(symbols[:, span], part.rates, level, coding.latent_bits)
    q[at] = symbols
    inner[at] = seen(own, nets.views)
  return Latents(q, z), {'z': bits_z, 'y': reader.bits - bits_z}
