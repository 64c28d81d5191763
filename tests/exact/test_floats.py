"""Float parameters as the export sees them: the same functions, in NumPy."""

import jax
import numpy as np
import pytest
from scipy import stats

from compress_jax.exact import export, floats
from compress_jax.layers.blocks import Conv, Deconv, SubPixel
from compress_jax.layers.entropy import Factorized
from compress_jax.methods.gan import export as gan_export
from compress_jax.methods.gan import networks
from compress_jax.methods.gmm import serial, serial_export
from tests.helpers.modules import apply, init, leaky
from tests.helpers.priors import factorised

X = np.random.default_rng(0).normal(size=(1, 4, 5, 4)).astype(np.float32)


def check_equal(module, params, network, x=X):
  """A module of flax and the layers that export makes of it."""
  found = export.float_run(network, x[0])[-1]
  expected = apply(module, params, x)[0]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_convolution_is_itself_with_its_slope():
  params = init(Conv(3), X)
  check_equal(Conv(3), params, [floats.layer(params)])
  found = export.float_run([floats.layer(params, slope=0.01)], X[0])[-1]
  np.testing.assert_allclose(found, leaky(apply(Conv(3), params, X)[0]), rtol=1e-4, atol=1e-4)


def test_a_subpixel_convolution_is_shuffled():
  params = init(SubPixel(3), X)
  check_equal(SubPixel(3), params, [floats.layer(params['conv'], shuffle=True)])


@pytest.mark.parametrize('kernel', [3, 5])
def test_a_transposed_convolution_is_a_subpixel_one(kernel):
  params = init(Deconv(3, kernel), X)
  check_equal(Deconv(3, kernel), params, [floats.deconv_layer(params)])


def test_hyper_syntheses_run_as_they_were_trained():
  module = networks.HyperSynthesis(6)
  params = init(module, X)
  check_equal(module, params, gan_export.float_layers(params))
  module = serial.HyperSynthesis(0.1)
  params = {'hyper_synthesis': init(module, X)}
  params['context'] = {'kernel': np.zeros((5, 5, 4, 8)), 'bias': np.zeros(8)}
  params['parameters'] = {f'conv{i}': params['context'] for i in range(3)}
  check_equal(module, params['hyper_synthesis'], serial_export.float_networks(params, 0.1).hyper)


@pytest.mark.parametrize('mixtures', [1, 3])
def test_entropy_parameters_come_as_scales_means_and_logits(mixtures):
  module = serial.EntropyParameters(1, mixtures, 0.1, (7, 5))
  params = init(module, X)
  parts = {'hyper_synthesis': None, 'context': params['conv0'], 'parameters': params}
  empty = {'kernel': np.zeros((1, 1, 1, 1)), 'bias': np.zeros(1)}
  net = {f'conv{i}': empty for i in range(3)} | {f'up{i}': {'conv': empty} for i in range(2)}
  (network,) = serial_export.float_networks({**parts, 'hyper_synthesis': net}, 0.1).parameters
  found = export.float_run(network, X[0])[-1]
  expected = apply(module, params, X)[0]
  assert expected.shape == (4, 5, 3, mixtures, 1)
  if mixtures == 1:
    assert not expected[:, :, 2].any()
    expected = expected[:, :, :2]
  np.testing.assert_allclose(found, expected.reshape(4, 5, -1), rtol=1e-4, atol=1e-4)


def test_rates_are_the_gains_of_every_level():
  log_gains = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  found = floats.rates_of(log_gains)
  assert found.gain.shape == (256, 3)
  np.testing.assert_allclose(found.gain[::51] / 2**16, np.exp(log_gains), rtol=1e-4)


def test_the_tables_of_a_prior_are_its_likelihoods_around_the_median():
  prior, params = factorised((3, 3), True)
  params['quantiles'][:, 1] = [0.0, 0.4, -3.3, 12.0]
  found = floats.prior_of(prior, params)
  np.testing.assert_allclose(found.median / 64, params['quantiles'][:, 1], atol=1 / 128)
  symbols = found.low[:, None] + np.arange(found.counts.shape[1] - 1)
  z = (symbols + params['quantiles'][:, 1:2]).T.astype(np.float32)
  expected = np.asarray(jax.jit(prior.apply)({'params': params}, z[None, None]))[0, 0].T
  share = found.counts / found.counts.sum(1, keepdims=True)
  np.testing.assert_allclose(share[:, :-1], expected, atol=1e-4)
  assert (share[:, -1] < 1e-3).all()


def test_a_prior_without_quantiles_is_asked_around_zero():
  prior = Factorized(2, (), quantiled=False)  # A logistic of scale 1.
  params = {
    'matrix0': np.full((2, 1, 1), np.log(np.expm1(1)), np.float32),
    'bias0': np.array([0.1, -3.1], np.float32).reshape(2, 1, 1),
  }
  found = floats.prior_of(prior, params)
  assert not found.median.any()
  symbols = found.low[:, None] + np.arange(found.counts.shape[1] - 1)
  share = found.counts[:, :-1] / found.counts.sum(1, keepdims=True)
  ends = (stats.logistic.cdf(symbols + half, [[-0.1], [3.1]]) for half in (0.5, -0.5))
  np.testing.assert_allclose(share, np.subtract(*ends), atol=1e-4)
