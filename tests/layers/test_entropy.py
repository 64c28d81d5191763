"""Float likelihoods are probabilities: those of SciPy, and of the published formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from compress_jax.layers import entropy
from compress_jax.layers.entropy import Factorized
from tests.helpers.priors import factorised

mixture_likelihood = jax.jit(entropy.mixture_likelihood)


def draw(k, n, seed=0):
  """Logits, means and scales f32[K, n, 1], scales from below the bound to far above it."""
  rng = np.random.default_rng(seed)
  logits, mean = rng.normal(size=(k, n, 1)), rng.normal(0, 5, (k, n, 1))
  scale = 0.05 * 2.0 ** rng.uniform(0, 10, (k, n, 1))
  return tuple(v.astype(np.float32) for v in (logits, mean, scale))


def expected(q, logits, mean, scale):
  """By SciPy in f64, on the side of the mean where its differences stay accurate."""
  scale = np.maximum(scale.astype(np.float64), 0.11)
  distance = np.abs(q.astype(np.float64) - mean)
  mass = stats.norm.sf(distance - 0.5, scale=scale) - stats.norm.sf(distance + 0.5, scale=scale)
  return (special.softmax(logits.astype(np.float64), 0) * mass).sum(0)


@pytest.mark.parametrize('k', [1, 3])
def test_a_mixture_has_the_likelihood_that_scipy_gives(k):
  params, q = draw(k, 40), np.arange(-30, 31, dtype=np.float32)
  want = expected(q, *params)
  found = np.asarray(mixture_likelihood(q, *params))
  likely = want > 1e-9  # Below, training sees a constant.
  np.testing.assert_allclose(found[likely], want[likely], rtol=1e-3, atol=1e-7)
  assert (found[~likely] < 2e-9).all() and (found >= 0).all()


@pytest.mark.parametrize('distance', [3.0, 5.0, 6.0])
def test_the_tails_keep_their_relative_accuracy_on_both_sides(distance):
  q = np.array([distance, -distance], np.float32)
  found = mixture_likelihood(q, *np.float32([[[0, 0]], [[0, 0]], [[1, 1]]]))
  want = stats.norm.sf(distance - 0.5) - stats.norm.sf(distance + 0.5)
  np.testing.assert_allclose(found, [want, want], rtol=1e-4)


@pytest.mark.parametrize('k', [1, 3])
def test_the_likelihoods_of_all_integers_sum_to_one(k):
  q = np.arange(-600, 601, dtype=np.float32)
  total = np.asarray(mixture_likelihood(q, *draw(k, 60)), np.float64).sum(1)
  np.testing.assert_allclose(total, 1, atol=2e-5)


def test_only_differences_of_logits_count_and_equal_components_are_one():
  logits, mean, scale = draw(3, 20)
  q = np.arange(-9, 10, dtype=np.float32)
  base = mixture_likelihood(q, logits, mean, scale)
  np.testing.assert_allclose(mixture_likelihood(q, logits + 7, mean, scale), base, rtol=1e-5)
  np.testing.assert_allclose(
    mixture_likelihood(q, logits, mean[[0, 0, 0]], scale[[0, 0, 0]]),
    jax.jit(entropy.gaussian_likelihood)(q, mean[0], scale[0]),
    rtol=1e-5,
    atol=1e-9,
  )


def test_scales_below_the_bound_cost_what_the_bound_costs_and_can_grow_again():
  @jax.jit
  @jax.value_and_grad
  def bits(scale, q):
    one = jnp.ones(1)
    return entropy.bits_of(entropy.gaussian_likelihood(q * one, 0 * one, scale * one)).sum()

  for q in (0.0, 1.0):
    assert bits(0.01, q)[0] == bits(0.11, q)[0]
  assert bits(0.01, 1.0)[1] < 0  # Too narrow a Gaussian makes it dear: descent widens the scale.
  assert bits(0.01, 0.0)[1] == 0  # Narrower would be better, and is held.


def test_bits_are_those_of_the_logarithm_down_to_a_floor_with_a_gradient():
  likelihood = jnp.array([1.0, 0.5, 1 / 64, 1e-9, 1e-30, 0.0])
  floor = np.log2(1e9)
  bits, grad = jax.jit(jax.vmap(jax.value_and_grad(entropy.bits_of)))(likelihood)
  np.testing.assert_allclose(bits, [0, 1, 6] + 3 * [floor], rtol=1e-6)
  assert np.isfinite(grad).all() and (np.asarray(grad) < 0).all()


def test_gradients_are_finite_even_for_impossible_symbols():
  def bits(parts):
    return entropy.bits_of(entropy.mixture_likelihood(q, *parts)).sum()

  q = jnp.array([[0.0, 1e4, -1e4, 3e4]])
  grads = jax.jit(jax.grad(bits))(draw(3, 10))
  assert all(np.isfinite(grad).all() for grad in grads)


# The factorised density.

CASES = [((3, 3, 3), False), ((3, 3, 3, 3), True)]


def cumulative(z, params, n_layers):
  """Ballé et al. (ICLR 2018), equations 20 to 24, for f64[C, N], channel by channel."""
  out = []
  for c, row in enumerate(z):
    x = row[None].astype(np.float64)
    for i in range(n_layers):
      matrix = np.log1p(np.exp(params[f'matrix{i}'][c].astype(np.float64)))
      x = matrix @ x + params[f'bias{i}'][c]
      if i < n_layers - 1:
        x = x + np.tanh(params[f'factor{i}'][c].astype(np.float64)) * np.tanh(x)
    out.append(special.expit(x[0]))
  return np.stack(out)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_the_factorised_likelihood_is_that_of_the_paper(case):
  prior, params = factorised(*case)
  z = np.random.default_rng(1).normal(0, 6, (2, 3, 5, 4)).astype(np.float32)
  found = jax.jit(prior.apply)({'params': params}, z)
  flat, n = z.reshape(-1, 4).T, len(case[0]) + 1
  mass = cumulative(flat + 0.5, params, n) - cumulative(flat - 0.5, params, n)
  np.testing.assert_allclose(found, mass.T.reshape(z.shape), rtol=1e-3, atol=1e-6)


def test_the_factorised_prior_is_a_density():
  prior, params = factorised((3, 3), True)
  places = np.linspace(-300, 300, 2401, dtype=np.float32)
  z = np.tile(places[:, None], (1, 4))

  @jax.jit
  def both(params, z):
    variables = {'params': params}
    likelihood = prior.apply(variables, z[None, None])
    return prior.apply(variables, z.T, method=prior.logits), likelihood[0, 0]

  logits, likelihood = (np.asarray(v, np.float64) for v in both(params, z))
  assert (np.diff(logits, axis=1) > 0).all()  # The cumulative distribution rises.
  assert (likelihood >= 0).all()
  inside = special.expit(logits[:, -1]) - special.expit(logits[:, 0])
  assert (inside > 0.98).all()
  for first in range(4):  # Each of the grids of step 1 covers the line once.
    np.testing.assert_allclose(likelihood[first::4].sum(0), inside, atol=2e-3)


def test_the_initial_density_is_a_logistic_of_the_scale_asked_for():
  prior = Factorized(3, (3,), init_scale=7.0)
  z = np.tile(np.arange(-30.0, 31.0, dtype=np.float32), (3, 1))

  @jax.jit
  def logits(key):
    return prior.apply(prior.init(key, z.T[None, None]), z, method=prior.logits)

  found = np.asarray(logits(jax.random.key(0)))
  np.testing.assert_allclose(np.diff(found, axis=1), 1 / 7, rtol=1e-4)


def test_medians_are_the_middle_quantiles_or_zero():
  prior, params = factorised((3, 3), True)
  found = prior.apply({'params': params}, method=prior.medians)
  np.testing.assert_array_equal(found, params['quantiles'][:, 1])
  prior, params = factorised((3, 3), False)
  assert 'quantiles' not in params
  assert not np.asarray(prior.apply({'params': params}, method=prior.medians)).any()


def logistic(z):
  """The likelihoods of f32[n] under a factorised prior that is the plain logistic."""
  prior = Factorized(1, (), quantiled=False)
  params = {'matrix0': np.full((1, 1, 1), np.log(np.expm1(1)), np.float32)}
  params['bias0'] = np.zeros((1, 1, 1), np.float32)
  return np.asarray(jax.jit(prior.apply)({'params': params}, z.reshape(1, 1, -1, 1))).ravel()


def test_the_factorised_tail_stays_accurate_on_both_sides():
  """Where sigmoids round to 1, differences of them would be 0."""
  want = special.expit(-17.5) - special.expit(-18.5)
  found = logistic(np.array([-18.0, 18.0], np.float32))
  np.testing.assert_allclose(found, [want, want], rtol=1e-4)


def test_the_middle_of_a_symmetric_density_is_its_most_likely_symbol():
  found = logistic(np.array([-1.0, 0.0, 1.0], np.float32))
  assert found[1] == pytest.approx(special.expit(0.5) - special.expit(-0.5), rel=1e-4)


def test_one_gaussian_takes_numbers_for_all_symbols():
  q = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
  want = stats.norm.cdf((q + 0.5 - 0.25) / 2) - stats.norm.cdf((q - 0.5 - 0.25) / 2)
  found = entropy.gaussian_likelihood(jnp.asarray(q), 0.25, 2.0)
  np.testing.assert_allclose(found, want, rtol=1e-5)
  each = entropy.gaussian_likelihood(jnp.asarray(q), jnp.full(3, 0.25), jnp.full((2, 1), 2.0))
  np.testing.assert_allclose(each, want, rtol=1e-5)


def test_the_bits_of_a_mixture_are_the_logarithms_of_its_likelihood():
  params, q = draw(3, 20), np.arange(-9, 10, dtype=np.float32)
  found = entropy.Mixture(*map(jnp.asarray, params)).bits(q)
  want = -np.log2(np.maximum(expected(q, *params), 1e-9))
  np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-3)
