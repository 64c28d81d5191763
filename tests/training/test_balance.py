"""Rate and distortion are weighted as the equations say, the same on any number of devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compress_jax.codec import CodecError, Coded
from compress_jax.methods.cae import codec as cae
from compress_jax.training import balance, objectives, stages, trainer
from tests.helpers.small_plans import OPTIONS, PLAN

LEVEL = 100
LAMBDA = 0.0009 * (0.1 / 0.0009) ** (LEVEL / 255)


def test_a_term_is_weighted_by_its_share_over_one_plus_the_term():
  found = balance.weights(jnp.zeros(2), jnp.array([1.0, 3.0]))
  np.testing.assert_allclose(found, [2 / 3, 1 / 3], rtol=1e-6)  # 1/4 to 1/8.
  found = balance.weights(jnp.array([math.log(2), 0]), jnp.array([1.0, 3.0]))
  np.testing.assert_allclose(found, [0.8, 0.2], rtol=1e-6)  # 1/3 to 1/12.


def metrics(rate, distortion):
  return {balance.RATE: jnp.float32(rate), balance.DISTORTION: jnp.float32(distortion)}


def test_the_term_that_improved_more_gets_less_weight():
  found = balance.learned(balance.start(), metrics(1, 3), metrics(0, 3))
  # The first step of Adam is as long as its rate.
  np.testing.assert_allclose(found['logits'], [-0.025, 0.025], rtol=1e-3)
  found = balance.learned(balance.start(), metrics(1, 3), metrics(1, 2))
  np.testing.assert_allclose(found['logits'], [0.025, -0.025], rtol=1e-3)


def test_the_slope_is_that_of_the_improvement_weighted_by_the_softmax():
  state = {**balance.start(), 'logits': jnp.array([math.log(3), 0])}  # Shares of 3/4 and 1/4.
  found = balance.learned(state, metrics(1, 3), metrics(0, 1))
  # Both terms plus 1 are halved, so only the decay moves the logits.
  first = np.asarray(found['adam'][0].mu) / 0.1  # Adam's first moment is a tenth of the gradient.
  np.testing.assert_allclose(first, [0.003 * math.log(3), 0], atol=1e-7)
  found = balance.learned(state, metrics(1, 3), metrics(0, 3))
  slope = 3 / 16 * math.log(2)
  expected = [slope + 0.003 * math.log(3), -slope]
  np.testing.assert_allclose(np.asarray(found['adam'][0].mu) / 0.1, expected, rtol=1e-5)


def apply(params, x, level, keys):
  """A codec of `rate` bits per pixel and an error of `error` grey levels."""
  del level, keys
  bits = jnp.full(len(x), params['rate'] * x.shape[1] * x.shape[2])
  return Coded(x + params['error'] / 255, x[:, :1, :1], {'y': bits})


PARAMS = {'rate': np.float32(1.0), 'error': np.float32(math.sqrt(3 / LAMBDA))}  # Terms 1 and 3.


def test_the_gradient_is_the_weighted_sum_of_those_of_rate_and_distortion():
  loss = objectives.rate_distortion(apply, level=LEVEL, balanced=True)
  state = {balance.STATE: balance.start()}
  x, keys = jnp.full((2, 4, 4, 3), 0.5), jax.random.split(jax.random.key(0), 2)
  slopes, (after, found) = jax.grad(loss, has_aux=True)(PARAMS, state, x, keys, jnp.int32(0))
  assert float(slopes['rate']) == pytest.approx(2 / 3, rel=1e-4)
  expected = 1 / 3 * 2 * LAMBDA * float(PARAMS['error'])
  assert float(slopes['error']) == pytest.approx(expected, rel=1e-4)
  assert float(found['loss']) == pytest.approx(4, rel=1e-4)  # As without the balance.
  assert float(found['rate_weight']) == pytest.approx(2 / 3, rel=1e-4)
  assert not np.any(after[balance.STATE]['logits'])  # They learn after the update.


def of_images(params, x, level, keys):
  """A codec whose rate and error differ from example to example."""
  scale = 1 + x.mean((1, 2, 3))
  coded = apply(params, x, level, keys)
  error = (params['error'] / 255 * scale**2)[:, None, None, None]
  return coded._replace(x_hat=x + error, bits={'y': coded.bits['y'] * scale})


def trained(devices, steps=3):
  loss = objectives.rate_distortion(of_images, level=LEVEL, balanced=True, axis=trainer.AXIS)
  optimizer = trainer.adam(1e-2)
  step = trainer.make_train_step(loss, optimizer, seed=0)
  state = trainer.start(PARAMS, {balance.STATE: balance.start()}, optimizer, steps)
  data = np.random.default_rng(0).integers(0, 256, (steps, 8, 4, 4, 3)).astype(np.uint8)
  index = np.arange(8, dtype=np.int32).reshape(devices, -1)
  for batch in data:
    state, _ = step(state, batch.reshape(devices, 1, -1, 4, 4, 3), index)
  return state


def test_weights_learn_from_the_same_batch_and_equally_on_all_devices():
  one, four = trained(1), trained(4)
  logits = np.asarray(one.state[balance.STATE]['logits'])
  assert 0.02 < np.abs(logits).max() < 0.08 and logits.sum() == pytest.approx(0, abs=1e-3)
  for a, b in zip(*(jax.tree.leaves((s.params, s.state)) for s in (one, four)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_update_that_is_left_out_teaches_nothing():
  def poisoned(params, x, level, keys):
    return of_images(params, x + jnp.nan * params['rate'], level, keys)

  loss = objectives.rate_distortion(poisoned, level=LEVEL, balanced=True, axis=trainer.AXIS)
  optimizer = trainer.adam(1e-2)
  step = trainer.make_train_step(loss, optimizer, seed=0)
  state = trainer.start(PARAMS, {balance.STATE: balance.start()}, optimizer, 3)
  state, _ = step(state, np.zeros((1, 1, 8, 4, 4, 3), np.uint8), np.arange(8, dtype=np.int32)[None])
  assert int(state.skipped) == 1 and not np.any(state.state[balance.STATE]['logits'])


def test_an_update_after_which_the_loss_is_not_finite_teaches_nothing():
  def poisoned(params, x, level, keys):
    updated = params['rate'] != PARAMS['rate']
    return of_images(params, x + jnp.where(updated, jnp.nan, 0.0), level, keys)

  loss = objectives.rate_distortion(poisoned, level=LEVEL, balanced=True, axis=trainer.AXIS)
  optimizer = trainer.adam(1e-2)
  step = trainer.make_train_step(loss, optimizer, seed=0)
  state = trainer.start(PARAMS, {balance.STATE: balance.start()}, optimizer, 3)
  state, _ = step(state, np.zeros((1, 1, 8, 4, 4, 3), np.uint8), np.arange(8, dtype=np.int32)[None])
  assert int(state.skipped) == 0
  known = jax.tree.leaves(balance.start())
  for value, before in zip(jax.tree.leaves(state.state[balance.STATE]), known, strict=True):
    np.testing.assert_array_equal(value, before)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'stage': 'decoder', 'start': 'x'}, 'balanced=True is of the stage rate-distortion'),
    ({'channel_steps': 10}, 'goes neither with --target_rate nor with channel_steps'),
    ({'target_rate': 0.3, 'lmbda': 0.013}, 'goes neither with --target_rate'),
  ],
)
def test_the_balance_is_refused_where_it_has_no_meaning(change, message):
  with pytest.raises(CodecError, match=message):
    stages.setup_of(PLAN._replace(balanced=True, **change), cae.codec(**OPTIONS))
