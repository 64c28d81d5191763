"""The stages of training by name: where each begins, what it minimises, what learns."""

import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from compress_jax.codec import Codec, CodecError, Params, level_of, nothing_learned
from compress_jax.layers import linear
from compress_jax.methods.gan import networks
from compress_jax.training import (
  float_weights,
  freezing,
  losses,
  masking,
  objectives,
  scales,
  trainer,
)
from compress_jax.training.plans import Plan

DISTORTIONS = {'mse': losses.squared_error, 'ms-ssim': losses.ms_ssim_distortion}
ENCODER = {'analysis', 'hyper_analysis', scales.GAINS}  # What decides the latents of a file.
_STAGE_OF = {
  'channel_steps': 'rate-distortion',
  'refit_prior': 'scales',
  'adversarial_weight': 'adversarial',
  'details': 'adversarial',
}
Log = Callable[[str], None]


class Setup(NamedTuple):
  """What a stage of training works with."""

  init: Callable[[], tuple[Params, Any]]  # Parameters and state; reads --start.
  form: tuple[Params, Any]  # Their shapes and types, which need no --start.
  loss: trainer.LossFn
  optimizer: optax.GradientTransformation
  # Those of the codec, of parameters and their average.
  weights: Callable[[Params, Params], Params] = lambda params, average: average


