"""Rounding with its gradients, and gains from the level byte. Also `levels`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress_jax.codec import LAMBDA_RANGE, level_of
from compress_jax.layers import dct, quantization

EVERY = np.arange(256)
LOW, HIGH = LAMBDA_RANGE
gains_at = jax.jit(quantization.gains)


def random_log_gains(levels, channels=5, seed=0):
  return np.random.default_rng(seed).normal(size=(levels, channels)).astype(np.float32)


def test_the_level_of_the_lambda_of_a_level_is_that_level():
  lambdas = np.asarray(quantization.lambda_of(EVERY)).tolist()
  assert [level_of(lmbda) for lmbda in lambdas] == list(EVERY)


@given(st.floats(LOW, HIGH))
def test_a_lambda_is_within_half_a_step_of_that_of_its_level(lmbda):
  step = (HIGH / LOW) ** (1 / 255)
  nearest = LOW * step ** level_of(lmbda)
  assert abs(np.log(nearest / lmbda)) <= np.log(step) / 2 * (1 + 1e-9)


def test_the_range_of_lambdas_takes_all_level_bytes_and_what_is_beyond_the_nearest():
  assert (level_of(LOW), level_of(HIGH)) == (0, 255)
  assert (level_of(LOW / 10), level_of(HIGH * 10)) == (0, 255)
  found = np.asarray(quantization.lambda_of(jnp.array([0, 255])))
  np.testing.assert_allclose(found, [LOW, HIGH], rtol=1e-6)


@pytest.mark.parametrize('levels', [2, 4, 6, 16])
def test_gains_are_the_learned_ones_at_equally_spaced_levels(levels):
  log_gains = random_log_gains(levels)
  at = np.arange(levels) * 255 // (levels - 1)
  found = gains_at(log_gains, at)
  np.testing.assert_allclose(found, np.exp(log_gains, dtype=np.float64), rtol=1e-5)


def test_gains_between_learned_levels_are_geometric_means():
  log_gains = random_log_gains(6)  # Learned at every 51st level byte.
  found = np.asarray(gains_at(log_gains, EVERY), np.float64)
  for level in EVERY:
    below, share = min(level // 51, 4), (level - 51 * min(level // 51, 4)) / 51
    low, high = np.exp(log_gains.astype(np.float64))[[below, below + 1]]
    np.testing.assert_allclose(found[level], low ** (1 - share) * high**share, rtol=1e-5)


def test_a_model_of_one_rate_has_the_same_gains_at_every_level():
  log_gains = random_log_gains(1)
  np.testing.assert_allclose(
    gains_at(log_gains, EVERY), np.tile(np.exp(log_gains), (256, 1)), rtol=1e-6
  )


def test_every_learned_level_gets_gradients_from_the_bytes_near_it():
  grad = jax.jit(jax.grad(lambda v: quantization.gains(v, EVERY).sum()))(random_log_gains(6))
  assert (np.asarray(grad) > 0).all()


def test_initial_steps_are_in_proportion_to_the_root_of_lambda_and_centred_on_one():
  gain = np.asarray(gains_at(quantization.initial_log_gains(6, 3), EVERY), np.float64)
  assert gain.shape == (256, 3)
  np.testing.assert_allclose(gain[255] / gain[0], (HIGH / LOW) ** 0.5, rtol=1e-5)
  np.testing.assert_allclose(np.diff(np.log(gain), axis=0), np.log(HIGH / LOW) / 510, rtol=1e-2)
  np.testing.assert_allclose(gain[0] * gain[255], 1, rtol=1e-5)


def test_the_initial_gain_of_one_rate_is_one():
  np.testing.assert_array_equal(quantization.initial_log_gains(1, 4), np.zeros((1, 4)))


def test_straight_through_gives_integers_with_the_gradient_of_its_input():
  rng = np.random.default_rng(0)
  x = np.concatenate([rng.normal(0, 2.0**i, 2000) for i in range(-3, 12)]).astype(np.float32)
  x = np.append(x, np.float32([0.5, -0.5, 1.5, 2.5, 0.49999997, 8388607.5]))
  weight = rng.normal(size=len(x)).astype(np.float32)

  def loss(x):
    q = quantization.straight_through(x)
    return (weight * q).sum(), q

  (_, q), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
  np.testing.assert_array_equal(q, np.round(x))
  np.testing.assert_array_equal(grad, weight)


def test_steps_of_a_cosine_basis_are_those_of_its_formula_at_every_level():
  basis = dct.basis(8, 5)
  gain = np.asarray(gains_at(quantization.initial_log_gains(6, 5, 8), EVERY), np.float64)
  # Latents have variance 1: a step of 1 / gain is one of deviation / gain in the image.
  steps = basis.deviations.astype(np.float64) / gain
  expected = [dct.step(lmbda) for lmbda in np.asarray(quantization.lambda_of(EVERY)).tolist()]
  np.testing.assert_allclose(steps, np.tile(expected, (5, 1)).T, rtol=1e-4)


def test_one_rate_of_a_cosine_basis_has_the_steps_of_the_middle_lambda():
  gain = np.exp(np.asarray(quantization.initial_log_gains(1, 5, 8), np.float64))
  expected = dct.basis(8, 5).deviations / dct.step((LOW * HIGH) ** 0.5)
  np.testing.assert_allclose(gain, expected[None], rtol=1e-5)


def keys_of(*seeds):
  return jnp.stack([jax.random.key(seed) for seed in seeds])


def test_noise_is_uniform_in_half_a_unit_around_its_input_and_passes_gradients():
  x = jnp.full((4, 5, 5000), 3.0)
  found, backward = jax.vjp(lambda x: quantization.noise(keys_of(0, 1, 2, 3), x), x)
  np.testing.assert_array_equal(backward(x)[0], x)
  assert found.dtype == x.dtype
  error = np.sort(np.asarray(found).ravel() - 3.0)
  assert error[0] >= -0.5 and error[-1] <= 0.5
  expected = (np.arange(100_000) + 0.5) / 100_000 - 0.5
  assert np.abs(error - expected).max() < 1.95 / np.sqrt(100_000)  # Kolmogorov, p = 0.001.


def test_the_noise_of_an_example_is_a_function_of_its_key_wherever_it_stands():
  x = jnp.zeros((3, 2, 8))
  found = np.asarray(quantization.noise(keys_of(5, 6, 7), x))
  moved = np.asarray(quantization.noise(keys_of(7, 5, 5), x))
  np.testing.assert_array_equal(moved, found[[2, 0, 0]])
  np.testing.assert_array_equal(quantization.noise(keys_of(6), x[:1])[0], found[1])
  for i, j in ((0, 1), (0, 2), (1, 2)):
    assert (found[i] != found[j]).all()


SCALED, KEYS = jnp.array([[0.2, 1.6, -3.1]]), jax.random.split(jax.random.key(0), 1)


def slopes_of_counted(keys, exact):
  """The value, and its slopes by a parameter of the price and by what was rounded."""

  def total(weight, scaled):
    symbols = quantization.straight_through(scaled)
    return quantization.counted(lambda q: weight * q**2, symbols, scaled, keys, exact=exact).sum()

  return *jax.value_and_grad(total, (0, 1))(2.0, SCALED), quantization.noise(KEYS, SCALED)


@pytest.mark.parametrize('exact', [True, False])
def test_without_noise_symbols_are_counted_as_they_are(exact):
  value, (by_weight, by_scaled), _ = slopes_of_counted(None, exact)
  assert (value, by_weight) == (2 * (0 + 4 + 9), 0 + 4 + 9)
  np.testing.assert_allclose(by_scaled, [[0, 4 * 2, 4 * -3]])


def test_with_noise_that_is_counted():
  value, (by_weight, by_scaled), noisy = slopes_of_counted(KEYS, exact=False)
  assert value == pytest.approx(2 * float((noisy**2).sum()), rel=1e-6)
  assert by_weight == pytest.approx(float((noisy**2).sum()), rel=1e-6)
  np.testing.assert_allclose(by_scaled, 4 * noisy, rtol=1e-6)


def test_noise_moves_latents_only_where_whole_symbols_are_counted_and_teach_the_price():
  value, (by_weight, by_scaled), noisy = slopes_of_counted(KEYS, exact=True)
  assert (value, by_weight) == (2 * (0 + 4 + 9), 0 + 4 + 9)
  np.testing.assert_allclose(by_scaled, 4 * noisy, rtol=1e-6)


def test_one_level_and_any_array_of_levels_have_gains():
  log_gains = random_log_gains(6)
  expected = np.exp(log_gains)[[1, 3]]  # Learned at level bytes 51 and 153.
  np.testing.assert_allclose(gains_at(log_gains, 51), expected[0], rtol=1e-5)
  found = gains_at(log_gains, np.array([[51], [153]]))
  np.testing.assert_allclose(found, expected[:, None], rtol=1e-5)


@pytest.mark.parametrize('xp', [np, jnp])
def test_the_other_neighbour_is_taken_where_its_bits_are_worth_its_error(xp):
  x = xp.asarray([0.3, 0.3, 0.3, -0.45, 2.0])
  nearest, other = xp.asarray([0.0, 0, 0, 0, 2]), xp.asarray([1.0, 1, 1, -1, 1])
  saved = xp.asarray([3.9, 4.1, -9.0, 1.1, 9.0])
  # At 0.3 the farther one adds 0.7^2 - 0.3^2 = 0.4, at -0.45 0.1 and at 2 exactly 1.
  found = quantization.cheaper_of(x, nearest, other, saved, 0.1, xp)
  np.testing.assert_array_equal(found, [0, 1, 0, -1, 2])
