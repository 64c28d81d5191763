"""Symbols are chosen by rate and distortion; files get better and decode as all others."""

import jax
import numpy as np
import pytest

from compress_jax.codec import LAMBDA_RANGE, CodecError, level_of
from compress_jax.exact import mixture, rates, rdoq, tables
from compress_jax.exact.tables import EXP
from compress_jax.model_zoo import pretrained
from tests.helpers import small_models
from tests.helpers.slow import but_for

WORTH = {'cae': 0.05, 'gan': 0.05, 'gmm': 0.1}
METHODS = tuple(WORTH)
LAMBDA = 0.0067


def model(n, rng):
  """Three Gaussians for each of n symbols."""
  return mixture.Mixture(
    rng.integers(-600, 600, (n, 3)).astype(float),
    rng.integers(0, 120, (n, 3)),
    rng.integers(1, EXP[0] + 1, (n, 3)).astype(float),
  )


def test_of_two_neighbours_the_cheaper_is_chosen():
  rng = np.random.default_rng(0)
  n = 5000
  given, scaled = model(n, rng), rng.normal(0, 3, n)
  nearest = np.rint(scaled).astype(np.int64)
  chosen = rdoq.choose(given, nearest, scaled, 0.1)
  around = np.floor(scaled)[:, None] + np.array([0, 1])
  edges = (around[:, :1] + np.array([-0.5, 0.5, 1.5])) * 2.0**tables.FRACTION
  mass = np.diff(mixture.cumulative(given, edges), axis=1)
  share = mass / (2.0**24 * given.weight.sum(1, keepdims=True)) + 2.0**-16
  costs = -0.1 * np.log2(share) + (around - scaled[:, None]) ** 2
  clear = np.abs(np.diff(costs))[:, 0] > 1e-9
  expected = around[np.arange(n), costs.argmin(1)]
  np.testing.assert_array_equal(chosen[clear], expected[clear])
  assert 0.02 < (chosen != nearest).mean() < 0.5
  assert chosen.dtype == np.int64


def test_chunks_do_not_matter(monkeypatch):
  rng = np.random.default_rng(1)
  given, scaled = model(100, rng), rng.normal(0, 3, 100)
  nearest = np.rint(scaled).astype(np.int64)
  whole = rdoq.choose(given, nearest, scaled, 0.1)
  monkeypatch.setattr(rdoq, '_CHUNK', 7)
  np.testing.assert_array_equal(rdoq.choose(given, nearest, scaled, 0.1), whole)


@pytest.mark.parametrize('method', but_for(METHODS, 'cae'))
def test_files_of_the_models_that_ship_cost_less_and_decode_to_what_was_chosen(method):
  saved, error = [], []
  for image in small_models.strips():
    files = []
    for worth in (0, WORTH[method]):
      codec, released = pretrained(method, lmbda=LAMBDA, rdoq=worth)
      files.append(codec.encode(released, image))
    latents = codec.quantise(released, image)
    np.testing.assert_array_equal(codec.latents(released, files[1]).q, latents.q)
    off = [np.mean((codec.decode(released, file) - image.astype(float)) ** 2) for file in files]
    saved.append(8 * (len(files[0]) - len(files[1])) / image[..., 0].size)
    error.append(off[1] - off[0])
  assert min(saved) > 0
  assert np.mean(saved) > LAMBDA * np.mean(error)


@pytest.mark.parametrize('method', but_for(METHODS, 'cae', 'gmm'))
@pytest.mark.slow
def test_training_can_round_as_files_do(method):
  codec, released = pretrained(
    method, lmbda=LAMBDA, model=small_models.path(method), rdoq=WORTH[method]
  )
  level = np.full(1, level_of(LAMBDA), np.int32)
  for image in small_models.strips():
    x = image[None].astype(np.float32) / 255
    coded = codec.apply(small_models.params(method), x, level, None)
    held = codec.quantise(released, image)
    y_hat = rates.dequantise(held.q, released.coding.rates, level[0], held.mean)
    step = released.coding.rates.inverse[level[0]] * 2.0**-rates.GAIN_BITS
    assert (np.abs(coded.y_hat[0] - y_hat) < step / 2).mean() > 0.99
    bits = 8 * len(codec.encode(released, image))
    assert float(sum(coded.bits.values())[0]) == pytest.approx(bits, rel=0.02, abs=512)


PARTS = [('cae', 'prior'), ('gan', 'hyper_scale'), ('gmm', 'parameters')]


@pytest.mark.parametrize('method,part', but_for(PARTS, PARTS[0]))
def test_noise_then_moves_the_encoder_and_nothing_else(method, part):
  given = {'model': small_models.path(method), 'rdoq': WORTH[method]}
  codec, params = pretrained(method, **given)[0], small_models.params(method)
  x = small_models.strips()[0][None, :64, :64].astype(np.float32) / 255

  @jax.jit
  def bits(params, key):
    coded = codec.apply(params, x, np.full(1, 92, np.int32), key, as_files=True)
    return sum(coded.bits.values()).sum()

  plain, noisy = (
    jax.value_and_grad(bits)(params, key) for key in (None, jax.random.split(jax.random.key(0), 1))
  )
  assert float(noisy[0]) == pytest.approx(float(plain[0]), rel=1e-5)
  pairs = [jax.tree.leaves(slopes[part]) for _, slopes in (plain, noisy)]
  for one, other in zip(*pairs, strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3 * np.abs(one).max())
  moved, expected = (jax.tree.leaves(slopes['analysis'])[0] for _, slopes in (noisy, plain))
  assert np.abs(moved - expected).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize('method', METHODS)
def test_any_picture_is_coded(method):
  for lmbda in LAMBDA_RANGE:
    codec, released = pretrained(
      method, lmbda=lmbda, model=small_models.path(method), rdoq=WORTH[method]
    )
    for size in ((1, 1), (9, 50)):
      noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
      assert codec.decode(released, codec.encode(released, noise)).shape == noise.shape


@pytest.mark.parametrize('worth', [True, -0.1, 1.5])
def test_a_bit_is_worth_a_share_of_a_step(worth):
  with pytest.raises(CodecError, match=f'rdoq={worth} must be a number from 0 to 1'):
    pretrained('cae', lmbda=LAMBDA, rdoq=worth)
