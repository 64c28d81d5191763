import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.codec import LAMBDA_RANGE, CodecError, Coded
from compress_jax.evaluation import metrics
from compress_jax.training import losses

rate_distortion = jax.jit(losses.rate_distortion)
ms_ssim = jax.jit(losses.ms_ssim)
MIDDLE = (LAMBDA_RANGE[0] * LAMBDA_RANGE[1]) ** 0.5  # Where examples have weight 1.


def coded(x_hat, **bits):
  return Coded(x_hat, np.zeros(0), {name: np.float32(values) for name, values in bits.items()})


def test_a_case_solved_by_hand():
  x = np.zeros((1, 2, 4, 3), np.float32)
  # 8 pixels, 24 bits: 3 bpp. An error of 2 / 255 everywhere: MSE 4.
  loss, found = rate_distortion(x, coded(x + 2 / 255, y=[16.0], z=[8.0]), np.float32([MIDDLE]))
  assert loss == pytest.approx(3 + 4 * MIDDLE, rel=1e-5)
  expected = {'loss': 3 + 4 * MIDDLE, 'bpp': 3, 'mse': 4, 'bpp_y': 2, 'bpp_z': 1}
  assert {k: pytest.approx(float(v), rel=1e-5) for k, v in found.items()} == expected


def test_examples_are_averaged_with_weights_of_one_over_the_root_of_lambda():
  lmbda = np.array([MIDDLE, 4 * MIDDLE, MIDDLE / 100])
  x = np.zeros((3, 4, 4, 3), np.float32)
  x_hat = x + np.float32([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1) / 255
  loss, found = rate_distortion(x, coded(x_hat, y=[16.0, 32.0, 48.0]), lmbda)
  terms = [1 + MIDDLE * 1, 2 + 4 * MIDDLE * 4, 3 + MIDDLE / 100 * 9]
  expected = np.mean(np.array(terms) * [1, 1 / 2, 10])
  assert loss == pytest.approx(expected, rel=1e-5)
  assert float(found['bpp']) == pytest.approx(2)
  assert float(found['mse']) == pytest.approx(14 / 3, rel=1e-5)


def test_another_distortion_and_other_weights_take_the_place_of_the_usual_ones():
  x = np.zeros((2, 2, 2, 3), np.float32)
  loss, found = rate_distortion(
    x,
    coded(x + 1 / 255, y=[4.0, 8.0]),
    np.float32([0.5, 0.25]),
    distortion=np.float32([6.0, 8.0]),
    weight=np.float32([1.0, 3.0]),
  )
  assert loss == pytest.approx((1 * (1 + 0.5 * 6) + 3 * (2 + 0.25 * 8)) / 2)
  assert float(found['mse']) == pytest.approx(1, rel=1e-5)


def test_the_gradient_trades_bits_for_errors_at_lambda():
  lmbda, x = np.float32([MIDDLE]), np.full((1, 4, 4, 3), 0.5, np.float32)

  def loss(error, bits):
    return rate_distortion(x, Coded(x + error, x, {'y': bits}), lmbda)[0]

  by_error, by_bits = jax.jit(jax.grad(loss, (0, 1)))(np.float32(0.1), np.ones(1, np.float32))
  assert by_bits[0] == pytest.approx(1 / 16)
  assert by_error == pytest.approx(MIDDLE * 255**2 * 2 * 0.1, rel=1e-4)


def test_squared_errors_are_those_of_each_example():
  x = np.zeros((2, 1, 2, 3), np.float32)
  x_hat = x.copy()
  x_hat[0, 0, 0] = np.float32([1, 2, 3]) / 255
  x_hat[1] = 5 / 255
  np.testing.assert_allclose(losses.squared_error(x, x_hat), [14 / 6, 25], rtol=1e-5)


def test_coarse_errors_are_those_of_the_means_of_4x4_pixels():
  x = np.zeros((2, 8, 12, 1), np.float32)
  x_hat = x.copy()
  x_hat[0, 4:, 8:] = 1 / 255  # One of six cells.
  x_hat[1, ::2], x_hat[1, 1::2] = 0.5, -0.5  # Nothing but detail.
  np.testing.assert_allclose(losses.coarse_error(x, x_hat), [1 / 6, 0], atol=1e-5)


def noisy(height, width, sigma, seed=0):
  """Two pairs u8[2, H, W, 3] of smooth images and of what noise, and shade, makes of them."""
  rng = np.random.default_rng(seed)
  y, x, shift = np.arange(height)[:, None, None], np.arange(width)[:, None], np.arange(3) * 2
  base = 128 + 60 * np.sin(x / 9 + shift) * np.cos(y / 7) + 30 * np.sin((x + y) / 2.5)
  a = np.stack([base, 255 - base[::-1]])
  b = a * np.reshape([1, 0.6], (2, 1, 1, 1)) + rng.normal(0, sigma, a.shape)
  return [np.clip(v, 0, 255).astype(np.uint8) for v in (a, b)]


@functools.cache
def large():
  a, b = noisy(166, 171, 20.0)
  return a, b, ms_ssim(a / 255, b / 255)


def test_ms_ssim_is_that_of_the_metric_where_all_scales_fit():
  a, b, found = large()
  expected = [metrics.ms_ssim(*pair) for pair in zip(a, b, strict=True)]
  np.testing.assert_allclose(found, expected, atol=2e-5)
  assert found[0] - found[1] > 0.01 and found.max() < 0.99


def test_ms_ssim_distortion_is_how_much_similarity_lacks():
  a, b, found = large()
  distortion = jax.jit(losses.ms_ssim_distortion)(a / 255, b / 255)
  np.testing.assert_allclose(distortion, 1280 * (1 - found), atol=1e-2)


def test_the_scale_of_ms_ssim_is_inside_of_the_published_ratios_of_lambdas():
  # CompressAI's page of its model zoo: for MS-SSIM and for MSE, qualities 1 to 8.
  ms = [2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00]
  mse = [0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800]
  ratios = np.array(ms) / mse
  assert ratios.min() < losses.MS_SSIM_SCALE < ratios.max()
  assert ratios.max() < 1.1 * ratios.min()


SCALES = {11: 1, 20: 1, 22: 2, 40: 2, 44: 3, 80: 3, 88: 4, 160: 4, 176: 5}


@pytest.mark.parametrize('side', SCALES)
def test_small_images_have_the_scales_that_fit_with_weights_of_sum_one(side):
  low, high, weights = 50.0, 150.0, (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[: SCALES[side]]
  x = np.full((1, side, side + 16, 3), low / 255, np.float32)
  # Flat images differ in luminance alone, which counts at the coarsest scale.
  luminance = (2 * low * high + 6.5025) / (low**2 + high**2 + 6.5025)
  found = ms_ssim(x, np.full_like(x, high / 255))[0]
  assert found == pytest.approx(luminance ** (weights[-1] / sum(weights)), abs=1e-4)


def test_images_smaller_than_the_window_are_refused():
  with pytest.raises(CodecError, match='11 pixels, not 10'):
    losses.ms_ssim(np.zeros((1, 10, 30, 3)), np.zeros((1, 10, 30, 3)))


@jax.jit
def slope(x, x_hat):
  return jax.grad(lambda value: losses.ms_ssim_distortion(x, value).sum())(x_hat)


def test_the_gradient_of_ms_ssim_is_finite_and_points_to_what_is_more_alike():
  a, b = (v / np.float32(255) for v in noisy(32, 36, 25.0))
  cases = {'noise': b, 'negative': 1 - a, 'flat': np.full_like(a, 0.5), 'black': 0 * a}
  for name, x_hat in cases.items():
    found = np.asarray(slope(a, x_hat))
    assert np.isfinite(found).all() and np.abs(found).max() > 0, name
    step = 1e-3 * found / np.abs(found).max()
    if name == 'noise':
      better, before = ms_ssim(a, x_hat - step), ms_ssim(a, x_hat)
      assert (better > before).all()
  assert np.abs(slope(a, a)).max() < 0.2
  assert np.isfinite(slope(0 * a, 0 * a)).all()


def test_feature_matching_of_a_case_solved_by_hand():
  real = [np.float32([[1, -3], [2, 2]]), np.float32([[[4], [4]], [[1], [0]]])]
  found = losses.feature_matching(real, [np.float32([[2, -3], [2, 2]]), real[1] + 1])
  # Example 0: 0.5 / 2 and 1 / 4; example 1: 0 and 1 / 0.5.
  np.testing.assert_allclose(found, [(1 / 4 + 1 / 4) / 2, (0 + 2) / 2], rtol=1e-5)


def test_feature_matching_ignores_how_features_are_scaled_and_leaves_the_real_ones():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 3, 4, 5, 2)).astype(np.float32)
  np.testing.assert_allclose(
    losses.feature_matching([a], [b]), losses.feature_matching([9 * a], [9 * b]), rtol=1e-4
  )
  by_real, by_coded = jax.grad(lambda *v: losses.feature_matching(*v).sum(), (0, 1))([a], [b])
  assert not np.asarray(by_real[0]).any() and np.asarray(by_coded[0]).all()


def test_cross_entropies_of_cases_solved_by_hand():
  logits = jnp.array([[0.0, 0.0], [math.log(3), math.log(1 / 3)], [100.0, 100.0]])
  mixed = (math.log(4 / 3) + math.log(4)) / 2  # Probabilities 3/4 and 1/4.
  expected = [math.log(2), mixed, 0]
  np.testing.assert_allclose(losses.called_real(logits), expected, rtol=1e-5)
  np.testing.assert_allclose(losses.called_coded(logits), [*expected[:2], 100], rtol=1e-5)
