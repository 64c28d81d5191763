"""gmm's files: hyper-latents by static tables, then latents along the context's wavefront.

In a step of the wavefront all positions code their first slice of latents, then the next.
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
  """All that decides a probability."""

  mixtures: int  # K
  latent_bits: int  # Fraction bits of the latents that the networks see.
  rates: rates.Rates
  prior: hyper.Prior  # Of the hyper-latents.
  hyper: layers.Network  # Hyper-latents to features f64[h, w, 2C].
  context: layers.Network  # One layer: neighbours f64[n, 12 C] to features f64[n, 2C].
  # Both features, side by side, to scales, means and logits of the first slice of latents.
  parameters: layers.Network
  # The same of the other slices, from both features and the latents of the slices before.
  later: layers.Networks = ()


class Slice(NamedTuple):
  """Latents of a position that are coded at a time."""

  start: int  # The first of their channels.
  stop: int
  rates: rates.Rates  # Of these channels.


def slices(coding: Coding) -> list[Slice]:
  """In the order in which they are coded."""
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
  """2 where the networks see the latents' magnitudes beside them, else 1."""
  return layers.ends(coding.context)[0] // (len(wavefront.TAPS) * rates.channels(coding.rates))


def seen(latents: np.ndarray, views: int) -> np.ndarray:
  """Latents f64[..., C] as networks see them: f64[..., C], or with magnitudes f64[..., 2C]."""
  return latents if views == 1 else np.concatenate([latents, np.abs(latents)], -1)


def check(coding: Coding) -> None:
  """Raises CodecError where the parts of a model do not fit together."""
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
  """The mixtures of many positions, of each slice.

  Args:
    coding: of the model.
    features: f64[n, 2C] of the hyper-synthesis.
    neighbours: f64[n, 12 C] as `seen`, what the context sees.
    own: f64[n, C], latents of these positions as `rates.fixed_point` gives them.
    level: 0..255.
  """
  known = np.concatenate([features, layers.dense(neighbours, coding.context[0])], 1)
  found = []
  for network, part in zip(_networks(coding), slices(coding), strict=True):
    outputs = _beside(known, own[:, : part.start], _views(coding))
    for layer in network:
      outputs = layers.dense(outputs, layer)
    found.append(rates.mixture_at(outputs, coding.mixtures, part.rates, level))
  return found


def _beside(known: np.ndarray, before: np.ndarray, views: int) -> np.ndarray:
  """What the parameter network of a slice sees."""
  return np.concatenate([known, seen(before, views)], 1) if before.shape[1] else known


class Stepwise(NamedTuple):
  """What decoding computes with, laid out for few positions at a time."""

  context: tuple[packed.Packed, ...]
  parameters: tuple[tuple[packed.Packed, ...], ...]
  slices: list[Slice]
  views: int


def stepwise(coding: Coding) -> Stepwise:
  """Lays out the networks that run at every step of decoding."""
  networks = tuple(packed.pack(network) for network in _networks(coding))
  return Stepwise(packed.pack(coding.context), networks, slices(coding), _views(coding))


def see_step(nets: Stepwise, features: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
  """What all slices of a few positions see: both features side by side."""
  return np.concatenate([features, packed.run(nets.context, neighbours)], 1)


def predict_step(
  coding: Coding, nets: Stepwise, index: int, known: np.ndarray, own: np.ndarray, level: int
) -> mixture.Mixture:
  """The same integers as `predict` for one slice, sooner for few positions.

  Args:
    coding: of the model.
    nets: its networks.
    index: of the slice.
    known: of `see_step`.
    own: f64[n, C], of which the latents of the slices before are known.
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
  """With the symbols of `rdoq`, by the mixtures that the nearest ones would be coded with."""
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
  """Step by step, in each slice by slice, what is there slice by slice.

  Args:
    bounds: i64[steps + 1], positions where steps begin.
    parts: the slices.

  Returns:
    places i64[n] in the symbols of all slices one after the other, and where the slices
    of steps begin among them: i64[steps * slices + 1].
  """
  sizes = np.array([part.stop - part.start for part in parts])
  counts = np.outer(np.diff(bounds), sizes).ravel()  # Symbols of every slice of every step.
  starts = np.add.outer(bounds[:-1], np.zeros_like(sizes)) * sizes
  starts += bounds[-1] * np.array([part.start for part in parts])
  ends = np.append(0, np.cumsum(counts))
  places = np.arange(ends[-1]) + np.repeat(starts.ravel() - ends[:-1], counts)
  return places, ends


def _cuts(bounds: np.ndarray) -> list[int]:
  """Ends of runs of steps that have about _BATCH positions each."""
  cuts = [0]
  while cuts[-1] < len(bounds) - 1:
    end = int(np.searchsorted(bounds, bounds[cuts[-1]] + _BATCH, 'right')) - 1
    cuts.append(max(end, cuts[-1] + 1))
  return cuts


def read(
  coding: Coding, reader: coder.Reader, height: int, width: int, level: int
) -> tuple[Latents, Mapping[str, float]]:
  """The latents of an h x w grid, and the bits of each stream.

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
