"""The files of the learned methods: latents come back, and predictions are those of the floats."""

import numpy as np
import pytest
from scipy import special

from compress_jax import coder
from compress_jax.codec import CodecError, Latents
from compress_jax.exact import export, hyper, mixture, rates, tables
from compress_jax.methods.cae import coding as cae
from compress_jax.methods.gan import coding as gan
from compress_jax.methods.gmm import channels_coding, serial_coding
from tests.helpers.codings import (
  CHANNELS,
  GMMS,
  HYPER,
  MODULES,
  C,
  tiny,
)

LIMIT = 32767
SHAPES = [(1, 1), (1, 9), (6, 1), (5, 7), (13, 4)]


CODINGS = {name: tiny(name) for name in MODULES}


def random_latents(name, shape, seed=0, *, extremes=0.0):
  rng = np.random.default_rng(seed)
  grid = (0, 0, 0) if name == 'cae' else (*hyper.grid(*shape, 4), HYPER)
  fields = []
  for size in ((*shape, C), grid):
    values = np.rint(rng.normal(0, 3, size)).astype(np.int64)
    wild = rng.choice([LIMIT, -LIMIT, 1000, -129], size)
    fields.append(np.where(rng.random(size) < extremes, wild, values))
  return Latents(*fields)


def written(name, latents, level):
  writer = coder.Writer()
  MODULES[name].write(CODINGS[name][0], writer, latents, level)
  return writer.finish()


def check_codes(name, latents, level):
  """Latents come back, and the bits of the streams add up to those of the payload."""
  data = written(name, latents, level)
  reader = coder.Reader(data)
  found, bits = MODULES[name].read(CODINGS[name][0], reader, *latents.q.shape[:2], level)
  reader.finish()
  for ours, theirs in ((found.q, latents.q), (found.z, latents.z)):
    assert ours.dtype == np.int64
    np.testing.assert_array_equal(ours, theirs)
  assert list(bits) == (['y'] if name == 'cae' else ['z', 'y'])
  assert all(value > 0 for value in bits.values())
  assert sum(bits.values()) == pytest.approx(8 * len(data), rel=1e-3, abs=32)


@pytest.mark.parametrize('name', MODULES)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_latents_come_back_at_every_rate(name, shape):
  for level in (0, 130, 255):
    check_codes(name, random_latents(name, shape, level), level)


@pytest.mark.parametrize('name', MODULES)
def test_the_largest_symbols_come_back(name):
  for seed, shape in enumerate(SHAPES):
    check_codes(name, random_latents(name, shape, seed, extremes=0.3), 60 * seed)
  latents = random_latents(name, (3, 4))
  for value in (LIMIT, -LIMIT):
    check_codes(name, Latents(np.full_like(latents.q, value), np.full_like(latents.z, value)), 128)


@pytest.mark.parametrize('name', MODULES)
def test_symbols_beyond_the_largest_are_refused(name):
  for field in ('q', 'z') if name != 'cae' else ('q',):
    latents = random_latents(name, (2, 3))
    getattr(latents, field)[0, 0, 0] = -LIMIT - 1
    with pytest.raises(CodecError, match='32768 exceeds'):
      written(name, latents, 7)


@pytest.mark.parametrize('name', MODULES)
def test_another_level_does_not_decode_the_same(name):
  latents = random_latents(name, (5, 7))
  data = written(name, latents, 200)
  reader = coder.Reader(data)
  try:
    found, _ = MODULES[name].read(CODINGS[name][0], reader, 5, 7, 60)
  except CodecError:
    return
  assert not np.array_equal(found.q, latents.q)