def setup_of(plan: Plan, codec: Codec, log: Log = lambda line: None) -> Setup:
  """Parameters, loss and optimizer of the stage that a plan asks for.

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
  return STAGES[plan.stage](plan, codec, log)


def _rate_distortion(plan: Plan, codec: Codec, log: Log) -> Setup:
  """All of a codec learns."""
  loss_of = lambda apply: _loss(plan, apply, _level(plan))  # noqa: E731
  loss = _incremental(plan, codec, loss_of) if plan.channel_steps else loss_of(codec.apply)
  optimizer = trainer.adam(plan.lr)
  return Setup(lambda: (_begin(plan, codec, log), {}), (_shapes(codec), {}), loss, optimizer)


def _incremental(
  plan: Plan, codec: Codec, loss_of: Callable[[objectives.Apply], trainer.LossFn]
) -> trainer.LossFn:
  """The same, one channel of the latents after the other."""
  channels, every = _gains(codec).shape[1], plan.channel_steps
  masked = functools.partial(codec.apply, mask=jnp.ones(channels, bool))
  jax.eval_shape(masked, _shapes(codec), _zeros((1, 64, 64, 3)), _zeros(1), None)  # May refuse.
  needed = masking.steps_until_all(channels, every)
  if plan.steps <= needed:
    raise CodecError(f'{plan.steps} steps end before all channels are on, at step {needed}')
  return masking.incremental(codec.apply, loss_of, channels=channels, every=every)


def _scales(plan: Plan, codec: Codec, log: Log) -> Setup:
  """Only gains learn, at the lambdas that have their own, and the prior if that is asked for."""
  if not plan.start:
    raise CodecError('the stage scales needs --start: weights whose gains are to be trained')
  parts = {scales.GAINS, scales.PRIOR} if plan.refit_prior else {scales.GAINS}
  levels = _gains(codec).shape[0]
  chosen = scales.trained_levels(levels) if plan.lmbda is None else level_of(plan.lmbda)
  widened = lambda params: scales.with_levels(params, levels)  # noqa: E731
  adam, form = optax.adam(scales.schedule(plan.lr)), _shapes(codec)
  return Setup(
    lambda: (_begin(plan, codec, log, widened), {}),
    (form, {}),
    _loss(plan, freezing.learning_only(codec.apply, parts), chosen),
    freezing.optimizer(adam, form, parts),
    lambda params, average: _only(average, parts, params),
  )


def _decoder(plan: Plan, codec: Codec, log: Log) -> Setup:
  """All but the encoder learns, from the symbols that files hold: Z. Guo, Z. Zhang, R. Feng, Z.
  Chen, "Soft then hard: rethinking the quantization in neural image compression", ICML 2021.
  """
  if not plan.start:
    raise CodecError('the stage decoder needs --start: weights whose encoder is done')
  apply = _as_files(codec)
  form = _shapes(codec)
  parts = form.keys() - ENCODER
  return Setup(
    lambda: (_begin(plan, codec, log), {}),
    (form, {}),
    _loss(plan, freezing.learning_only(apply, parts), _level(plan)),
    freezing.optimizer(trainer.unclipped_adam(plan.lr), form, parts),
    lambda params, average: _only(average, parts, params),
  )


def _rounded(plan: Plan, codec: Codec, log: Log) -> Setup:
  """All of a codec learns from the symbols that files hold, and the encoder from the gradient that
  noise gives to their rate.
  """
  if not plan.start:
    raise CodecError('the stage rounded needs --start: weights to go on from')
  loss = _loss(plan, _as_files(codec, noisy=True), _level(plan))
  optimizer = trainer.adam(plan.lr)
  return Setup(lambda: (_begin(plan, codec, log), {}), (_shapes(codec), {}), loss, optimizer)


def _adversarial(plan: Plan, codec: Codec, log: Log) -> Setup:
  """The synthesis of gan and a discriminator learn."""
  if plan.method != 'gan' or not plan.start:
    raise CodecError('the adversarial stage is one of gan, and needs --start: the first weights')
  apply = _as_files(codec)
  discriminator, key = networks.Discriminator(details=plan.details), jax.random.key(plan.seed)
  shape = 1, plan.crop, plan.crop, 3
  latents = jax.eval_shape(apply, _shapes(codec), _zeros(shape), _zeros(1), key)

  def with_discriminator(params: Params) -> tuple[Params, Any]:
    fresh, state = objectives.init_discriminator(
      discriminator, jax.random.fold_in(key, 1), shape, latents.y_hat.shape
    )
    return {'codec': params, 'discriminator': fresh}, state

  perceptual = objectives.perceptual_of(plan.lpips)
  log(perceptual.about)
  loss = objectives.adversarial(
    apply,
    discriminator,
    perceptual=perceptual,
    level=_level(plan),
    weight=plan.adversarial_weight,
    compute_dtype=jnp.dtype(plan.precision),
  )
  generator, judge = trainer.unclipped_adam(plan.lr), trainer.unclipped_adam(plan.lr, b1=0.5)
  form = jax.eval_shape(with_discriminator, _shapes(codec))
  optimizer = objectives.two_stage_optimizer(generator, judge, form[0], clip=trainer.CLIP)
  return Setup(
    lambda: with_discriminator(_begin(plan, codec, log)),
    form,
    loss,
    optimizer,
    lambda params, average: _only(average['codec'], {'synthesis'}, params['codec']),
  )


STAGES: dict[str, Callable[[Plan, Codec, Log], Setup]] = {
  'rate-distortion': _rate_distortion,
  'rounded': _rounded,
  'decoder': _decoder,
  'adversarial': _adversarial,
  'scales': _scales,
}


def _loss(
  plan: Plan, apply: objectives.Apply, level: int | tuple[int, ...] | None
) -> trainer.LossFn:
  return objectives.rate_distortion(
    apply,
    level=level,
    distortion=DISTORTIONS[plan.distortion],
    compute_dtype=jnp.dtype(plan.precision),
  )


def _as_files(codec: Codec, *, noisy: bool = False) -> objectives.Apply:
  """Returns the forward pass with latents rounded as files round them.

  With the gradient of noise, if that is asked for, where the rate is counted.
  """
  apply = codec.apply
  if noisy:
    return functools.partial(apply, as_files=True)
  return lambda params, x, level, key: apply(params, x, level, None)


def _level(plan: Plan) -> int | None:
  return None if plan.lmbda is None else level_of(plan.lmbda)


def _begin(
  plan: Plan, codec: Codec, log: Log, changed: Callable[[Params], Params] = lambda params: params
) -> Params:
  """Fresh parameters, or those of --start after a change; networks that these lack are fresh."""
  if not plan.start:
    params = codec.init(jax.random.key(plan.seed))
    return params if plan.lmbda is None else scales.at_rate(params, plan.lmbda)
  read, config = float_weights.weights(Path(plan.start))
  if config['method'] != plan.method:
    raise CodecError(f'{plan.start} holds weights of {config["method"]}, not of {plan.method}')
  params = changed(read)
  if plan.options.get('centred') and not config['options'].get('centred'):
    params = linear.centring(params)
    log(f'{plan.start} saw whole images, and goes on with centred ones')
  found, wanted = (traverse_util.flatten_dict(tree) for tree in (params, _shapes(codec)))
  if any(key not in wanted or np.shape(found[key]) != wanted[key].shape for key in found):
    raise CodecError(f'the weights of {plan.start} are not those of {plan.method} of these options')
  if missing := wanted.keys() - found.keys():
    fresh = traverse_util.flatten_dict(codec.init(jax.random.key(plan.seed)))
    found |= {key: fresh[key] for key in missing}
    names = sorted({'.'.join(key[:2]) for key in missing})
    log(f'{plan.start} lacks {", ".join(names)}, which begins anew')
  typed = {key: np.asarray(value, wanted[key].dtype) for key, value in found.items()}
  return traverse_util.unflatten_dict(typed)


def _only(average: Params, parts: Collection[str], params: Params) -> Params:
  """The average of what learned, and the rest as it began: its average has been rounded."""
  return {name: average[name] if name in parts else params[name] for name in params}


def _shapes(codec: Codec) -> Params:
  return jax.eval_shape(codec.init, jax.random.key(0))


def _gains(codec: Codec) -> jax.ShapeDtypeStruct:
  """Of shape [levels, channels]."""
  found: jax.ShapeDtypeStruct = _shapes(codec)[scales.GAINS]
  return found


def _zeros(shape: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(np.atleast_1d(shape), np.float32)
