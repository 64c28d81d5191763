import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compress_jax.codec import CodecError, Coded
from compress_jax.evaluation import lpips, wasserstein
from compress_jax.methods.gan.networks import Discriminator
from compress_jax.training import losses, objectives, optimizers
from compress_jax.training.perceptual import WASSERSTEIN, Perceptual, perceptual_of
from tests.helpers.modules import jit

LOW, HIGH = 0.0009, 0.1  # lambda of level bytes 0 and 255.
LEVEL = 100
LAMBDA = LOW * (HIGH / LOW) ** (LEVEL / 255)
STEP = jnp.zeros((), jnp.int32)
KEY = jax.random.key(0)


def keys_of(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


class Spy:
  """An `apply` that keeps what it is called with; bits are the level, errors params / 255."""

  def __init__(self):
    self.calls = []

  def __call__(self, params, x, level, keys):
    self.calls.append((x, level, keys))
    pixels = x.shape[1] * x.shape[2]
    x_hat = x.astype(jnp.float32) + sum(jax.tree.leaves(params)) / 255
    return Coded(x_hat, x_hat[:, ::16, ::16, :1], {'y': level.astype(jnp.float32) * pixels})


def images(n, side=2):
  return jnp.broadcast_to(jnp.arange(n).reshape(n, 1, 1, 1) / 8, (n, side, side, 3))


@functools.partial(jax.jit, static_argnames='options')
def plain(keys, options=()):
  """The loss, state and metrics of errors of 3 / 255, and the levels and noise that were drawn."""
  spy = Spy()
  loss = objectives.rate_distortion(spy, **dict(options))
  total, (state, metrics) = loss(jnp.float32(3), {'kept': 7}, images(len(keys)), keys, STEP)
  _, level, noise = spy.calls[0]
  return total, state, metrics, level, jax.random.key_data(noise)


FIXED = (('level', LEVEL),)


def test_a_fixed_level_is_that_of_all_examples_and_their_weight_is_one():
  total, state, metrics, level, _ = plain(keys_of(6), FIXED)
  assert float(total) == pytest.approx(LEVEL + LAMBDA * 9, rel=1e-5)
  expected = {'loss': LEVEL + LAMBDA * 9, 'bpp': LEVEL, 'bpp_y': LEVEL, 'mse': 9}
  assert {k: pytest.approx(float(v), rel=1e-5) for k, v in metrics.items()} == expected
  assert state == {'kept': 7}
  assert set(np.asarray(level)) == {LEVEL}


def test_examples_of_different_levels_are_weighted_by_lambda_to_the_minus_half():
  total, _, _, level, _ = plain(keys_of(6))
  level = np.asarray(level)
  lmbda = LOW * (HIGH / LOW) ** (level / 255)
  expected = (math.sqrt(LOW * HIGH) / lmbda) ** 0.5 * (level + lmbda * 9)
  assert len(set(level)) > 1
  assert float(total) == pytest.approx(expected.mean(), rel=1e-5)


def five(x, x_hat):
  del x_hat
  return jnp.full(len(x), 5.0)


def test_another_distortion_is_minimised_and_squared_errors_are_still_told():
  total, _, metrics, _, _ = plain(keys_of(6), (*FIXED, ('distortion', five)))
  assert float(total) == pytest.approx(LEVEL + LAMBDA * 5, rel=1e-5)
  assert float(metrics['mse']) == pytest.approx(9, rel=1e-5)


def test_the_level_and_the_noise_of_an_example_are_those_of_its_key_wherever_it_is():
  keys = keys_of(6)
  level, noise = plain(keys)[3:]
  for order in ([4, 2, 5, 0, 1, 3], [1, 1, 5, 5, 5, 2]):
    found = plain(keys[np.array(order)])[3:]
    np.testing.assert_array_equal(found[0], level[np.array(order)])
    np.testing.assert_array_equal(found[1], noise[np.array(order)])
  assert len(np.unique(noise, axis=0)) == 6


def test_levels_are_drawn_evenly_from_all_bytes():
  level = np.asarray(plain(keys_of(8192))[3])
  assert level.min() == 0 and level.max() == 255
  # Standard errors: 0.8 of the mean, 0.4 of the deviation.
  assert abs(level.mean() - 127.5) < 4 and abs(level.std() - 73.9) < 2


def test_noise_does_not_depend_on_whether_the_level_was_drawn():
  np.testing.assert_array_equal(plain(keys_of(6))[4], plain(keys_of(6), FIXED)[4])


def test_the_codec_sees_the_type_to_compute_in_and_the_loss_full_precision():
  spy, x = Spy(), images(2) + 1 / 3
  loss = objectives.rate_distortion(spy, level=LEVEL, compute_dtype=jnp.bfloat16)
  _, (_, metrics) = jax.jit(loss)(jnp.float32(0), {}, x, keys_of(2), STEP)
  assert spy.calls[0][0].dtype == jnp.bfloat16
  error = np.asarray(x.astype(jnp.bfloat16), np.float64) - np.asarray(x, np.float64)
  assert float(metrics['mse']) == pytest.approx(255**2 * np.mean(error**2), rel=1e-4)


SHARE = 0.00234375  # Of the MSE in the adversarial loss: configs.py of HiFiC's authors.


class Witness(nn.Module):
  """A discriminator that keeps what it sees; its logits are as much as images are brighter
  than their latents.
  """

  see: Callable

  @nn.compact
  def __call__(self, x, y_hat, *, update=False):
    self.see((x, y_hat))
    nn.SpectralNorm(nn.Conv(1, (1, 1)), name='conv0_norm')(x, update_stats=update)
    return x.mean((1, 2, 3))[:, None, None] - y_hat.mean((1, 2, 3))[:, None, None]


NOTHING = Perceptual('nothing', lambda _, x, *rest: jnp.full(len(x), 2.0))


@functools.cache
def witnessed(weight=64.0, coarse_weight=0.0):
  """Metrics with these weights, and what a discriminator saw of three small pictures."""
  x, calls = images(3, 16), []
  witness = Witness(calls.append)
  params, state = objectives.init_discriminator(witness, KEY, x.shape, (1, 1, 1))
  codec = {'synthesis': jnp.float32(51.0)}  # Brighter by 1 / 5.
  both = {'codec': codec, 'discriminator': params}
  given = {'level': LEVEL, 'weight': weight, 'coarse_weight': coarse_weight}

  @jax.jit
  def run(x, step):
    calls.clear()
    loss = objectives.adversarial(Spy(), witness, perceptual=NOTHING, **given)
    return loss(both, state, x, keys_of(3), step)[1][1], calls[:]

  return run(x, 0)


def test_the_discriminator_compares_each_image_real_or_coded_with_its_own_latents():
  _, calls = witnessed()
  mean = np.arange(3) / 8
  x, y_hat = (np.asarray(v).mean((1, 2, 3)) for v in calls[0])
  np.testing.assert_allclose(x, [*mean, *(mean + 0.2)], atol=1e-6)
  np.testing.assert_allclose(y_hat, [*(mean + 0.2), *(mean + 0.2)], atol=1e-6)
  x, y_hat = (np.asarray(v).mean((1, 2, 3)) for v in calls[1])
  np.testing.assert_allclose(x, mean + 0.2, atol=1e-6)
  np.testing.assert_allclose(y_hat, mean + 0.2, atol=1e-6)
  assert len(calls) == 2


def test_the_adversarial_loss_of_a_case_solved_by_hand():
  metrics = {name: float(value) for name, value in witnessed()[0].items()}
  # Real images have the logit -0.2, coded ones 0.
  assert metrics['d_real'] == pytest.approx(math.log1p(math.exp(0.2)), rel=1e-4)
  assert metrics['d_fake'] == pytest.approx(math.log(2), rel=1e-4)
  assert metrics['g_adv'] == pytest.approx(math.log(2), rel=1e-4)
  assert metrics['perceptual'] == 2
  codec = SHARE * (LEVEL / LAMBDA + 51**2 + 427 * 2 + 64 * math.log(2))
  assert metrics['loss'] == pytest.approx(codec + metrics['d_real'] + metrics['d_fake'], rel=1e-5)


def test_the_adversarial_weight_is_that_of_the_adversarial_term():
  more = float(witnessed(weight=128.0)[0]['loss'] - witnessed()[0]['loss'])
  assert more == pytest.approx(0.15 * math.log(2), abs=2e-4)


def test_the_coarse_weight_is_that_of_errors_of_means(monkeypatch):
  usual, _ = witnessed()
  monkeypatch.setattr(
    losses, 'coarse_error', lambda x, x_hat: 7 * jnp.mean(x_hat / x_hat, (1, 2, 3))
  )
  found, _ = witnessed.__wrapped__(coarse_weight=9.0)
  assert float(found['coarse']) == pytest.approx(7)
  assert float(found['loss'] - usual['loss']) == pytest.approx(SHARE * 9 * 7, rel=1e-3)
  assert 'coarse' not in usual


DISCRIMINATOR = Discriminator((2, 3))
SIDE = 32
TERMS = ('g_adv', 'd_real', 'd_fake', 'perceptual', 'loss')


def apply(params, x, level, keys):
  """A codec of linear maps, with all groups of parameters that gan has."""
  means = x.reshape(len(x), 2, 16, 2, 16, 3).mean((2, 4))
  draw = jax.vmap(lambda key: jax.random.uniform(key, (2, 2, 4)))
  noise = 0.5 if keys is None else draw(keys)  # As files round, and with noise.
  y_hat = means @ params['analysis']['kernel'] * jnp.exp(params['log_gains'])
  up = jnp.repeat(jnp.repeat(y_hat @ params['synthesis']['kernel'], 16, 1), 16, 2)
  x_hat = 0.5 * x + up * (1 + x)  # Not flat, or no feature could match.
  bits = jnp.sum(nn.softplus(y_hat + noise * params['prior'] + level[0]), (1, 2, 3))
  return Coded(x_hat, y_hat, {'y': bits, 'z': 2 * bits})


@functools.cache
def start():
  """Parameters and state of a small codec and its discriminator, and three pictures."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
  codec = {
    'analysis': {'kernel': normal(3, 4)},
    'synthesis': {'kernel': 0.1 * normal(4, 3)},
    'log_gains': normal(4),
    'prior': normal(4),
  }
  make = functools.partial(objectives.init_discriminator, DISCRIMINATOR)
  shapes = jax.eval_shape(lambda key: make(key, (SIDE, SIDE, 3), (2, 2, 4)), KEY)
  discriminator, state = jax.tree.map(lambda v: 0.3 * normal(*v.shape), shapes)
  x = jnp.asarray(rng.uniform(size=(3, 8, 8, 3)).repeat(4, 1).repeat(4, 2), jnp.float32)
  return {'codec': codec, 'discriminator': discriminator}, state, x


@jax.jit
def gradient(params, state, x, keys, shares):
  """Of a sum of metrics with f32[5] shares, by all parameters; the new state, the metrics."""
  matching = lambda _, x, x_hat, real, coded: losses.feature_matching(real, coded)  # noqa: E731
  perceptual = Perceptual('features alone', matching)
  loss = objectives.adversarial(apply, DISCRIMINATOR, perceptual=perceptual, level=255)

  def summed(params):
    total, (new_state, metrics) = loss(params, state, x, keys, STEP)
    terms = jnp.stack([*(metrics[name] for name in TERMS[:-1]), total])
    return jnp.sum(terms * shares), (new_state, metrics)

  return jax.grad(summed, has_aux=True)(params)


def test_the_synthesis_learns_as_much_at_every_rate():
  params, state, x = start()
  found = []
  for level in (0, 255):  # `apply` codes the same latents at both.
    loss = objectives.adversarial(apply, DISCRIMINATOR, perceptual=NOTHING, level=level)
    total = lambda params, loss=loss: loss(params, state, x, keys_of(3), STEP)[0]  # noqa: E731
    found.append(jax.jit(jax.grad(total))(params)['codec']['synthesis']['kernel'])
  np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
  assert norm(found[0]) > 0


LOSS = jnp.eye(len(TERMS))[-1]


@functools.cache
def gradients():
  """The gradient of each metric by its name, and the state afterwards."""
  params, state, x = start()
  found = {}
  for i, name in enumerate(TERMS):
    grads, (after, _) = gradient(params, state, x, keys_of(3), jnp.eye(len(TERMS))[i])
    found[name] = grads
  return found, after


def norm(tree):
  return float(optax.tree.norm(tree))


def test_the_generators_terms_have_no_gradient_for_the_discriminator():
  found, _ = gradients()
  for name in ('g_adv', 'perceptual'):
    assert norm(found[name]['discriminator']) == 0
    assert norm(found[name]['codec']['synthesis']) > 0


def test_the_discriminators_terms_have_no_gradient_for_any_part_of_the_codec():
  found, _ = gradients()
  for name in ('d_real', 'd_fake'):
    assert norm(found[name]['codec']) == 0
    assert norm(found[name]['discriminator']) > 0


def test_the_discriminator_learns_from_its_own_terms_alone():
  found, _ = gradients()
  by_terms = jax.tree.map(jnp.add, found['d_real'], found['d_fake'])['discriminator']
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
    found['loss']['discriminator'],
    by_terms,
  )


def test_metrics_are_means_over_examples():
  params, state, x = start()
  keys = keys_of(3)
  metrics_of = lambda x, keys: gradient(params, state, x, keys, LOSS)[1][1]  # noqa: E731
  whole = metrics_of(x, keys)
  alone = [metrics_of(x[np.full(3, i)], keys[np.full(3, i)]) for i in range(3)]
  names = {'loss', 'bpp', 'mse', 'bpp_y', 'bpp_z', 'd_real', 'd_fake', 'g_adv', 'perceptual'}
  assert set(whole) == names
  for name in names:
    parts = [float(metrics[name]) for metrics in alone]
    assert float(whole[name]) == pytest.approx(np.mean(parts), rel=1e-5)
    assert np.ptp(parts) > 1e-4 * np.mean(parts)


def test_the_spectral_vectors_do_not_depend_on_the_batch():
  params, state, x = start()
  _, (other, _) = gradient(params, state, 1 - x[::-1], keys_of(3, seed=5), LOSS)
  after = gradients()[1]
  assert jax.tree.structure(after) == jax.tree.structure(state)
  for a, b, before in zip(*map(jax.tree.leaves, (after, other, state)), strict=True):
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, before)


def test_the_spectral_vectors_make_one_step_of_power_iteration():
  params, state, _ = start()
  after = gradients()[1]['batch_stats']['conv1_norm']
  kernel = np.asarray(params['discriminator']['conv1']['kernel'], np.float64).reshape(-1, 3)
  u = np.asarray(state['batch_stats']['conv1_norm']['conv1/kernel/u'], np.float64)[0]
  v = kernel @ u / np.linalg.norm(kernel @ u)
  expected = v @ kernel / np.linalg.norm(v @ kernel)
  np.testing.assert_allclose(after['conv1/kernel/u'][0], expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(after['conv1/kernel/sigma'], v @ kernel @ expected, rtol=1e-4)


def test_a_fresh_discriminator_is_the_same_for_shapes_with_a_batch_and_without():
  make = functools.partial(objectives.init_discriminator, DISCRIMINATOR)
  found = [
    jax.eval_shape(lambda key, lead=lead: make(key, (*lead, 32, 32, 3), (*lead, 2, 2, 4)), KEY)
    for lead in ((), (1,), (5,))
  ]
  assert found[0] == found[1] == found[2]
  params, state = found[0]
  assert params['conv0']['kernel'].shape == (4, 4, 3 + 12, 2)
  assert set(state) == {'batch_stats'} and len(state['batch_stats']) == 4


def test_features_are_those_of_the_layers_that_see_the_image_but_not_the_last():
  discriminator, shapes = Discriminator((2, 3, 4, 5)), []

  def distance(weights, x, x_hat, real, coded):
    shapes.extend(v.shape for v in (*real, *coded))
    return x[:, 0, 0, 0]

  def run(key):
    params, state = objectives.init_discriminator(discriminator, key, (SIDE, SIDE, 3), (2, 2, 4))
    perceptual = Perceptual('', distance)
    loss = objectives.adversarial(apply, discriminator, perceptual=perceptual)
    both = {**start()[0], 'discriminator': params}
    return loss(both, state, start()[2], keys_of(3), STEP)

  jax.eval_shape(run, KEY)
  assert shapes == 2 * [(3, 16, 16, 2), (3, 8, 8, 3), (3, 4, 4, 4), (3, 4, 4, 5)]


def test_the_stand_in_is_zero_for_what_is_equal_and_sees_images_and_features():
  distance = jax.jit(functools.partial(perceptual_of(None).distance, ()))
  x, far = start()[2][:, :16, :16], [jnp.ones((3, 2, 2, 1))]
  near = [2 * far[0]]
  np.testing.assert_allclose(distance(x, x, far, far), 0, atol=1e-5)
  assert (distance(x, x, far, near) > 0.01).all()
  assert (distance(x, 1 - x, far, far) > 0.1).all()


def test_what_stands_in_for_lpips_is_told():
  assert 'no LPIPS' in perceptual_of(None).about


def test_the_weights_of_the_perceptual_term_are_those_of_the_loss():
  weights = np.array([3.0, 4.0], np.float32)
  measured = lambda weights, x, *rest: jnp.full(len(x), weights.sum())  # noqa: E731
  perceptual = Perceptual('', measured, weights)
  loss = objectives.adversarial(apply, DISCRIMINATOR, perceptual=perceptual, level=LEVEL)
  assert loss.weights is weights
  assert objectives.adversarial(apply, DISCRIMINATOR, perceptual=NOTHING).weights == ()


def step(params, grads, **options):
  tx = optimizers.two_stage_optimizer(optax.sgd(1.0), optax.sgd(0.5), params, **options)
  updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
  return jax.tree.map(jnp.subtract, optax.apply_updates(params, updates), params)


def test_what_is_frozen_stays_bit_for_bit_as_it_was_and_the_rest_learns():
  params, grads = start()[0], gradients()[0]['loss']
  assert norm(grads['codec']['analysis']) == 0  # It is not even differentiated.
  grads = jax.tree.map(lambda grad: grad + 1.0, grads)
  tx = optimizers.two_stage_optimizer(optax.adam(1e-3), optax.adam(1e-3), params)
  opt_state, now = tx.init(params), params
  for _ in range(3):
    updates, opt_state = jax.jit(tx.update)(grads, opt_state, now)
    now = optax.apply_updates(now, updates)
  for name, part in params['codec'].items():
    same = jax.tree.map(
      lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), part, now['codec'][name]
    )
    assert all(jax.tree.leaves(same)) == (name != 'synthesis'), name
  moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), params, now)
  assert all(jax.tree.leaves((moved['codec']['synthesis'], moved['discriminator'])))


def test_what_is_frozen_has_no_moments():
  params = start()[0]
  tx = optimizers.two_stage_optimizer(optax.adam(1e-3), optax.adam(1e-3), params)
  learning = params['codec']['synthesis'], params['discriminator']
  numbers = sum(v.size for v in jax.tree.leaves(learning))
  kept = sum(v.size for v in jax.tree.leaves(tx.init(params)) if v.ndim)
  assert kept <= 2 * numbers < kept + 100  # Scalars among the parameters, if any, and counts.


def test_gradients_are_clipped_in_each_group_alone():
  params = {
    'codec': {'synthesis': {'a': jnp.zeros(2)}, 'analysis': {'b': jnp.zeros(2)}, 'log_gains': 0.0},
    'discriminator': {'c': jnp.zeros(2)},
  }
  grads = {
    'codec': {
      'synthesis': {'a': jnp.array([0.3, 0.4])},
      'analysis': {'b': jnp.array([jnp.nan, 1e9])},
      'log_gains': 1e9,
    },
    'discriminator': {'c': jnp.array([3e6, 4e6])},
  }
  moved = step(params, grads)
  np.testing.assert_allclose(moved['codec']['synthesis']['a'], [-0.3, -0.4], rtol=1e-5)
  np.testing.assert_allclose(moved['discriminator']['c'], [-0.3, -0.4], rtol=1e-5)
  assert moved['codec']['log_gains'] == 0 and not moved['codec']['analysis']['b'].any()
  tighter = step(params, grads, clip=0.05)
  np.testing.assert_allclose(tighter['codec']['synthesis']['a'], [-0.03, -0.04], rtol=1e-5)


# The options that HiFiC's own recipe takes.


def recipe(step, options):
  """The slopes by all parameters, and the metrics, of the whole loss with some options."""
  return with_options(*start(), step, options)


@functools.partial(jit, static_argnames='options')
def with_options(params, state, x, step, options):
  loss = objectives.adversarial(
    apply, DISCRIMINATOR, perceptual=NOTHING, level=LEVEL, **dict(options)
  )
  (_, (after, metrics)), slopes = jax.value_and_grad(loss, has_aux=True)(
    params, state, x, keys_of(3), step
  )
  return slopes, metrics, after


def test_all_of_a_codec_may_learn_and_its_rate_weighs_as_the_distortion_does():
  frozen, _, _ = recipe(STEP, ())
  slopes, _, _ = recipe(STEP, (('whole', True),))
  params, _, x = start()

  def terms(codec):
    coded = apply(codec, x, jnp.full(3, LEVEL), objectives._draw(keys_of(3), LEVEL).noise)
    bpp = sum(coded.bits.values()) / SIDE**2
    return jnp.mean(bpp)

  of_rate = jax.grad(terms)(params['codec'])
  # The prior decides about the rate alone, whose weight is HiFiC's: k_M / lambda.
  np.testing.assert_allclose(
    slopes['codec']['prior'], SHARE / LAMBDA * of_rate['prior'], rtol=1e-4, atol=1e-9
  )
  assert norm(frozen['codec']['prior']) == 0 and norm(slopes['codec']['analysis']) > 0
  np.testing.assert_allclose(
    slopes['codec']['synthesis']['kernel'], frozen['codec']['synthesis']['kernel'], rtol=1e-5
  )


def test_in_turn_either_has_the_slopes_that_it_has_at_once_and_the_other_has_none():
  at_once, metrics, after = recipe(STEP, (('whole', True),))
  options = (('whole', True), ('alternate', True))
  for step, learning, resting in ((4, 'discriminator', 'codec'), (5, 'codec', 'discriminator')):
    slopes, found, state = recipe(jnp.int32(step), options)
    assert norm(slopes[resting]) == 0
    for a, b in zip(*(jax.tree.leaves(v[learning]) for v in (slopes, at_once)), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    assert {k: pytest.approx(float(v), rel=1e-5) for k, v in metrics.items()} == found
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), after, state)


def test_the_optimizer_updates_one_at_a_time_and_each_sees_half_of_the_steps():
  params = start()[0]
  grads = jax.tree.map(jnp.ones_like, params)
  seen = optax.GradientTransformationExtraArgs(
    lambda params: jnp.zeros((), jnp.int32),
    lambda u, state, params=None, *, total, **_: (
      jax.tree.map(lambda v: jnp.full_like(v, total), u),
      state + 1,
    ),
  )
  tx = optimizers.two_stage_optimizer(seen, seen, params, whole=True, alternate=True)
  state, update = tx.init(params), jax.jit(tx.update)
  for step in range(4):
    updates, state = update(grads, state, params, step=jnp.int32(step), total=jnp.int32(10))
    moved = {
      name: set(np.concatenate([np.ravel(v) for v in jax.tree.leaves(part)]).tolist())
      for name, part in updates.items()
    }
    one, other = ('codec', 'discriminator') if step % 2 else ('discriminator', 'codec')
    assert moved == {one: {5.0}, other: {0.0}}
  made = [int(v) for v in jax.tree.leaves(state) if v.dtype == jnp.int32]
  assert made == [2, 2]


def test_a_target_weighs_the_rate_of_the_adversarial_loss_and_nothing_else():
  target = objectives.Target(1e-9, above=SHARE / 2)
  slopes, metrics, _ = recipe(STEP, (('whole', True), ('target', target)))
  plain, _, _ = recipe(STEP, (('whole', True),))
  by_rate = 2 / (SHARE / LAMBDA)
  np.testing.assert_allclose(
    slopes['codec']['prior'], by_rate * plain['codec']['prior'], rtol=1e-4, atol=1e-9
  )
  np.testing.assert_allclose(
    slopes['codec']['synthesis']['kernel'], plain['codec']['synthesis']['kernel'], rtol=1e-4
  )
  assert float(metrics['lambda']) == pytest.approx(SHARE / 2)


def test_the_first_stage_of_hific_minimises_lpips_as_well():
  distance = lambda weights, x, x_hat, *rest: jnp.full(len(x), weights) * x_hat[:, 0, 0, 0]  # noqa: E731
  perceptual = Perceptual('', distance, jnp.float32(3))
  loss = objectives.rate_distortion(Spy(), level=LEVEL, perceptual=perceptual)
  x = images(3)
  total, (_, metrics) = loss(jnp.float32(51), {}, x, keys_of(3), STEP)
  term = 3 * (1 / 8 + 0.2)  # The mean of 0, 1/8 and 1/4, and 51 / 255.
  assert float(metrics['perceptual']) == pytest.approx(term, rel=1e-5)
  assert float(total) == pytest.approx(LEVEL + LAMBDA * (51**2 + 427 * term), rel=1e-5)
  assert float(loss.weights) == 3


def test_wasserstein_distortion_needs_weights():
  with pytest.raises(CodecError, match='needs --lpips'):
    perceptual_of(None, 'wasserstein')


def test_wasserstein_distortion_is_scaled_and_has_one_sigma_everywhere(monkeypatch):
  seen, x = [], images(3)

  def distortion(weights, x, x_hat, sigma):
    seen.append((weights, sigma))
    return 4 * jnp.mean(x_hat - x, (1, 2, 3))

  monkeypatch.setattr(lpips, 'find', lambda path, net: (path, net))
  monkeypatch.setattr(lpips, 'fingerprint', lambda params: '12345678')
  monkeypatch.setattr(wasserstein, 'distortion', distortion)
  perceptual = perceptual_of('mine', 'wasserstein')
  assert perceptual.about == 'Wasserstein distortion (VGG16, sigma 8), weights 12345678 of mine'
  found = perceptual.distance(perceptual.weights, x, x + 0.5, (), ())
  np.testing.assert_allclose(found, 2 * WASSERSTEIN, rtol=1e-5)
  assert seen == [(('mine', 'vgg'), wasserstein.SIGMA)]
