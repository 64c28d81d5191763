"""Gains in integers do what gains in floats do."""

import numpy as np
import pytest
from scipy import special

from compress_jax.exact import rates, tables

CHANNELS = 5
LIMIT = 32767


def random_gains(seed=0):
  """f64[256, C] from 1/10 to 10."""
  return 10.0 ** np.random.default_rng(seed).uniform(-1, 1, (256, CHANNELS))


GAINS = random_gains()
RATES = rates.rates_of(GAINS)
UNIT = rates.rates_of(np.ones((256, CHANNELS)))


def test_tables_hold_gains_their_inverses_and_sixteenths_of_octaves():
  for table in RATES:
    assert table.shape == (256, CHANNELS) and table.dtype == np.int64
  np.testing.assert_allclose(RATES.gain / 2**16, GAINS, atol=2.0**-17)
  np.testing.assert_allclose(RATES.inverse / 2**16, 2**16 / RATES.gain, atol=2.0**-17)
  assert np.abs(RATES.offset - 16 * np.log2(GAINS)).max() <= 0.51
  powers = rates.rates_of(2.0 ** np.arange(-4, 4)[:, None])
  np.testing.assert_array_equal(powers.offset[:, 0], 16 * np.arange(-4, 4))
  np.testing.assert_array_equal(powers.gain[:, 0] * powers.inverse[:, 0], 2**32)


def test_gains_too_small_for_the_table_become_its_smallest():
  found = rates.rates_of(np.full((1, 1), 1e-30))
  assert (found.gain, found.inverse, found.offset) == (1, 2**32, -256)


@pytest.mark.parametrize('level', [0, 100, 255])
def test_quantising_rounds_the_scaled_latent_less_the_mean(level):
  rng = np.random.default_rng(level)
  y = rng.normal(0, 20, (7, 6, CHANNELS)).astype(np.float32)
  mean = rng.integers(-2000, 2000, y.shape).astype(np.float64)
  for shift in (0.0, mean):
    scaled = y * GAINS[level] - shift / 256
    found = rates.quantise(y, RATES, level, shift)
    # 2^-17 off per unit of y: only near a half may the rounding differ.
    sure = np.abs(scaled % 1 - 0.5) > 1e-3
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(found[sure], np.rint(scaled)[sure])
    assert np.abs(found - scaled).max() < 0.502


def test_symbols_stop_at_the_largest_there_is():
  y = np.full((1, CHANNELS), 1e9, np.float32)
  np.testing.assert_array_equal(rates.quantise(y, RATES, 0), LIMIT)
  np.testing.assert_array_equal(rates.quantise(-y * np.inf, RATES, 0), -LIMIT)


def test_symbols_come_back_from_the_latents_they_stand_for():
  q = np.arange(-5000, 5001)[:, None] * np.ones(CHANNELS, np.int64)
  mean = np.random.default_rng(0).integers(-(2**20), 2**20, q.shape).astype(np.float64)
  for level in range(0, 256, 5):
    y = rates.dequantise(q, RATES, level)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, q / GAINS[level], rtol=2e-4)
    np.testing.assert_array_equal(rates.quantise(y, RATES, level), q)
  # With a mean as well; a gain of 1 is its own inverse.
  y = rates.dequantise(q, UNIT, 7, mean)
  np.testing.assert_allclose(y, q + mean / 256, atol=1e-3)
  np.testing.assert_array_equal(rates.quantise(y, UNIT, 7, mean), q)


@pytest.mark.parametrize('bits', [-3, 0, 9, 24])
def test_fixed_point_is_the_latent_in_units_rounded_half_up_and_clipped(bits):
  q = np.concatenate([np.arange(-300, 301), [LIMIT, -LIMIT, 12345]])[:, None]
  for level in (0, 77, 255):
    found = rates.fixed_point(np.repeat(q, CHANNELS, 1), RATES, level, bits)
    for c in range(CHANNELS):
      for value, symbol in zip(found[:, c], q[:, 0].tolist(), strict=True):
        # In Python's integers: floor((q * inverse * 2^bits / 2^16) + 1/2).
        double = symbol * int(RATES.inverse[level, c]) * 2 ** (bits + 4)
        expected = (double + 2**19) >> 20
        assert value == min(max(expected, -(2**19 - 1)), 2**19 - 1)


