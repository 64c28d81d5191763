"""A model that codes files gives back the floats that it was made of, but for rounding."""

from pathlib import Path

import jax
import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.exact import export, floats, thaw, wavefront
from compress_jax.layers.blocks import Deconv
from compress_jax.layers.entropy import Factorized
from compress_jax.training import float_weights, stages
from tests.helpers import small_models
from tests.helpers.float_layers import hyper_like, latents, rms
from tests.helpers.modules import init
from tests.helpers.slow import but_for
from tests.helpers.small_plans import PLAN

LEARNED = ['cae', 'gan', 'gmm', *small_models.KINDS]


@pytest.mark.parametrize('out_bits', [None, 12])
@pytest.mark.parametrize('seed', range(4))
def test_thawed_layers_compute_what_the_float_ones_did(seed, out_bits):
  rng = np.random.default_rng(seed)
  network = hyper_like(rng)
  exact, bits = export.quantise(
    network, [latents(rng)], in_bits=10, in_limit=2**23, out_bits=out_bits
  )
  found, found_bits = thaw.float_layers(exact, 10, out_bits)
  x = latents(rng)
  expected = export.float_run(network, x)[-1]
  scale = 2.0 ** (found_bits - bits)  # 1 where it is known.
  assert out_bits is None or scale == 1
  assert rms(export.float_run(found, x)[-1] * scale - expected) < 3e-4 * rms(expected)
  for layer in found[:-1]:
    usual = np.sqrt(1 / 3 / np.prod(layer.kernel.shape[:3]))
    assert rms(layer.kernel) / usual > 0.7


@pytest.mark.parametrize('precision', [export.WIDE, export.NARROW])
def test_activations_of_thawed_layers_are_of_one_size_at_any_precision(precision):
  rng = np.random.default_rng(1)
  network, x = hyper_like(rng), latents(rng)
  exact, _ = export.quantise(network, [x], in_bits=10, in_limit=2**23, precision=precision)
  found, _ = thaw.float_layers(exact, 10)
  for output in export.float_run(found, x):
    assert 7.5 < np.abs(output).max() < 17


def test_inputs_may_have_fraction_bits_of_their_own():
  rng = np.random.default_rng(0)
  network, x = hyper_like(rng), latents(rng)
  bits = np.array([10, 10, 7, 12, 10, 9])
  exact, out_bits = export.quantise(network, [x], in_bits=10, in_limit=2**23)
  found, found_bits = thaw.float_layers(exact, bits)
  expected = export.float_run(network, x)[-1]
  again = export.float_run(found, x * 2.0 ** (10 - bits))[-1] * 2.0 ** (found_bits - out_bits)
  assert rms(again - expected) < 3e-4 * rms(expected)


@pytest.mark.parametrize('size', [3, 5])
def test_transposed_convolutions_come_back_tap_by_tap(size):
  params = init(Deconv(3, size), np.zeros((1, 4, 4, 2), np.float32))
  params = {'kernel': params['kernel'], 'bias': np.array([1, -2, 3], np.float32)}
  found = floats.deconv_params(floats.deconv_layer(params), size)
  np.testing.assert_allclose(found['kernel'], params['kernel'], atol=1e-6)
  np.testing.assert_allclose(found['bias'], params['bias'])


def test_causal_kernels_come_back_zero_behind_the_mask():
  rows = np.random.default_rng(0).normal(size=(24, 3))
  kernel = wavefront.causal_kernel(rows)
  np.testing.assert_array_equal(wavefront.causal_rows(kernel), rows)
  assert not kernel[3:].any() and not kernel[2, 2:].any() and kernel[2, 1].all()


@pytest.mark.parametrize('levels', [1, 4, 6])
def test_gains_come_back_at_their_levels(levels):
  log_gains = np.random.default_rng(0).normal(size=(levels, 3)).astype(np.float32)
  found = floats.log_gains_of(floats.rates_of(log_gains), levels)
  np.testing.assert_allclose(found, log_gains, atol=1e-4)


def test_a_prior_is_fitted_to_its_tables():
  params = small_models.params('gmm')['prior']
  prior = Factorized(params['quantiles'].shape[0])
  tables = floats.prior_of(prior, params)
  found = floats.prior_of(prior, floats.fitted_prior(prior, tables))
  np.testing.assert_array_equal(found.median, tables.median)
  assert found.counts.shape == tables.counts.shape
  symbols = tables.low[:, None] + np.arange(tables.counts.shape[1] - 1)
  share = tables.counts / tables.counts.sum(1, keepdims=True)
  own, other = np.log2(share[:, :-1]), np.full(symbols.shape, np.nan)
  fitted = found.counts / found.counts.sum(1, keepdims=True)
  for channel, row in enumerate(symbols):  # The tables may begin at other symbols.
    place = row - found.low[channel]
    inside = (place >= 0) & (place < fitted.shape[1] - 1)
    other[channel, inside] = np.log2(fitted[channel, place[inside]])
  lost = np.nansum(share[:, :-1] * (own - other), 1)
  assert (lost < 0.01).all()  # Bits a symbol.


@pytest.mark.parametrize('name', but_for(LEARNED, 'cae', small_models.CHANNELS))
def test_a_thawed_model_writes_files_of_the_same_size(name):
  codec, released = small_models.load(name)
  images = small_models.strips()
  again = codec.export(jax.tree.map(np.asarray, codec.thaw(released)), images)
  for image in images:
    before, after = codec.encode(released, image), codec.encode(again, image)
    assert abs(len(after) - len(before)) <= 2 + 0.01 * len(before)
    difference = codec.decode(again, after) - codec.decode(released, before).astype(float)
    assert rms(difference) < 0.5


def test_training_goes_on_from_a_model_that_codes_files():
  path = small_models.path('cae')
  params, config = float_weights.weights(Path(path))
  codec = small_models.load('cae')[0]
  plan = PLAN._replace(start=path, options=config['options'])
  begun = stages.setup_of(plan, codec).init()[0]
  assert jax.tree.all(jax.tree.map(np.array_equal, begun, params))
  trained = small_models.params('cae')
  np.testing.assert_allclose(
    params['prior']['log_scales'], trained['prior']['log_scales'], atol=0.05
  )


def test_a_method_names_the_model_that_ships_with_it():
  config = float_weights.weights(Path('cae'))[1]
  assert config['method'] == 'cae' and config['options']['linear']
  with pytest.raises(CodecError, match='no such file'):
    float_weights.weights(Path('kmeans2'))