@pytest.mark.parametrize('name', MODULES)
def test_a_payload_that_ends_early_is_refused(name):
  latents = random_latents(name, (13, 14))
  data = written(name, latents, 128)
  for cut in (0, len(data) // 2):
    with pytest.raises(CodecError):
      MODULES[name].read(CODINGS[name][0], coder.Reader(data[:cut]), 13, 14, 128)


# Predictions.


def check_mixture(found, scale, mean, share, error=0.0):
  """A mixture of integers f64[n, K] is the one in floats, but for rounding.

  `error` is that of narrow integers, as a share of the largest value.
  """
  slack = error * scale.max()
  low, high = (
    np.clip(16 * np.log2(np.maximum(scale + some, 1e-9) / 0.11), 0, 179) for some in (-slack, slack)
  )
  # Half a sixteenth of an octave of the index, half of the offset, and what integers lose.
  assert (low - 1.2 < found.index).all() and (found.index < high + 1.2).all()
  assert np.abs(found.mean / 256 - mean).max() < (2e-3 + error) * np.abs(mean).max() + 4e-3
  np.testing.assert_allclose(found.weight / found.weight.sum(1, keepdims=True), share, atol=0.012)


def masked(kernel):
  kernel = kernel.copy()
  kernel[2, 2:] = kernel[3:] = 0
  return kernel


@pytest.mark.parametrize('name', GMMS)
@pytest.mark.parametrize('level', [0, 200])
def test_gmm_predicts_the_mixtures_of_its_float_networks(name, level):
  coding, networks = CODINGS[name]
  rng = np.random.default_rng(level)
  z = np.rint(rng.normal(0, 2, (2, 2, HYPER))).astype(np.int64)
  gain = coding.rates.gain[level] / 2**16
  q = np.rint(rng.normal(0, 3, (6, 7, C)) * gain).astype(np.int64)
  # All positions at once: a masked convolution, and the others as they were trained.
  context = networks.context._replace(kernel=masked(networks.context.kernel))
  features = export.float_run(networks.hyper, hyper.dequantise(z, coding.prior))[-1][:6, :7]
  views = 1 + ('slices' in name)
  view = lambda y: np.concatenate([y, abs(y)][:views], -1)  # noqa: E731
  seen = np.concatenate([features, export.float_run([context], view(q / gain))[-1]], -1)
  found, start = [], 0
  for network in networks.parameters:
    inputs = np.concatenate([seen, view((q / gain)[..., :start])], -1)
    outputs = export.float_run(network, inputs)[-1]
    found.append(outputs.reshape(6, 7, 2 + (coding.mixtures > 1), coding.mixtures, -1))
    start += found[-1].shape[-1]
  parts = np.concatenate(found, -1)
  scale, mean, logits = (
    np.moveaxis(parts[:, :, i], 2, -1) for i in (0, 1, 2 if coding.mixtures > 1 else 0)
  )
  by_symbol = [(v * gain[:, None]).reshape(-1, coding.mixtures) for v in (scale, mean)]
  share = special.softmax(logits, -1).reshape(-1, coding.mixtures)

  exact = hyper.features(coding.hyper, z, coding.prior, (6, 7)).reshape(42, -1)
  y = rates.fixed_point(q, coding.rates, level, coding.latent_bits)
  border = np.pad(view(y), ((2, 2), (2, 2), (0, 0)))
  taps = [(i, j) for i in range(3) for j in range(5) if (i, j) < (2, 2)]
  neighbours = np.concatenate([border[i : i + 6, j : j + 7] for i, j in taps], -1)
  found = serial_coding.predict(coding, exact, neighbours.reshape(42, -1), y.reshape(42, -1), level)
  fields = ([field.reshape(42, -1, coding.mixtures) for field in part] for part in found)
  joined = [np.concatenate(field, 1) for field in zip(*fields, strict=True)]
  found = mixture.Mixture(*(field.reshape(-1, coding.mixtures) for field in joined))
  check_mixture(found, *by_symbol, share)


@pytest.mark.parametrize('name', CHANNELS)
@pytest.mark.parametrize('level', [0, 200])
def test_channels_predict_the_mixtures_of_their_float_networks(name, level):
  coding, networks = CODINGS[name]
  rng = np.random.default_rng(level)
  z = np.rint(rng.normal(0, 2, (2, 2, HYPER))).astype(np.int64)
  gain = coding.rates.gain[level] / 2**16
  q = np.rint(rng.normal(0, 3, (6, 7, C)) * gain).astype(np.int64)
  features = export.float_run(networks.hyper, hyper.dequantise(z, coding.prior))[-1][:6, :7]
  y, steps = np.pad(q / gain, ((2, 2), (2, 2), (0, 0))), []

  def note(predicted, at, span):
    steps.append((predicted, at, span))
    return q.reshape(42, C)[at, span]

  channels_coding.walk(coding, z, (6, 7), level, note)
  passes = 2, *((1, 1) if 'one pass' in name else (2, 2))
  kinds = [(group, second, n) for group, n in enumerate(passes) for second in range(n)]
  assert len(steps) == len(kinds)
  for (predicted, at, span), (group, second, n) in zip(steps, kinds, strict=True):
    assert len(at) == (21 if n == 2 else 42)
    inputs = []
    for place in at:  # One position after the other, by the definition.
      row, column = divmod(place, 7)
      assert n == 1 or (row + column) % 2 == second
      seen = [features[row, column]]
      for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
          near = y[row + dr + 2, column + dc + 2, : span.start]
          seen += [near, abs(near)][: coding.views]
      for dr in range(-2, 3):
        for dc in range(-2, 3):
          if (dr + dc) % 2 and n == 2:
            near = y[row + dr + 2, column + dc + 2, span] * second
            seen += [near, abs(near)][: coding.views]
      inputs.append(np.concatenate(seen))
    outputs = export.float_run(networks.groups[group], np.array(inputs)[None])[-1][0]
    k = coding.mixtures
    parts = outputs.reshape(len(at), 2 + (k > 1), k, -1)
    by_symbol = [np.moveaxis(parts[:, j] * gain[span], 1, 2).reshape(-1, k) for j in (0, 1)]
    logits = np.moveaxis(parts[:, 2 if k > 1 else 0], 1, 2).reshape(-1, k)
    check_mixture(predicted, *by_symbol, special.softmax(logits, -1), error=8e-3)


@pytest.mark.parametrize('level', [0, 200])
def test_gan_predicts_the_gaussians_of_its_float_networks(level):
  coding, networks = CODINGS['gan']
  z = np.rint(np.random.default_rng(level).normal(0, 2, (2, 3, HYPER))).astype(np.int64)
  gain = coding.rates.gain[level] / 2**16
  mean, scale = (
    export.float_run(net, hyper.dequantise(z, coding.prior))[-1][:7, :9] * gain for net in networks
  )
  means, scales = (predict(coding, z, (7, 9), level) for predict in (gan.means, gan.scales))
  assert means.shape == scales.shape == (7, 9, C)
  as_mixture = mixture.Mixture(means, scales, np.ones(mean.shape))
  columns = [field.reshape(-1, 1) for field in (*as_mixture, scale, mean)]
  check_mixture(mixture.Mixture(*columns[:3]), *columns[3:], 1.0)


def test_gan_reads_the_means_that_were_subtracted():
  coding, latents = CODINGS['gan'][0], random_latents('gan', (7, 9))
  found, _ = gan.read(coding, coder.Reader(written('gan', latents, 40)), 7, 9, 40)
  np.testing.assert_array_equal(found.mean, gan.means(coding, latents.z, (7, 9), 40))
  assert np.abs(found.mean).max() > 100


@pytest.mark.parametrize('level', [0, 90, 255])
def test_cae_codes_by_the_scale_mixtures_that_were_trained(level):
  coding, (logits, log_scales) = CODINGS['cae']
  gain = coding.rates.gain[level] / 2**16
  scale = np.maximum(np.exp(log_scales) * gain, 0.11)
  found = cae.prior(coding, level)
  symbols = found.low[:, None] + np.arange(found.counts.shape[1] - 1)
  share = special.softmax(logits, 0)[:, :, None]
  edges = [symbols[None] + shift for shift in (-0.5, 0.5)]
  below, above = (special.ndtr(edge / scale[:, :, None]) for edge in edges)
  expected = (share * (above - below)).sum(0)
  probability = found.counts[:, :-1] / found.counts.sum(1, keepdims=True)
  # A scale is off by a sixteenth of an octave at most: 4.4 %.
  np.testing.assert_allclose(probability, expected, atol=0.025)
  cost = -(expected * np.log2(probability)).sum(1), -(expected * np.log2(expected + 1e-12)).sum(1)
  assert np.abs(cost[0] - cost[1]).max() < 5e-3


def test_cae_takes_scales_and_logits_of_any_size():
  log_scales = np.array([[-90.0] * C, [90.0] * C])
  logits = np.array([[0.0, 60.0, -60.0, 3.0], [0.0, 0.0, -60.0, 90.0]])
  made = cae.make(rates.rates_of(np.ones((256, C))), logits, log_scales)
  np.testing.assert_array_equal(made.scale, [[-128, 179 + 128]] * C)
  one = 2**15
  np.testing.assert_array_equal(made.weight, [[one, one], [one, 0], [one, one], [0, one]])
  assert (cae.prior(made, 0).counts > 0).all()


@pytest.mark.parametrize('name', GMMS)
@pytest.mark.parametrize('n', [1, 3, 16, 17, 50])
def test_a_step_predicts_what_many_positions_at_once_do(name, n):
  coding, _ = CODINGS[name]
  rng = np.random.default_rng(n)
  top = export.WIDE.activation
  features = rng.integers(-top, top + 1, (n, 2 * C)).astype(np.float64)
  views = 1 + ('slices' in name)
  neighbours = rng.choice([0, 5, -700, top, -top], (n, 12 * C * views)).astype(np.float64)
  own = rng.choice([0, 5, -700, top, -top], (n, C)).astype(np.float64)
  nets = serial_coding.stepwise(coding)
  known = serial_coding.see_step(nets, features, neighbours)
  for i, expected in enumerate(serial_coding.predict(coding, features, neighbours, own, 99)):
    hidden = own.copy()
    hidden[:, nets.slices[i].start :] = -3  # Not decoded yet.
    found = serial_coding.predict_step(coding, nets, i, known, hidden, 99)
    for ours, theirs in zip(found, expected, strict=True):
      np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('name', GMMS[::2])
@pytest.mark.parametrize('batch', [1, 5, 10**6])
def test_how_many_positions_the_encoder_predicts_at_a_time_is_not_in_the_file(
  name, batch, monkeypatch
):
  latents = random_latents(name, (9, 14), extremes=0.05)
  expected = written(name, latents, 150)
  monkeypatch.setattr(serial_coding, '_BATCH', batch)
  assert written(name, latents, 150) == expected


def test_the_cheapest_latents_cost_what_decoders_expect_at_least():
  shape, unit = (1000, 1500), rates.rates_of(np.ones((256, 1)))
  coding = cae.make(unit, np.zeros((1, 1)), np.full((1, 1), -9.0))
  writer = coder.Writer()
  cae.write(coding, writer, Latents(np.zeros((*shape, 1), np.int64), np.zeros((0, 0, 0))), 0)
  assert 8 * len(writer.finish()) >= mixture.least_bits(shape[0] * shape[1]) > 0
  assert tables.SCALES[0] == pytest.approx(0.11)