def test_scale_indices_are_those_of_the_scaled_sigma_within_one():
  sigma = 2.0 ** np.random.default_rng(0).uniform(-6, 9, (400, CHANNELS))
  for level in (0, 128, 255):
    found = rates.scales_at(np.rint(sigma * 2**16), RATES, level)
    exact = np.clip(16 * np.log2(sigma * GAINS[level] / 0.11), 0, 179)
    assert np.abs(found - exact).max() <= 1.05  # Half each of the index and of the offset.
    assert found.min() == 0 and found.max() == 179


def test_gains_act_on_scales_that_are_outside_of_the_table_alone():
  """A sigma below 0.11 that a gain lifts into the table keeps its ratio to others."""
  found = rates.scales_at(np.array([[0.02 * 2**16]]), rates.rates_of(np.full((1, 1), 16.0)), 0)
  assert found == round(16 * np.log2(0.32 / 0.11))


def test_negative_scales_are_the_smallest():
  sigma = np.array([[0.0], [-1.0], [-(2.0**25)]])
  assert not rates.scales_at(sigma, UNIT, 0).any()


def test_means_are_scaled_by_the_gain_into_256ths():
  rng = np.random.default_rng(0)
  mean = rng.integers(-(2**20), 2**20, (50, CHANNELS)).astype(np.float64)
  for level in (0, 200):
    found = rates.means_at(mean, RATES, level)
    for c in range(CHANNELS):
      gain = int(RATES.gain[level, c])
      expected = [(int(m) * gain + 2**19) >> 20 for m in mean[:, c]]
      np.testing.assert_array_equal(found[:, c], expected)
    np.testing.assert_allclose(found / 256, mean / 2**12 * GAINS[level], atol=2e-2)
  extremes = rates.means_at(np.array([[2.0**25], [-(2.0**25)]]) * np.ones(CHANNELS), RATES, 3)
  assert np.abs(extremes).max() <= 2**23


@pytest.mark.parametrize('k', [1, 2, 3])
def test_a_mixture_takes_scales_means_and_logits_part_by_part(k):
  n, level = 40, 90
  rng = np.random.default_rng(k)
  sigma = 2.0 ** rng.uniform(-3, 6, (n, k, CHANNELS))
  mean, logits = rng.normal(0, 9, (n, k, CHANNELS)), rng.normal(0, 2, (n, k, CHANNELS))
  parts = [sigma * 2**16, mean * 2**12] + [logits * 2**6] * (k > 1)
  outputs = np.rint(np.stack(parts, 1)).reshape(n, -1)
  found = rates.mixture_at(outputs, k, RATES, level)
  assert all(field.shape == (n * CHANNELS, k) for field in found)
  # Symbols are ordered position by position, channel by channel.
  by_symbol = [field.transpose(0, 2, 1).reshape(-1, k) for field in (sigma, mean, logits)]
  gain = np.tile(GAINS[level], n)[:, None]
  index = np.clip(16 * np.log2(by_symbol[0] * gain / 0.11), 0, 179)
  assert np.abs(found.index - index).max() <= 1.05
  np.testing.assert_allclose(found.mean / 256, by_symbol[1] * gain, atol=5e-3)
  share = found.weight / found.weight.sum(1, keepdims=True)
  expected = special.softmax(by_symbol[2], 1) if k > 1 else np.ones((n * CHANNELS, 1))
  np.testing.assert_allclose(share, expected, atol=1e-2)
  assert (found.weight.max(1) == 2**15).all()


def test_a_hopeless_component_has_no_weight_and_does_not_overflow():
  outputs = np.zeros((1, 3, 2, 1))
  outputs[0, 2, :, 0] = 2**25, -(2**25)
  found = rates.mixture_at(outputs.reshape(1, -1), 2, rates.rates_of(np.ones((1, 1))), 0)
  np.testing.assert_array_equal(found.weight, [[2**15, tables.EXP[-1]]])
  assert tables.EXP[-1] == 0
