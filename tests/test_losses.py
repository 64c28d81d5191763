import jax
import numpy as np
import pytest

from compress_jax import losses
from compress_jax.codec import Coded
from compress_jax.levels import LAMBDA_RANGE

rate_distortion = jax.jit(losses.rate_distortion)
MIDDLE = (LAMBDA_RANGE[0] * LAMBDA_RANGE[1]) ** 0.5  # Where examples have weight 1.


def coded(x_hat, **bits):
  return Coded(x_hat, np.zeros(0), {name: np.float32(values) for name, values in bits.items()})


def test_a_case_solved_by_hand():
  x = np.zeros((1, 2, 4, 3), np.float32)
  # 8 pixels, 24 bits: 3 bpp. An error of 2 / 255 everywhere: MSE 4.
  loss, metrics = rate_distortion(x, coded(x + 2 / 255, y=[16.0], z=[8.0]), np.float32([MIDDLE]))
  assert loss == pytest.approx(3 + 4 * MIDDLE, rel=1e-5)
  expected = {'bpp': 3, 'mse': 4, 'bpp_y': 2, 'bpp_z': 1}
  assert {k: pytest.approx(float(v), rel=1e-5) for k, v in metrics.items()} == expected


def test_examples_are_averaged_with_weights_of_one_over_the_root_of_lambda():
  lmbda = np.array([MIDDLE, 4 * MIDDLE, MIDDLE / 100])
  x = np.zeros((3, 4, 4, 3), np.float32)
  x_hat = x + np.float32([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1) / 255
  loss, metrics = rate_distortion(x, coded(x_hat, y=[16.0, 32.0, 48.0]), lmbda)
  terms = [1 + MIDDLE * 1, 2 + 4 * MIDDLE * 4, 3 + MIDDLE / 100 * 9]
  expected = np.mean(np.array(terms) * [1, 1 / 2, 10])
  assert loss == pytest.approx(expected, rel=1e-5)
  assert float(metrics['bpp']) == pytest.approx(2)
  assert float(metrics['mse']) == pytest.approx(14 / 3, rel=1e-5)


def test_the_gradient_trades_bits_for_errors_at_lambda():
  lmbda, x = np.float32([MIDDLE]), np.full((1, 4, 4, 3), 0.5, np.float32)

  def loss(error, bits):
    return rate_distortion(x, Coded(x + error, x, {'y': bits}), lmbda)[0]

  by_error, by_bits = jax.jit(jax.grad(loss, (0, 1)))(np.float32(0.1), np.ones(1, np.float32))
  assert by_bits[0] == pytest.approx(1 / 16)
  assert by_error == pytest.approx(MIDDLE * 255**2 * 2 * 0.1, rel=1e-4)
