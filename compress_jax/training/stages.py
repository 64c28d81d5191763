"""The stages of training by name: their initial parameters, loss and optimizer."""

import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from compress_jax.codec import Codec, CodecError, Params, level_of, nothing_learned
from compress_jax.layers import linear, wavelets
from compress_jax.methods.gan import networks
from compress_jax.methods.gmm import channels
from compress_jax.training import (
  balance,
  float_weights,
  freezing,
  level_draws,
  losses,
  masking,
  objectives,
  optimizers,
  scales,
  target_rate,
  trainer,
)
from compress_jax.training.perceptual import Perceptual, perceptual_of
from compress_jax.training.plans import Plan

DISTORTIONS = {'mse': losses.squared_error, 'ms-ssim': losses.ms_ssim_distortion}
# The parts of the parameters that decide the latents of a file.
ENCODER = {'analysis', 'hyper_analysis', scales.GAINS}
_STAGE_OF = {
  'balanced': 'rate-distortion',
  'channel_steps': 'rate-distortion',
  'refit_prior': 'scales',
  'adversarial_weight': 'adversarial',
  'coarse_weight': 'adversarial',
  'details': 'adversarial',
  'learns': 'adversarial',
  'updates': 'adversarial',
}
Log = Callable[[str], None]


class Setup(NamedTuple):
  """The parameters, loss and optimizer of a stage of training."""

  init: Callable[[], tuple[Params, Any]]  # Parameters and state; reads --start.
  form: tuple[Params, Any]  # Shapes and types of parameters and state; needs no --start.
  loss: trainer.LossFn
  optimizer: optax.GradientTransformation
  # Returns the weights of the codec from the parameters and their average.
  weights: Callable[[Params, Params], Params] = lambda params, average: average


def setup_of(plan: Plan, codec: Codec, log: Log = lambda line: None) -> Setup:
  """Returns the parameters, loss and optimizer of the stage that a plan names.

  Raises:
    CodecError: the plan does not fit its method or its stage.
  """
  if codec.apply is nothing_learned:
    raise CodecError(f'{plan.method} has nothing to train by gradients')
  for name, stage in _STAGE_OF.items():
    value = getattr(plan, name)
    if value != Plan._field_defaults[name] and plan.stage != stage:
      shown = f'{value:g}' if isinstance(value, float) else value
      raise CodecError(f'{name}={shown} is of the stage {stage}, not {plan.stage}')
  _check_target(plan)
  _check_levels(plan)
  if plan.balanced and (plan.target_rate is not None or plan.channel_steps):
    raise CodecError('balanced=True goes neither with --target_rate nor with channel_steps')
  return STAGES[plan.stage](plan, codec, log)


def _check_target(plan: Plan) -> None:
  """Raises CodecError if the plan has a target rate that its stage cannot reach."""
  if plan.target_rate is None:
    return
  if plan.lmbda is None:
    raise CodecError('--target_rate is for a model of one rate: --set=levels=1')
  if plan.stage in ('decoder', 'scales') or (
    plan.stage == 'adversarial' and plan.learns == 'generator'
  ):
    also = ' with --learns=generator' if plan.stage == 'adversarial' else ''
    raise CodecError(f'the stage {plan.stage}{also} has no --target_rate: its rate does not learn')


def _check_levels(plan: Plan) -> None:
  """Raises CodecError if the plan draws levels in a way that its stage or model does not have."""
  if plan.level_draw == level_draws.EVEN:
    return
  if plan.lmbda is not None:
    raise CodecError(f'level_draw={plan.level_draw} is for a model of every rate')
  if plan.stage in ('scales', 'adversarial'):
    raise CodecError(f'level_draw={plan.level_draw} is not of the stage {plan.stage}')


def _rate_distortion(plan: Plan, codec: Codec, log: Log) -> Setup:
  """Sets up the stage in which all parts of a codec learn."""
  perceptual = _perceptual(plan, log)  # Its weights are read once, before the loss is traced.
  loss_of = lambda apply: _loss(plan, apply, _level(plan), perceptual)  # noqa: E731
  loss = _incremental(plan, codec, loss_of) if plan.channel_steps else loss_of(codec.apply)
  optimizer = trainer.adam(plan.lr)
  state = {balance.STATE: balance.start()} if plan.balanced else {}
  form = _shapes(codec), jax.eval_shape(lambda: state)
  return Setup(lambda: (_begin(plan, codec, log), state), form, loss, optimizer)


def _incremental(
  plan: Plan, codec: Codec, loss_of: Callable[[objectives.Apply], objectives.Weighted]
) -> objectives.Weighted:
  """Returns the rate-distortion loss with the latents' channels enabled one after the other."""
  channels, every = _gains(codec).shape[1], plan.channel_steps
  masked = functools.partial(codec.apply, mask=jnp.ones(channels, bool))
  jax.eval_shape(masked, _shapes(codec), _zeros((1, 64, 64, 3)), _zeros(1), None)  # May refuse.
  needed = masking.steps_until_all(channels, every)
  if plan.steps <= needed:
    raise CodecError(f'{plan.steps} steps end before all channels are on, at step {needed}')
  return masking.incremental(codec.apply, loss_of, channels=channels, every=every)


