"""What learns in which stage, and what a plan asks for."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from compress_jax.cli import fit, main
from compress_jax.cli.command import parse
from compress_jax.codec import CodecError
from compress_jax.files import models
from compress_jax.layers.quantization import initial_log_gains
from compress_jax.learned.released import flatten
from compress_jax.methods.cae import codec as cae
from compress_jax.methods.gan import codec as gan
from compress_jax.methods.gmm import codec as gmm
from compress_jax.training import objectives, plans, scales, stages, target_rate
from compress_jax.training.perceptual import Perceptual
from tests.helpers.modules import jit
from tests.helpers.small_plans import KEYS, LEVELS, OPTIONS, PLAN, X, start

OF_GAN = {'method': 'gan', 'options': {}}  # What a file of weights says of itself.


# Gains alone.


@pytest.mark.parametrize('count,share', [(0, 1), (1000, 2**-0.8), (9000, 10**-0.8)])
def test_the_learning_rate_falls_like_a_power(count, share):
  assert float(scales.schedule(1e-3)(count)) == pytest.approx(1e-3 * share, rel=1e-5)
  other = scales.schedule(0.5, tau=count + 1, kappa=2)
  assert float(other(count + 1)) == pytest.approx(0.125)


def test_gains_are_trained_at_the_levels_that_have_their_own():
  assert scales.trained_levels(6) == (0, 51, 102, 153, 204, 255)
  assert scales.trained_levels(3) == (0, 128, 255)
  assert scales.trained_levels(1) == (0,)


def test_several_levels_are_drawn_evenly_and_no_other():
  drawn = np.asarray(objectives._draw(jax.random.split(KEYS[0], 3000), (0, 128, 255)).level)
  values, counts = np.unique(drawn, return_counts=True)
  assert values.tolist() == [0, 128, 255]
  assert np.abs(counts - 1000).max() < 5 * math.sqrt(3000 * 2 / 9)


def test_the_gains_of_one_rate_become_those_of_many():
  params = {'log_gains': jnp.array([[1.0, 2.0]]), 'prior': 'kept'}
  found = scales.with_levels(params, 3)
  assert found['prior'] == 'kept'
  np.testing.assert_allclose(found['log_gains'][1], [1, 2], atol=1e-6)
  # A step is in proportion to lambda^-1/2: from the lowest lambda to the highest 111 times.
  between = found['log_gains'][2] - found['log_gains'][0]
  np.testing.assert_allclose(between, 0.5 * math.log(0.1 / 0.0009), rtol=1e-5)
  assert scales.with_levels(found, 3) is found
  with pytest.raises(CodecError, match='gains of 3 levels, not of 6 or of one'):
    scales.with_levels(found, 6)


def test_a_model_of_one_rate_begins_with_the_steps_of_its_lambda():
  codec = cae.codec(**OPTIONS)._replace(init=lambda key: {'log_gains': jnp.full((1, 2), 3.0)})

  def begun(lmbda):
    return stages.setup_of(PLAN._replace(lmbda=lmbda), codec).init()[0]['log_gains']

  np.testing.assert_allclose(begun(math.sqrt(0.0009 * 0.1)), 3, rtol=1e-6)  # Of all lambdas.
  np.testing.assert_allclose(np.exp(begun(0.08) - begun(0.005)), 4, rtol=1e-5)
  np.testing.assert_array_equal(begun(None), 3)


def saved(folder, params, **options):
  path = folder / 'weights.safetensors'
  host = jax.tree.map(np.asarray, params)
  config = {'method': 'cae', 'options': {**OPTIONS, **options}}
  models.write(path, flatten(host, 'params'), config, overwrite=True)
  return str(path)


def same(one, other):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


@pytest.mark.parametrize(
  'change,learning',
  [
    ({'stage': 'scales'}, {'log_gains'}),
    ({'stage': 'scales', 'refit_prior': True}, {'log_gains', 'prior'}),
    ({'stage': 'decoder'}, {'synthesis', 'prior'}),
  ],
)
def test_what_does_not_learn_stays_bit_for_bit_as_it_was(tmp_path, change, learning):
  plan = PLAN._replace(start=saved(tmp_path, start()), **change)
  setup = stages.setup_of(plan, cae.codec(**OPTIONS))
  optimizer = optax.with_extra_args_support(setup.optimizer)
  before, state = setup.init()
  assert same(before, start())

  @jit
  def update(params, opt_state, step):
    slopes, _ = jax.grad(setup.loss, has_aux=True)(params, state, X, KEYS, step)
    changes, opt_state = optimizer.update(slopes, opt_state, params, total=100)
    return optax.apply_updates(params, changes), opt_state, slopes

  params, opt_state = before, setup.optimizer.init(before)
  for step in range(2):
    params, opt_state, slopes = update(params, opt_state, step)
  assert {name for name in params if not same(params[name], before[name])} == learning
  reached = {name for name in slopes if float(optax.tree.norm(slopes[name])) > 0}
  assert reached == learning  # The rest is not even differentiated.
  moments = sum(leaf.size for leaf in jax.tree.leaves(opt_state) if leaf.ndim)
  assert moments == 2 * sum(leaf.size for n in learning for leaf in jax.tree.leaves(before[n]))
  if 'log_gains' in learning:  # Adam's first step is as long as its rate, the second no longer.
    moved = np.abs(np.asarray(params['log_gains'] - before['log_gains'])).max()
    assert 0.9e-3 < moved < 2.1e-3


def shifted(tree):
  return jax.tree.map(lambda leaf: np.asarray(leaf) + 1, tree)


@pytest.mark.parametrize(
  'stage,learning',
  [
    ('scales', {'log_gains'}),
    ('decoder', {'synthesis', 'prior'}),
    ('rounded', {'analysis', 'log_gains', 'synthesis', 'prior'}),
  ],
)
def test_what_is_released_has_averages_of_what_learned_and_the_parameters_of_the_rest(
  stage, learning
):
  plan = PLAN._replace(stage=stage, start='nowhere')  # Which is not read for that.
  found = stages.setup_of(plan, cae.codec(**OPTIONS)).weights(start(), shifted(start()))
  expected = {**start(), **{name: shifted(start()[name]) for name in learning}}
  assert found.keys() == expected.keys() and same(found, expected)


def forms(tree):
  return jax.tree.map(lambda leaf: (np.shape(leaf), np.dtype(leaf.dtype)), tree)


@pytest.mark.parametrize('stage', ['rate-distortion', 'rounded', 'decoder', 'scales'])
def test_the_form_of_a_state_is_known_without_its_start(tmp_path, stage):
  doubles = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), start())
  there = PLAN._replace(stage=stage, start=saved(tmp_path, doubles))
  began = stages.setup_of(there, cae.codec(**OPTIONS)).init()
  form = stages.setup_of(there._replace(start='nowhere'), cae.codec(**OPTIONS)).form
  assert forms(began) == forms(form)


def test_so_it_is_after_the_adversarial_stage(monkeypatch):
  codec = gan.codec(base=1, blocks=1, latents=4, hyper=4)
  shapes = jax.eval_shape(codec.init, KEYS[0])
  params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
  monkeypatch.setattr(
    stages.float_weights, 'weights', lambda path: (params, {'method': 'gan', 'options': {}})
  )
  plan = PLAN._replace(method='gan', stage='adversarial', start='x', crop=64)
  said = []
  setup = stages.setup_of(plan, codec, said.append)
  found = setup.weights({'codec': params}, {'codec': shifted(params)})
  assert same(found, {**params, 'synthesis': shifted(params['synthesis'])})
  assert forms(setup.init()) == forms(setup.form)
  assert len(said) == 1 and 'no LPIPS' in said[0]


def of_gan(monkeypatch):
  """A small codec, its plan of the adversarial stage, and parameters of ones as its start."""
  codec = gan.codec(base=1, blocks=1, latents=4, hyper=4, levels=1)
  shapes = jax.eval_shape(codec.init, KEYS[0])
  params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
  monkeypatch.setattr(
    stages.float_weights, 'weights', lambda path: (params, {'method': 'gan', 'options': {}})
  )
  return codec, PLAN._replace(method='gan', stage='adversarial', start='x', crop=64), params


def test_all_of_gan_may_learn_beside_its_discriminator(monkeypatch):
  codec, plan, params = of_gan(monkeypatch)
  setup = stages.setup_of(plan._replace(learns='all', updates='alternate'), codec)
  assert same(setup.weights({'codec': params}, {'codec': shifted(params)}), shifted(params))
  assert forms(setup.init()) == forms(setup.form)


def test_the_rate_of_the_plan_and_its_lambda_make_the_target(monkeypatch):
  codec, plan, _ = of_gan(monkeypatch)
  seen = []
  monkeypatch.setattr(objectives, 'adversarial', lambda *args, **given: seen.append(given))
  monkeypatch.setattr(objectives, 'rate_distortion', lambda *args, **given: seen.append(given))
  steered = plan._replace(lmbda=0.0012, target_rate=0.14, learns='all', steps=1000)
  stages.setup_of(steered, codec)
  stages.setup_of(steered._replace(stage='rate-distortion', learns='generator'), codec)
  stages.setup_of(steered._replace(minutes=5.0), codec)
  wanted = target_rate.Target(0.14, 0.0012, relaxed=50, axis='device')
  # How many steps fit into the minutes is not known at their start.
  assert [given['target'] for given in seen] == [wanted, wanted, wanted._replace(relaxed=0)]
  assert seen[0]['whole'] and not seen[0]['alternate']


def test_weights_of_lpips_join_what_is_minimised_in_the_other_stages(monkeypatch):
  seen = []
  perceptual = Perceptual('what it is', None)
  named = lambda *given: seen.append(given) or perceptual  # noqa: E731
  spy = lambda apply, **given: seen.append(given['perceptual'])  # noqa: E731
  monkeypatch.setattr(stages, 'perceptual_of', named)
  monkeypatch.setattr(objectives, 'rate_distortion', spy)
  said = []
  for plan in (PLAN, PLAN._replace(lpips='w'), PLAN._replace(lpips='w', perceptual='wasserstein')):
    stages.setup_of(plan, cae.codec(**OPTIONS), said.append)
  assert seen == [None, ('w', 'lpips'), perceptual, ('w', 'wasserstein'), perceptual]
  assert said == ['what it is'] * 2


def test_the_decoder_learns_from_what_files_hold(tmp_path):
  plan = PLAN._replace(stage='decoder', start=saved(tmp_path, start()))
  codec = cae.codec(**OPTIONS)
  _, (_, metrics) = stages.setup_of(plan, codec).loss(start(), {}, X, KEYS, 0)
  drawn = objectives._draw(KEYS, None)
  coded = codec.apply(start(), X, drawn.level, None)
  pixels = X.shape[1] * X.shape[2]
  assert float(metrics['bpp']) == pytest.approx(float(coded.bits['y'].mean()) / pixels, rel=1e-5)


def test_rounded_counts_what_files_hold_and_all_learn(tmp_path):
  files = saved(tmp_path, start())
  setups = [
    stages.setup_of(PLAN._replace(stage=stage, start=files), cae.codec(**OPTIONS))
    for stage in ('rounded', 'decoder')
  ]
  (_, (_, metrics)), (_, (_, same_metrics)) = (s.loss(start(), {}, X, KEYS, 0) for s in setups)
  assert float(metrics['loss']) == pytest.approx(float(same_metrics['loss']), rel=1e-5)
  slopes, _ = jit(jax.grad(setups[0].loss, has_aux=True))(start(), {}, X, KEYS, 0)
  assert all(float(optax.tree.norm(slopes[name])) > 0 for name in start())


def test_weights_of_one_rate_begin_with_gains_of_many(tmp_path):
  one = {**start(), 'log_gains': jnp.arange(5.0)[None]}
  plan = PLAN._replace(stage='scales', start=saved(tmp_path, one, levels=1))
  params, _ = stages.setup_of(plan, cae.codec(**OPTIONS)).init()
  expected = np.arange(5) + initial_log_gains(LEVELS, 5)
  np.testing.assert_allclose(params['log_gains'], expected, atol=1e-6)
  assert same(params['synthesis'], start()['synthesis'])


def test_the_loss_of_scales_is_that_of_the_levels_with_gains_of_their_own(tmp_path, monkeypatch):
  seen = []
  plan = PLAN._replace(stage='scales', start=saved(tmp_path, start()))
  spy = lambda apply, **given: seen.append(given['level'])  # noqa: E731
  monkeypatch.setattr(objectives, 'rate_distortion', spy)
  stages.setup_of(plan, cae.codec(**OPTIONS))
  stages.setup_of(plan._replace(lmbda=0.1), cae.codec(**OPTIONS))
  assert seen == [(0, 128, 255), 255]


# Plans and flags.


@pytest.mark.parametrize(
  'change,message',
  [
    ({'stage': 'scales'}, 'the stage scales needs --start'),
    ({'stage': 'decoder'}, 'the stage decoder needs --start'),
    ({'stage': 'rounded'}, 'the stage rounded needs --start'),
    (
      {'stage': 'scales', 'channel_steps': 5},
      'channel_steps=5 is of the stage rate-distortion, not scales',
    ),
    ({'coarse_weight': 9.0}, 'coarse_weight=9 is of the stage adversarial, not rate-distortion'),
    ({'details': True}, 'details=True is of the stage adversarial, not rate-distortion'),
    ({'refit_prior': True}, 'refit_prior=True is of the stage scales, not rate-distortion'),
    (
      {'adversarial_weight': 9.0},
      'adversarial_weight=9 is of the stage adversarial, not rate-distortion',
    ),
    ({'learns': 'all'}, 'learns=all is of the stage adversarial, not rate-distortion'),
    ({'updates': 'alternate'}, 'updates=alternate is of the stage adversarial'),
    ({'target_rate': 0.3}, 'for a model of one rate: --set=levels=1'),
    (
      {'target_rate': 0.3, 'lmbda': 0.01, 'stage': 'decoder', 'start': 'x'},
      'the stage decoder has no --target_rate: its rate does not learn',
    ),
    (
      {'target_rate': 0.3, 'lmbda': 0.01, 'stage': 'adversarial', 'start': 'x'},
      'the stage adversarial with --learns=generator has no --target_rate',
    ),
    ({'perceptual': 'wasserstein'}, 'Wasserstein distortion needs --lpips'),
    ({'channel_steps': 40}, '100 steps end before all channels are on, at step 120'),
    ({'stage': 'adversarial', 'start': 'x'}, 'the adversarial stage is one of gan'),
  ],
)
def test_what_does_not_fit_is_refused(change, message):
  with pytest.raises(CodecError, match=message):
    stages.setup_of(PLAN._replace(**change), cae.codec(**OPTIONS))


def test_a_method_without_a_mask_has_no_steps_for_each_channel():
  with pytest.raises(CodecError, match='gan predicts its latents from one another'):
    stages.setup_of(PLAN._replace(method='gan', channel_steps=5), gan.codec(base=2, blocks=1))


def test_weights_of_another_size_are_refused(tmp_path):
  other = {**start(), 'log_gains': jnp.zeros((LEVELS, 6))}
  plan = PLAN._replace(start=saved(tmp_path, other))
  with pytest.raises(CodecError, match='are not those of cae of these options'):
    stages.setup_of(plan, cae.codec(**OPTIONS)).init()


def test_weights_of_another_method_are_refused(tmp_path):
  plan = PLAN._replace(method='gan', start=saved(tmp_path, start()), options={'centred': True})
  with pytest.raises(CodecError, match='holds weights of cae, not of gan'):
    stages.setup_of(plan, gan.codec(base=1, blocks=1)).init()


def test_the_command_line_offers_the_stages_that_there_are():
  assert set(main.STAGES) == set(stages.STAGES)


def plan_of(*flags):
  return fit.plan_of(parse(main.define_flags(), '', ['run.py', '--method=cae', *flags]))


def test_options_of_training_are_told_from_those_of_the_method():
  plan = plan_of('--set=channel_steps=50', '--set=levels=2', '--set=refit_prior=True')
  assert (plan.channel_steps, plan.refit_prior) == (50, True)
  assert plan.options == {'widths': (32, 64, 96), 'linear': True, 'rdoq': 0.05, 'levels': 2}
  assert (plan_of().channel_steps, plan_of().refit_prior) == (0, False)


def test_the_recipe_of_hific_is_asked_for_by_flags():
  plan = plan_of('--set=levels=1', '--lambda=0.0012', '--target_rate=0.14', '--updates=alternate')
  assert (plan.lmbda, plan.target_rate, plan.updates) == (0.0012, 0.14, 'alternate')
  plan = plan_of('--learns=all', '--perceptual=wasserstein')
  assert (plan.learns, plan.perceptual, plan.target_rate) == ('all', 'wasserstein', None)
  with pytest.raises(CodecError, match='updates'):
    fit.codec_of(plan_of('--set=updates=alternate'))


def test_the_adversarial_weight_and_the_details_are_options(monkeypatch):
  assert plan_of('--set=adversarial_weight=200').adversarial_weight == 200
  assert plan_of('--set=details=True').details
  with pytest.raises(CodecError, match='adversarial_weight=many must be a number'):
    plan_of('--set=adversarial_weight=many')
  codec, seen = gan.codec(base=1, blocks=1, latents=4, hyper=4), []
  params = jax.eval_shape(codec.init, KEYS[0])
  monkeypatch.setattr(
    stages.float_weights, 'weights', lambda path: (params, {'method': 'gan', 'options': {}})
  )
  monkeypatch.setattr(
    objectives,
    'adversarial',
    lambda apply, judge, *, weight, coarse_weight, **rest: seen.append(
      (weight, coarse_weight, judge.details)
    ),
  )
  plan = PLAN._replace(method='gan', stage='adversarial', start='x', crop=64)
  changes = {}, {'adversarial_weight': 9.0}, {'coarse_weight': 5.0}, {'details': True}
  for change in changes:
    stages.setup_of(plan._replace(**change), codec)
  assert seen == [(64, 0, False), (9, 0, False), (64, 5, False), (64, 0, True)]


@pytest.mark.parametrize('value', ['True', '-1', '0.5', 'many'])
def test_steps_for_each_channel_are_a_whole_number(value):
  with pytest.raises(CodecError, match=f'channel_steps={value} must be a whole number'):
    plan_of(f'--set=channel_steps={value}')


def test_the_stage_of_scales_takes_the_steps_and_the_rate_of_its_paper():
  plan = plan_of('--stage=scales')
  assert (plan.steps, plan.lr) == (10_000, 1e-3)
  plan = plan_of('--stage=scales', '--steps=7', '--lr=0.5')
  assert (plan.steps, plan.lr) == (7, 0.5)


def test_a_run_from_before_there_were_such_options_goes_on(tmp_path):
  old = {k: v for k, v in PLAN._asdict().items() if k not in plans.Plan._field_defaults}
  Path(tmp_path, plans.FILE).write_text(json.dumps(old))
  assert plans.record(tmp_path, PLAN)
  with pytest.raises(CodecError, match='channel_steps 0, not 9'):
    plans.record(tmp_path, PLAN._replace(channel_steps=9))


def test_first_weights_lack_shortcuts_and_have_a_pass_more(tmp_path):
  """Shortcuts begin with little effect, and weights of passes that are gone are left out."""
  options = {'channels': 4, 'latents': 4, 'hyper': 4, 'attention': False, 'stem': 4}
  options |= {'context': 'channels'}
  first = jit(gmm.codec(**options).init)(jax.random.key(5))
  path = tmp_path / 'first.safetensors'
  host = flatten(jax.tree.map(np.asarray, first), 'params')
  models.write(path, host, {'method': 'gmm', 'options': options}, overwrite=True)
  more = {**options, 'shortcuts': True, 'two_passes': 0}
  plan = PLAN._replace(method='gmm', options=more, start=str(path))
  params, _ = stages.setup_of(plan, gmm.codec(**more)).init()
  fresh = gmm.codec(**more).init(jax.random.key(plan.seed))
  kernels = [p['synthesis']['shortcut0']['projection']['kernel'] for p in (params, fresh)]
  np.testing.assert_allclose(kernels[0], 0.05 * np.asarray(kernels[1]), rtol=1e-6)
  kept = {k: v for k, v in params['synthesis'].items() if 'shortcut' not in k}
  assert same(kept, first['synthesis'])
  group = dict(first['groups']['group0'])
  assert group.pop('anchors') and same(params['groups'], {'group0': group})
  other = PLAN._replace(method='gmm', options={**options, 'hyper': 6}, start=str(path))
  with pytest.raises(CodecError, match=r'are not those of gmm.*: they have hyper=4$'):
    stages.setup_of(other, gmm.codec(**other.options)).init()


@pytest.mark.slow
def test_networks_that_the_first_weights_lack_begin_anew_and_a_line_says_so(tmp_path):
  options = {'base': 2, 'blocks': 1, 'latents': 4, 'hyper': 4, 'linear': True}
  first = jit(gan.codec(**options).init)(jax.random.key(5))
  path = tmp_path / 'first.safetensors'
  host = flatten(jax.tree.map(np.asarray, first), 'params')
  models.write(path, host, {'method': 'gan', 'options': options}, overwrite=True)
  more = {**options, 'restoration': 3}
  plan = PLAN._replace(method='gan', options=more, start=str(path))
  lines = []
  params, _ = stages.setup_of(plan, codec := gan.codec(**more), lines.append).init()
  assert lines == [f'{path} lacks synthesis.restoration, which begins anew']
  added = params['synthesis'].pop('restoration')
  assert same(params, first)
  fresh = codec.init(jax.random.key(plan.seed))['synthesis']['restoration']
  assert same(added, fresh)
  narrower = PLAN._replace(method='gan', options={**more, 'latents': 5}, start=str(path))
  with pytest.raises(CodecError, match='are not those of gan'):
    stages.setup_of(narrower, gan.codec(**narrower.options)).init()
