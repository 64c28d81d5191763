"""Which lambda a batch has when training is controlled to a rate, by the constants of HiFiC."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.codec import Coded
from compress_jax.training import losses, objectives, target_rate
from compress_jax.training.target_rate import Target

K_M = 0.075 * 2**-5  # The paper's weight of the MSE.
LOW = Target(0.14, K_M / 2)  # Its model of the lowest rate: the rate weighs 2 above the target.


def weight_at(target, bpp, step=0):
  """The paper's weight of the rate."""
  return K_M / float(target_rate.lambda_at(target, jnp.float32(bpp), jnp.int32(step)))


def test_the_rate_weighs_what_it_does_in_the_paper():
  assert weight_at(LOW, 0.141) == pytest.approx(2)
  assert weight_at(LOW, 0.139) == pytest.approx(2**-4)
  assert weight_at(Target(0.14, K_M / 2, K_M / 2**-6), 0.139) == pytest.approx(2**-6)
  assert weight_at(Target(0.45, K_M / 0.5), 0.5) == pytest.approx(0.5)


def test_a_relaxed_start_has_a_higher_target_and_half_of_the_weights():
  target = LOW._replace(relaxed=10)
  assert weight_at(target, 0.19, 9) == pytest.approx(2**-5)  # Below 0.20.
  assert weight_at(target, 0.21, 9) == pytest.approx(1)
  assert weight_at(target, 0.19, 10) == pytest.approx(2)
  assert weight_at(target, 0.13, 10) == pytest.approx(2**-4)


def test_the_start_is_as_long_as_in_the_paper_or_a_twentieth():
  assert target_rate.relaxed_steps(1_000_000) == 50_000
  assert target_rate.relaxed_steps(10_000_000) == 50_000
  assert target_rate.relaxed_steps(10_000) == 500


def apply(params, x, level, keys):
  """A codec of 0.2 bpp as files have it, and of a rate that grows with its parameter with noise."""
  pixels = x.shape[1] * x.shape[2]
  noisy = 5 * params['rate'] * jnp.ones(len(x))
  bits = 0.2 * jnp.ones(len(x)) if keys is None else noisy
  return Coded(x + params['error'] / 255, x[:, :1, :1], {'y': pixels * bits})


X = jnp.zeros((4, 2, 2, 3))
KEYS = jax.random.split(jax.random.key(0), 4)
PARAMS = {'rate': jnp.float32(3.0), 'error': jnp.float32(7.0)}


@functools.partial(jax.jit, static_argnames='target')
def slopes(target, step):
  loss = objectives.rate_distortion(apply, level=100, target=target)
  return jax.value_and_grad(loss, has_aux=True)(PARAMS, {}, X, KEYS, step)


@pytest.mark.parametrize('bpp,weight', [(0.19, 2), (0.21, 2**-4)])
def test_the_slopes_are_those_of_the_weighted_rate_and_the_distortion(bpp, weight):
  (total, (_, metrics)), found = slopes(LOW._replace(bpp=bpp), 0)
  assert float(found['rate']) == pytest.approx(weight * 5, rel=1e-5)  # Of the rate with noise.
  assert float(found['error']) == pytest.approx(K_M * 2 * 7, rel=1e-4)
  assert float(total) == pytest.approx(weight * 15 + K_M * 49, rel=1e-5)
  assert float(metrics['bpp_rounded']) == pytest.approx(0.2)
  assert float(metrics['lambda']) == pytest.approx(K_M / weight)
  assert float(metrics['bpp']) == pytest.approx(15)


def test_all_devices_follow_the_rate_of_the_whole_batch():
  """Bits of 1 to 4 per pixel on four devices: the mean is 2.5, above 2.4 and below 2.6."""
  devices = jax.local_device_count()
  bits = np.arange(1.0, devices + 1)[:, None] * np.ones((devices, 2))
  for side, above in ((-0.1, True), (0.1, False)):
    target = Target(bits.mean() + side, 0.5, 0.9, axis='d')
    found = jax.pmap(lambda b, t=target: target_rate.controlled(t, lambda: 4 * b, 4, 0), 'd')(bits)
    np.testing.assert_allclose(found['bpp_rounded'], bits.mean())
    np.testing.assert_allclose(found['lambda'], 0.5 if above else 0.9)


def test_no_gradient_reaches_what_decides():
  controlled = lambda b: target_rate.controlled(LOW, lambda: b, 4, 0)['bpp_rounded']  # noqa: E731
  assert not np.any(jax.grad(controlled)(jnp.ones(3)))


def test_the_weights_of_mse_are_one_number():
  assert pytest.approx(K_M) == target_rate.MSE_WEIGHT
  assert pytest.approx(152.4, rel=1e-3) == losses.PEAK**2 * K_M  # On images of [0, 1].