def _scales(plan: Plan, codec: Codec, log: Log) -> Setup:
  """Sets up the stage in which only gains learn, and the prior if that is asked for.

  They learn at the lambdas that have their own gains.
  """
  if not plan.start:
    raise CodecError('the stage scales needs --start: weights whose gains are to be trained')
  parts = {scales.GAINS, scales.PRIOR} if plan.refit_prior else {scales.GAINS}
  levels = _gains(codec).shape[0]
  chosen = scales.trained_levels(levels) if plan.lmbda is None else level_of(plan.lmbda)
  extended = lambda params: scales.with_levels(params, levels)  # noqa: E731
  adam, form = optax.adam(scales.schedule(plan.lr)), _shapes(codec)
  return Setup(
    lambda: (_begin(plan, codec, log, extended), {}),
    (form, {}),
    _loss(plan, freezing.learning_only(codec.apply, parts), chosen, _perceptual(plan, log)),
    freezing.optimizer(adam, form, parts),
    lambda params, average: _only(average, parts, params),
  )


def _decoder(plan: Plan, codec: Codec, log: Log) -> Setup:
  """Sets up the stage in which all but the encoder learns, from the symbols that files hold.

  Z. Guo, Z. Zhang, R. Feng, Z. Chen, "Soft then hard: rethinking the quantization in neural image
  compression", ICML 2021.
  """
  if not plan.start:
    raise CodecError('the stage decoder needs --start: weights whose encoder is done')
  apply = _as_files(codec)
  form = _shapes(codec)
  parts = form.keys() - ENCODER
  return Setup(
    lambda: (_begin(plan, codec, log), {}),
    (form, {}),
    _loss(plan, freezing.learning_only(apply, parts), _level(plan), _perceptual(plan, log)),
    freezing.optimizer(trainer.unclipped_adam(plan.lr), form, parts),
    lambda params, average: _only(average, parts, params),
  )


def _rounded(plan: Plan, codec: Codec, log: Log) -> Setup:
  """Sets up the stage in which a codec learns from the symbols that files hold.

  The encoder learns from the gradient that noise gives to the rate of these symbols.
  """
  if not plan.start:
    raise CodecError('the stage rounded needs --start: weights to go on from')
  loss = _loss(plan, _as_files(codec, noisy=True), _level(plan), _perceptual(plan, log))
  optimizer = trainer.adam(plan.lr)
  return Setup(lambda: (_begin(plan, codec, log), {}), (_shapes(codec), {}), loss, optimizer)


def _adversarial(plan: Plan, codec: Codec, log: Log) -> Setup:
  """Sets up the stage of gan in which its synthesis, or all of it, and a discriminator learn."""
  if plan.method != 'gan' or not plan.start:
    raise CodecError('the adversarial stage is one of gan, and needs --start: the first weights')
  whole, alternate = plan.learns == 'all', plan.updates == 'alternate'
  apply = codec.apply if whole else _as_files(codec)
  discriminator, key = networks.Discriminator(details=plan.details), jax.random.key(plan.seed)
  shape = 1, plan.crop, plan.crop, 3
  latents = jax.eval_shape(apply, _shapes(codec), _zeros(shape), _zeros(1), key)

  def with_discriminator(params: Params) -> tuple[Params, Any]:
    fresh, state = objectives.init_discriminator(
      discriminator, jax.random.fold_in(key, 1), shape, latents.y_hat.shape
    )
    return {'codec': params, 'discriminator': fresh}, state

  perceptual = perceptual_of(plan.lpips, plan.perceptual)
  log(perceptual.about)
  loss = objectives.adversarial(
    apply,
    discriminator,
    perceptual=perceptual,
    level=_level(plan),
    weight=plan.adversarial_weight,
    coarse_weight=plan.coarse_weight,
    whole=whole,
    alternate=alternate,
    target=_target(plan),
    compute_dtype=jnp.dtype(plan.precision),
  )
  generator, judge = trainer.unclipped_adam(plan.lr), trainer.unclipped_adam(plan.lr, b1=0.5)
  form = jax.eval_shape(with_discriminator, _shapes(codec))
  optimizer = optimizers.two_stage_optimizer(
    generator, judge, form[0], clip=trainer.CLIP, whole=whole, alternate=alternate
  )
  learning = form[0]['codec'].keys() if whole else {'synthesis'}
  return Setup(
    lambda: with_discriminator(_begin(plan, codec, log)),
    form,
    loss,
    optimizer,
    lambda params, average: _only(average['codec'], learning, params['codec']),
  )


STAGES: dict[str, Callable[[Plan, Codec, Log], Setup]] = {
  'rate-distortion': _rate_distortion,
  'rounded': _rounded,
  'decoder': _decoder,
  'adversarial': _adversarial,
  'scales': _scales,
}


