"""What the options of Theis et al. (2017) do to cae."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compress_jax.codec import CodecError
from compress_jax.layers import entropy
from compress_jax.layers.quantization import noise
from compress_jax.methods.cae import codec as cae
from compress_jax.methods.cae import networks
from compress_jax.training import masking, objectives, stages
from tests.helpers.modules import jit
from tests.helpers.small_plans import KEYS, LEVELS, OPTIONS, PLAN, X, start

LEVEL = jnp.array([100, 200], jnp.int32)
MASK = np.array([True, False, True, True, False])


@jit
def forward(params, mask, keys):
  """What is coded, and the gradient of rate and error by the parameters."""

  def total(params):
    coded = cae.codec(**OPTIONS).apply(params, X, LEVEL, keys, mask=mask)
    return coded.bits['y'].sum() + 1e3 * jnp.sum((coded.x_hat - X) ** 2), coded

  grads, coded = jax.grad(total, has_aux=True)(params)
  return coded, grads


# One channel after the other.


@pytest.mark.parametrize('step,on', [(0, 2), (9, 2), (10, 3), (29, 4), (30, 5), (1000, 5)])
def test_channels_are_enabled_in_order_one_every_so_many_steps(step, on):
  mask = jit(lambda step: masking.mask_of(step, 5, 10))(step)
  assert mask.tolist() == [True] * on + [False] * (5 - on)
  assert (step >= masking.steps_until_all(5, 10)) == (on == 5)


def test_two_channels_are_on_from_the_start():
  assert masking.mask_of(0, 1, 10).tolist() == [True]
  assert masking.steps_until_all(1, 10) == masking.steps_until_all(2, 10) == 0


def test_masked_channels_send_zeros_and_cost_nothing():
  coded, _ = forward(start(), MASK, KEYS)
  rest, _ = forward(start(), ~MASK, KEYS)
  every, _ = forward(start(), np.full(5, True), KEYS)
  none, _ = forward(start(), np.full(5, False), KEYS)
  assert not np.asarray(coded.y_hat)[..., ~MASK].any()
  np.testing.assert_array_equal(coded.y_hat[..., MASK], every.y_hat[..., MASK])
  np.testing.assert_allclose(coded.bits['y'] + rest.bits['y'], every.bits['y'], rtol=1e-4)
  assert (np.minimum(coded.bits['y'], rest.bits['y']) > 0.1).all()
  assert not np.asarray(none.bits['y']).any()


def test_masked_channels_have_no_gradient_and_the_others_do():
  grads = forward(start(), MASK, KEYS)[1]
  of_channels = {
    'last convolution': grads['analysis']['down2']['kernel'],
    'linear analysis': grads['analysis']['linear']['kernel'],
    'linear synthesis': grads['synthesis']['linear']['kernel'].T,
    'first convolution back': jnp.moveaxis(grads['synthesis']['up0']['conv']['kernel'], 2, -1),
    'weights': grads['prior']['logits'],
    'scales': grads['prior']['log_scales'],
    'gains': grads['log_gains'],
  }
  for name, grad in of_channels.items():
    largest = np.abs(np.asarray(grad)).reshape(-1, 5).max(0)
    assert (largest[MASK] > 0).all() and not largest[~MASK].any(), name


def test_the_mask_of_a_step_is_in_its_loss():
  seen = []

  def apply(params, x, level, keys, mask):
    seen.append(np.asarray(mask).tolist())
    return params + x + level + keys

  def loss_of(apply):
    of = lambda weights, params, state, x, keys, step: (apply(params, x, 30, keys), state)  # noqa: E731
    return objectives.Weighted(of, ())

  loss = masking.incremental(apply, loss_of, channels=4, every=7)
  assert loss(1, 'state', 10, 1000, jnp.asarray(7)) == (1041, 'state')
  assert seen == [[True, True, True, False]]


def test_weights_of_a_masked_loss_are_arguments_of_it():
  def loss_of(apply):
    of = lambda weights, params, state, x, keys, step: (weights * apply(params, x, 0, keys), state)  # noqa: E731
    return objectives.Weighted(of, 3.0)

  apply = lambda params, x, level, keys, mask=None: x + jnp.sum(mask)  # noqa: E731
  loss = masking.incremental(apply, loss_of, channels=4, every=7)
  assert loss.weights == 3
  assert loss(0, 'state', 10, 0, jnp.asarray(7)) == (39, 'state')
  assert loss.of(5.0, 0, 'state', 10, 0, jnp.asarray(0)) == (60, 'state')


def test_a_plan_with_steps_for_each_channel_trains_those_that_are_on():
  codec = cae.codec(**OPTIONS)
  setup = stages.setup_of(PLAN._replace(channel_steps=30, lmbda=0.01), codec)
  slope = jit(jax.grad(lambda params, step: setup.loss(params, {}, X, KEYS, step)[0]))
  for step, on in ((0, 2), (59, 3), (90, 5)):
    found = np.abs(slope(start(), step)['log_gains']).max(0)
    assert (found > 0).tolist() == [True] * on + [False] * (5 - on)


# The bound of the rate.


@functools.cache
def bits_near(symbol):
  """Of three scale mixtures, at f32[n] in the unit interval around a symbol: density and mass."""
  rng = np.random.default_rng(0)
  params = {'logits': rng.normal(size=(4, 3)), 'log_scales': rng.uniform(-3, 2, (4, 3))}
  prior, n = networks.Prior(3, 4), 4000
  u = (np.arange(n) + 0.5) / n - 0.5  # The midpoint rule.
  at = jnp.tile(jnp.asarray(symbol + u, jnp.float32)[:, None, None, None], (1, 1, 1, 3))
  gain = jnp.array([0.5, 1.0, 3.0])[None, None, None]
  density = prior.apply({'params': params}, at, gain, method='density_bits')
  mixture = prior.apply({'params': params}, gain)
  whole = jnp.full((1, 1, 1, 3), symbol * 1.0)
  mass = -np.log2(entropy.mixture_likelihood(whole, *mixture))
  return np.asarray(density, np.float64)[:, 0, 0], mass[0, 0, 0].astype(np.float64)


@pytest.mark.parametrize('symbol', [0, 1, -3, 6])
def test_the_density_integrates_to_the_probability_of_a_symbol(symbol):
  density, mass = bits_near(symbol)
  np.testing.assert_allclose(-np.log2(np.mean(2.0**-density, 0)), mass, rtol=2e-3)


@pytest.mark.parametrize('symbol', [0, 1, -3, 6])
def test_the_mean_bits_of_the_density_bound_those_of_the_symbol(symbol):
  density, mass = bits_near(symbol)
  excess = density.mean(0) - mass
  assert (excess > -1e-4).all()
  assert excess.max() > 0.02


def test_the_rate_of_the_rounded_bound_is_that_of_the_rounded_code_and_noise():
  codec = cae.codec(**OPTIONS, bound='rounded')
  params = start()

  @jit
  def coded(params):
    exact = codec.apply(params, X, LEVEL, None)
    return (
      codec.apply(params, X, LEVEL, KEYS),
      exact,
      cae.codec(**OPTIONS).apply(params, X, LEVEL, None),
    )

  found, exact, plain = coded(params)
  share = np.array([[100.0], [200.0]]) / 255 * (LEVELS - 1)
  below, table = share.astype(int), np.asarray(params['log_gains'])
  part = share - below
  gain = np.exp(table[below[:, 0]] * (1 - part) + table[below[:, 0] + 1] * part)[:, None, None]
  q = np.rint(np.asarray(exact.y_hat) * gain)
  at = q + noise(KEYS, jnp.zeros(q.shape))
  prior = networks.Prior(5, 6)
  expected = prior.apply({'params': params['prior']}, at, gain, method='density_bits')
  np.testing.assert_allclose(found.bits['y'], expected.sum((1, 2, 3)), rtol=1e-3)
  np.testing.assert_array_equal(found.x_hat, exact.x_hat)
  np.testing.assert_allclose(exact.bits['y'], plain.bits['y'], rtol=1e-5)  # Files cost the same.


def test_the_rounded_bound_has_a_gradient_for_the_latents():
  codec = cae.codec(**OPTIONS, bound='rounded')
  slope = jit(jax.grad(lambda params: codec.apply(params, X, LEVEL, KEYS).bits['y'].sum()))
  assert float(optax.tree.norm(slope(start())['analysis'])) > 0.1


def test_another_bound_is_refused():
  with pytest.raises(CodecError, match="bound must be one of noisy, rounded, not 'tight'"):
    cae.codec(bound='tight')


@pytest.mark.parametrize('sides', [(70, 78), (78, 69), (8, 8), (80, 78)])
def test_an_analysis_without_whole_cells_between_mirrored_pixels_is_one_sentence(sides):
  height, width = sides
  with pytest.raises(CodecError, match=f'multiples of 8 pixels and 35 .* not {width}x{height}'):
    networks.Analysis((4, 4, 4)).init(jax.random.key(0), jnp.zeros((1, *sides, 3)))
