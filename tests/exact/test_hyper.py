"""Hyper-latents: their symbols, and tables that follow the prior they were made of."""

import numpy as np
import pytest

from compress_jax import coder
from compress_jax.codec import CodecError
from compress_jax.exact import export, hyper, layers
from compress_jax.exact.export import FloatLayer
from compress_jax.exact.mixture import least_bits
from tests.helpers.priors import AT, gaussians, prior_of

LIMIT = 32767


def test_a_prior_is_asked_for_at_symbols_around_its_median():
  np.testing.assert_array_equal(hyper.symbols_of_prior(), AT)


@pytest.mark.parametrize('size,expected', [((1, 1), (1, 1)), ((4, 5), (1, 2)), ((9, 16), (3, 4))])
def test_a_grid_covers_every_latent(size, expected):
  assert hyper.grid(*size, 4) == expected


def test_symbols_are_rounded_around_the_medians_and_stop_at_the_largest():
  prior = prior_of(1.0, 1.0, 1.0, medians=np.array([0.0, 0.25, -7.5]))
  z = np.array([[[0.4, 0.74, -7.0], [-1.6, 0.76, -9.1], [1e9, -1e9, np.inf]]], np.float32)
  found = hyper.quantise(z, prior)
  assert found.dtype == np.int64
  # 0.5 and 0.49 away of 0.25; half a unit of -7.5 goes to the even side.
  np.testing.assert_array_equal(found, [[[0, 0, 0], [-2, 1, -2], [LIMIT, -LIMIT, LIMIT]]])
  np.testing.assert_allclose(
    hyper.dequantise(found[:, :2], prior)[0], [[0, 0.25, -7.5], [-2, 1.25, -9.5]]
  )


def test_dequantising_is_exact_in_the_fraction_that_networks_read():
  prior = prior_of(1.0, 1.0, medians=np.array([0.3, -1.7]))
  rng = np.random.default_rng(0)
  symbols = rng.integers(-LIMIT, LIMIT + 1, (3, 4, 2))
  scaled = hyper.dequantise(symbols, prior) * 2**hyper.BITS
  np.testing.assert_array_equal(scaled, np.rint(scaled))
  np.testing.assert_array_equal(hyper.quantise(hyper.dequantise(symbols, prior), prior), symbols)
  np.testing.assert_allclose(prior.median / 2**hyper.BITS, [0.3, -1.7], atol=2.0**-7)


def test_integers_that_enter_a_network_stay_within_their_limit():
  prior = prior_of(1.0, 1.0, medians=np.array([1.0, -1.0]))
  extremes = np.array([[[LIMIT, -LIMIT]]])
  assert np.abs(hyper.dequantise(extremes, prior)).max() * 2**hyper.BITS <= hyper.LIMIT


def check_follows(prior, mass):
  """The tables are the mass of their window, and the rest goes to the escape."""
  size = prior.counts.shape[1]
  assert prior.counts.dtype == np.int64 and (prior.counts > 0).all()
  share = prior.counts / prior.counts.sum(1, keepdims=True)
  for c in range(len(mass)):
    window = prior.low[c] + np.arange(size - 1)
    by_symbol = dict(zip(AT.tolist(), mass[c], strict=True))
    expected = np.array([by_symbol.get(int(symbol), 0.0) for symbol in window])
    np.testing.assert_allclose(share[c, :-1], expected, atol=1e-4)
    assert share[c, -1] == pytest.approx(max(1 - expected.sum(), 0), abs=1e-4)


@pytest.mark.parametrize('sigmas', [(0.1,), (1.0, 0.05), (3.0, 30.0, 0.5), (100.0,)], ids=str)
@pytest.mark.parametrize('shift', [0.0, 5.3])
def test_tables_follow_the_prior(sigmas, shift):
  check_follows(prior_of(*sigmas, shift=shift), gaussians(*sigmas, shift=shift))


def test_windows_lie_around_the_mass_and_leave_little_outside():
  mass = gaussians(2.0, 10.0, shift=40.0)
  prior = hyper.prior_of(mass, np.zeros(2))
  for c in range(2):
    inside = mass[c][np.isin(AT, prior.low[c] + np.arange(prior.counts.shape[1] - 1))].sum()
    assert 1 - inside < 2.0**-14


@pytest.mark.parametrize('sigma', [400.0, 1000.0])
def test_tables_follow_a_prior_that_fills_all_symbols(sigma):
  mass = gaussians(sigma, shift=300.0)
  check_follows(hyper.prior_of(mass, np.zeros(1)), mass)


def test_mass_that_is_no_number_leaves_tables_that_code():
  mass = gaussians(1.0, 1.0)
  mass[1] = np.nan
  prior = hyper.prior_of(mass, np.zeros(2))
  assert (prior.counts > 0).all()
  check_codes(prior, np.array([[[0, 0], [3, -700]]]))


def check_codes(prior, z):
  writer = coder.Writer()
  hyper.write(writer, prior, z)
  data = writer.finish()
  reader = coder.Reader(data)
  np.testing.assert_array_equal(hyper.read(reader, prior, z.shape[:2]), z)
  reader.finish()
  return data


@pytest.mark.parametrize('shape', [(1, 1), (3, 5), (9, 2)])
def test_symbols_come_back_even_the_largest(shape):
  prior = prior_of(0.3, 2.0, 50.0, shift=-3.0)
  rng = np.random.default_rng(0)
  z = np.rint(rng.normal(-3, [0.3, 2, 50], (*shape, 3))).astype(np.int64)
  z[rng.random(z.shape) < 0.1] = LIMIT
  z[rng.random(z.shape) < 0.1] = -LIMIT
  check_codes(prior, z)
  check_codes(prior, np.full((*shape, 3), LIMIT))


def test_a_symbol_beyond_the_largest_is_refused():
  with pytest.raises(CodecError, match='32768 exceeds'):
    hyper.write(coder.Writer(), prior_of(1.0), np.array([[[LIMIT + 1]]]))


def test_the_cheapest_symbols_cost_what_decoders_expect_at_least():
  prior = prior_of(1e-3, 1e-3)
  z = np.zeros((1000, 1000, 2), np.int64)
  assert 8 * len(check_codes(prior, z)) >= least_bits(z.size) > 0


def test_features_are_those_of_the_network_on_what_symbols_stand_for():
  rng = np.random.default_rng(0)
  prior = prior_of(2.0, 2.0, medians=np.array([0.5, -0.25]))
  kernel = rng.normal(size=(3, 3, 2, 12)).astype(np.float32)
  net = [FloatLayer(kernel, rng.normal(size=12).astype(np.float32), 0.01, shuffle=True)]
  z = rng.integers(-5, 6, (3, 4, 2))
  z_hat = z + np.array([0.5, -0.25])
  made, bits = export.quantise(net, [z_hat], in_bits=hyper.BITS, in_limit=hyper.LIMIT)
  found = hyper.features(made, z, prior, (5, 7))  # Of 6 x 8.
  expected = export.float_run(net, z_hat)[-1][:5, :7]
  assert found.shape == (5, 7, 3)
  np.testing.assert_allclose(found * 2.0**-bits, expected, atol=1e-3 * np.abs(expected).max())
  np.testing.assert_array_equal(found, layers.run(made, z_hat * 2**hyper.BITS)[:5, :7])