def _loss(
  plan: Plan,
  apply: objectives.Apply,
  level: int | tuple[int, ...] | None,
  perceptual: Perceptual | None,
) -> objectives.Weighted:
  """Returns the loss of all stages but the adversarial one."""
  return objectives.rate_distortion(
    apply,
    level=level,
    draw=level_draws.draw_of(plan.level_draw, seed=plan.seed, axis=trainer.AXIS),
    distortion=DISTORTIONS[plan.distortion],
    perceptual=perceptual,
    target=_target(plan),
    penalty=_penalty if plan.options.get('shortcuts') else None,
    balanced=plan.balanced,
    axis=trainer.AXIS,
    compute_dtype=jnp.dtype(plan.precision),
  )


def _penalty(params: Params) -> jax.Array:
  """Returns the weighted penalty of shortcuts whose projections are not orthogonal."""
  return wavelets.PENALTY * wavelets.orthogonality(params)


def _perceptual(plan: Plan, log: Log) -> Perceptual | None:
  """Returns the perceptual term of a plan, or None if it has none.

  Reads the weights, and logs a description of the term.
  """
  if plan.lpips is None and plan.perceptual == 'lpips':
    return None
  perceptual = perceptual_of(plan.lpips, plan.perceptual)
  log(perceptual.about)
  return perceptual


def _target(plan: Plan) -> target_rate.Target | None:
  """Returns the target rate; without a number of steps it has no relaxed start."""
  if plan.target_rate is None:
    return None
  assert plan.lmbda is not None
  relaxed = target_rate.relaxed_steps(plan.steps) if plan.minutes is None else 0
  return target_rate.Target(plan.target_rate, plan.lmbda, relaxed=relaxed, axis=trainer.AXIS)


def _as_files(codec: Codec, *, noisy: bool = False) -> objectives.Apply:
  """Returns the forward pass with latents rounded as files round them.

  With `noisy` the rate has the gradient that it has under noise.
  """
  apply = codec.apply
  if noisy:
    return functools.partial(apply, as_files=True)
  return lambda params, x, level, key: apply(params, x, level, None)


def _level(plan: Plan) -> int | None:
  return None if plan.lmbda is None else level_of(plan.lmbda)


def _begin(
  plan: Plan, codec: Codec, log: Log, change: Callable[[Params], Params] = lambda params: params
) -> Params:
  """Returns fresh parameters, or those of --start after a change.

  Networks that --start lacks are fresh, and shortcuts that it lacks begin with little effect.
  Weights of second passes that the options do not have are left out.
  """
  if not plan.start:
    params = codec.init(jax.random.key(plan.seed))
    return params if plan.lmbda is None else scales.at_rate(params, plan.lmbda)
  read, config = float_weights.weights(Path(plan.start))
  if config['method'] != plan.method:
    raise CodecError(f'{plan.start} holds weights of {config["method"]}, not of {plan.method}')
  params = change(read)
  if plan.options.get('centred') and not config['options'].get('centred'):
    params = linear.centring(params)
    log(f'{plan.start} was trained on uncentred images; training continues with centred ones')
  if (passes := plan.options.get('two_passes')) is not None and 'groups' in params:
    params = {**params, 'groups': channels.with_passes(params['groups'], passes)}
  flat, wanted = (traverse_util.flatten_dict(tree) for tree in (params, _shapes(codec)))
  if any(key not in wanted or np.shape(flat[key]) != wanted[key].shape for key in flat):
    raise CodecError(
      f'the weights of {plan.start} are not those of {plan.method} of these options'
      f'{_differing(config["options"], plan.options)}'
    )
  if missing := wanted.keys() - flat.keys():
    fresh = traverse_util.flatten_dict(wavelets.faint(codec.init(jax.random.key(plan.seed))))
    flat |= {key: fresh[key] for key in missing}
    names = sorted({'.'.join(key[:2]) for key in missing})
    log(f'{plan.start} lacks {", ".join(names)}, which begins anew')
  typed = {key: np.asarray(value, wanted[key].dtype) for key, value in flat.items()}
  return traverse_util.unflatten_dict(typed)


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
  """Returns the end of a sentence that names the options of trained weights which differ."""
  plain = {k: list(v) if isinstance(v, tuple) else v for k, v in ours.items()}  # As in a file.
  named = [f'{k}={v}' for k, v in theirs.items() if plain.get(k) != v]
  return f': they have {", ".join(named)}' if named else ''


def _only(average: Params, parts: Collection[str], params: Params) -> Params:
  """Returns the average of the parts that learned, and the other parts as they began.

  The average of parts that did not learn has been rounded.
  """
  return {name: average[name] if name in parts else params[name] for name in params}


def _shapes(codec: Codec) -> Params:
  return jax.eval_shape(codec.init, jax.random.key(0))


def _gains(codec: Codec) -> jax.ShapeDtypeStruct:
  """Returns the shape and type of the gains, [levels, channels]."""
  gains: jax.ShapeDtypeStruct = _shapes(codec)[scales.GAINS]
  return gains


def _zeros(shape: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(np.atleast_1d(shape), np.float32)
