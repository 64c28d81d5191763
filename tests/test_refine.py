"""Refined latents cost less, and the decoder is none the wiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from compress_jax import cli, command, refine, relaxed
from compress_jax.codec import CodecError
from compress_jax.levels import level_of
from compress_jax.pretrained import pretrained
from experiments import kodak
from tests import small_models

RATES = {'cae': relaxed.CAE, 'gan': relaxed.GAN, 'gmm': relaxed.GMM}
LAMBDA = 0.013


def load(method, steps):
  return pretrained(method, lmbda=LAMBDA, model=small_models.path(method), refine=steps)


def image():
  return small_models.strips()[0][:64, :96]


def cost(file, decoded, original):
  error = np.mean((decoded.astype(float) - original) ** 2)
  return 8 * len(file) / original[..., 0].size + LAMBDA * error


@pytest.mark.parametrize('method', RATES)
def test_relaxed_bits_are_those_of_the_file(method):
  codec, released = load(method, 0)
  file = codec.encode(released, small_models.strips()[0])
  latents, level = codec.latents(released, file), level_of(LAMBDA)
  tree = RATES[method].arrays(released.coding, latents, level)
  estimated = RATES[method].bits(tree, jnp.asarray(latents.q, jnp.float32)) / 8
  assert codec.split(released, file)['y'] == pytest.approx(float(estimated), rel=0.01, abs=8)


@pytest.mark.parametrize('method', RATES)
def test_refined_files_cost_less_and_decode_as_all_others(method):
  x = image()
  plain, released = load(method, 0)
  refined = load(method, 40)[0]
  files = [codec.encode(released, x) for codec in (plain, refined)]
  before, after = (cost(file, plain.decode(released, file), x) for file in files)
  assert after < 0.99 * before
  assert refined.encode(released, x) == files[1]  # Nothing about it is random.
  latents = refined.latents(released, files[1])
  np.testing.assert_array_equal(latents.q, refined.quantise(released, x).q)


def test_steps_that_lead_nowhere_leave_the_latents_as_they_were(monkeypatch):
  monkeypatch.setattr(refine, '_descend', lambda bits, synthesise, given, start, *rest: start + 9)
  plain, released = load('cae', 0)
  assert load('cae', 1)[0].encode(released, image()) == plain.encode(released, image())


def test_images_that_are_too_large_are_refused(monkeypatch):
  monkeypatch.setattr(refine, 'LARGEST', 64 * 96 - 1)
  codec, released = load('cae', 1)
  with pytest.raises(CodecError, match='images of up to 6,143 pixels, not 96x64'):
    codec.encode(released, image())


def test_soft_rounding_goes_over_to_rounding():
  v = jnp.asarray(np.random.default_rng(0).uniform(-3, 3, 20_000), jnp.float32)
  draw = lambda tau: refine.softly_rounded(v, tau, jax.random.key(0))  # noqa: E731
  assert (jnp.abs(draw(0.5) - v) < 1).all()
  cold = draw(0.01)
  assert float((cold == jnp.round(v)).mean()) > 0.98
  # At tau = 1/2 the ceiling is exp(-2 atanh(1 - d)) = d / (2 - d) to the floor's (1 - d) / (1 + d).
  d = v - jnp.floor(v)
  up, down = d / (2 - d), (1 - d) / (1 + d)
  taken = float((draw(0.5) - jnp.floor(v) > 0.5).mean())
  assert taken == pytest.approx(float((up / (up + down)).mean()), abs=0.02)


def parsed(*arguments):
  return command.parse(cli.define_flags(), '', ['run.py', *arguments])


def test_the_flag_is_an_option_of_learned_methods():
  assert command.options(parsed('--method=gmm', '--refine=7')) == {'refine': 7}
  assert command.options(parsed('--method=gmm')) == {}
  with pytest.raises(flags.Error, match='--refine is for cae, gan and gmm'):
    command.options(parsed('--method=kmeans', '--refine=7'))


def test_refined_methods_are_compared_when_they_are_named():
  (recipe,) = kodak.recipes(['gmm-refined'], [LAMBDA], {}, 0)
  assert (recipe.method, recipe.codec) == ('gmm', 'gmm-refined')
  assert dict(recipe.options) == {'refine': 100}
