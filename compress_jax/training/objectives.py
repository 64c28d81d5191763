"""The losses of training, functions of parameters, images and one key per example.

`rate_distortion` trains every learned method, `adversarial` the second stage of HiFiC: F.
Mentzer, G. Toderici, M. Tschannen, E. Agustsson, "High-fidelity generative image
compression", NeurIPS 2020.

All metrics are plain means over examples: their mean over devices is that of the whole batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from compress_jax.codec import Coded, Key, Metrics, Params
from compress_jax.layers.quantization import lambda_of
from compress_jax.training import balance, losses, target_rate
from compress_jax.training.level_draws import LEVELS, LevelDraw
from compress_jax.training.perceptual import Perceptual
from compress_jax.training.target_rate import MSE_WEIGHT, Target

Array = jax.Array
State = Any  # Arrays that a loss updates without gradients; {} where there are none.
Apply = Callable[[Params, Array, Array, Key | None], Coded]
# A function of params, state, f32[B, H, W, 3] in [0, 1], Key[B] and the step i32[].
LossFn = Callable[[Params, State, Array, Key, Array], tuple[Array, tuple[State, Metrics]]]
# A function of the state and the metrics of a batch, before and after its update, to the new state.
AfterUpdate = Callable[[State, Metrics, Metrics], State]

# In the authors' configs.py MSE, LPIPS and the adversarial term have the weights 0.75 * 0.1 /
# 32 = 0.00234375, 1 and 0.15 at every rate. The last two are ratios to the first here.
PERCEPTUAL_WEIGHT, ADVERSARIAL_WEIGHT = 427.0, 64.0


class Weighted:
  """A loss with arrays that do not learn, which a compiled step takes as an argument.

  In a closure they would be constants of the program: compiled into it, and stored once more.
  It is called like any `LossFn`.
  """

  def __init__(
    self,
    of: Callable[..., tuple[Array, tuple[State, Metrics]]],
    weights: Any,
    *,
    after_update: AfterUpdate | None = None,
  ) -> None:
    """Binds `of`, which takes the weights before the arguments of a `LossFn`, to weights.

    With `after_update` a step computes the loss of its batch once more after the update.
    """
    self.of, self.weights, self.after_update = of, weights, after_update

  def __call__(
    self, params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    """Returns the loss with the bound weights."""
    return self.of(self.weights, params, state, x, keys, step)


class _Draw(NamedTuple):
  """The random choices that the keys of examples decide."""

  level: Array  # i32[B].
  lmbda: Array  # f32[B].
  weight: Array  # f32[B], weights of the examples in the loss.
  noise: Key  # Key[B].


class _Judgement(NamedTuple):
  """The output of a discriminator for images."""

  logits: Array  # f32[B, h, w], high where they look real.
  features: tuple[Array, ...]  # f32[B, h, w, C] for each of its convolutions of the image.


def rate_distortion(
  apply: Apply,
  *,
  level: int | Sequence[int] | None = None,
  draw: LevelDraw | None = None,
  distortion: losses.Distortion = losses.squared_error,
  perceptual: Perceptual | None = None,
  target: Target | None = None,
  penalty: Callable[[Params], Array] | None = None,
  balanced: bool = False,
  axis: str | None = None,
  compute_dtype: Any = jnp.float32,
) -> Weighted:
  """Returns the loss bpp + lambda * (distortion + 427 * perceptual), the last term on request.

  With the MSE and LPIPS this is the first stage of HiFiC. With a `target`, which decides lambda,
  the loss is 0.0023 * (bpp / lambda + distortion + 427 * perceptual): from batch to batch only the
  weight of the rate changes.

  Metrics besides those of `losses.rate_distortion`: 'perceptual', where it is part of the loss, and
  those of `target_rate.controlled`.

  Args:
    apply: the forward pass of a codec.
    level: the level byte of every example, or several of which each example draws one evenly;
      None draws from all.
    draw: how levels are drawn from all, in place of evenly.
    distortion: a distance on the 0..255 scale.
    perceptual: the result of `perceptual_of` for some weights, since there is no discriminator.
    target: the target rate, for a fixed level.
    penalty: a function of the parameters, f32[], that is added to the loss.
    balanced: whether rate and distortion are weighted as `balance` does, by a part of the state.
    axis: name of the mapped axis of devices, which share these weights; None for a single device.
    compute_dtype: type of the codec's activations.
  """

  def loss(
    weights: Any, params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    drawn = _draw(keys, level, draw and (lambda keys: draw(keys, step)))
    coded = apply(params, x.astype(compute_dtype), drawn.level, drawn.noise)
    distance, more = distortion(x, coded.x_hat), {}
    if perceptual is not None:
      term = perceptual.distance(weights, x, coded.x_hat, (), ())
      distance, more = distance + PERCEPTUAL_WEIGHT * term, {'perceptual': term.mean()}
    if target is not None:
      drawn, found = _controlled(target, apply, params, x.astype(compute_dtype), drawn, step)
      more |= found
    total, metrics = losses.rate_distortion(
      x, coded, drawn.lmbda, distortion=distance, weight=drawn.weight
    )
    if balanced:
      pixels = x.shape[1] * x.shape[2]
      bits = jnp.sum(jnp.stack(list(coded.bits.values())), 0)
      rate = jnp.mean(drawn.weight * bits) / pixels
      terms = jnp.stack([rate, total - rate])
      total, learning = balance.balanced(state[balance.STATE], terms, axis)
      more |= learning
    if penalty is not None:
      more['penalty'] = penalty(params)
      total += more['penalty']
    return total, (state, {**metrics, **more})

  after_update = balance.after_update if balanced else None
  return Weighted(loss, () if perceptual is None else perceptual.weights, after_update=after_update)


def adversarial(
  apply: Apply,
  discriminator: nn.Module,
  *,
  perceptual: Perceptual,
  level: int | None = None,
  weight: float = ADVERSARIAL_WEIGHT,
  coarse_weight: float = 0.0,
  whole: bool = False,
  alternate: bool = False,
  target: Target | None = None,
  compute_dtype: Any = jnp.float32,
) -> Weighted:
  """Returns 0.0023 * (MSE + 427 * perceptual + 64 * adversarial) plus the discriminator's loss.

  bpp / lambda is added to the MSE, so that the other terms have the same weights at every
  lambda, as in HiFiC. With `coarse_weight` so is that multiple of `losses.coarse_error`.
  Where the encoder is frozen the rate is a constant without a gradient. Both losses are minimised
  by `optimizers.two_stage_optimizer`, at once or in turn: no gradient of either reaches the
  parameters of the other. params is {'codec': ..., 'discriminator': ...}, state the spectral
  vectors of the discriminator, {'batch_stats': ...}.

  Metrics besides those of `rate_distortion`: 'perceptual', and three cross-entropies, which
  are ln 2 where the discriminator cannot distinguish: its own on real and on coded images, 'd_real'
  and 'd_fake', and that of the generator, 'g_adv'. With `coarse_weight` there is also 'coarse', the
  mean of `losses.coarse_error`.

  Args:
    apply: the forward pass of a codec whose sides of x divide by 16.
    discriminator: a module called with images and latents, as
      `methods.gan.networks.Discriminator`.
    perceptual: the result of `perceptual.perceptual_of`.
    level: as in `rate_distortion`.
    weight: weight of the adversarial term, relative to MSE.
    coarse_weight: weight of `losses.coarse_error`, relative to MSE; HiFiC has no such term.
    whole: whether all of the codec learns, as in HiFiC, or its synthesis alone.
    alternate: whether the discriminator has a gradient at even steps only and the codec at odd
      ones, each from the images of its step, as in HiFiC, or both have one at every step.
    target: the target rate, where the whole codec learns at a fixed level.
    compute_dtype: type of the codec's activations; the discriminator works in float32.
  """

  def both(
    weights: Any, params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    drawn = _draw(keys, level)
    codec = params['codec'] if whole else _frozen(params['codec'])
    coded = apply(codec, x.astype(compute_dtype), drawn.level, drawn.noise)
    real, fake, new_state = _judge_both(discriminator, params['discriminator'], state, x, coded)
    frozen = lax.stop_gradient(params['discriminator'])
    coded_judgement, _ = _judge(discriminator, frozen, state, coded.x_hat, coded.y_hat)
    terms = {
      'perceptual': perceptual.distance(
        weights, x, coded.x_hat, real.features, coded_judgement.features
      ),
      'g_adv': losses.called_real(coded_judgement.logits),
      'd_real': losses.called_real(real.logits),
      'd_fake': losses.called_coded(fake.logits),
    }
    distance = losses.squared_error(x, coded.x_hat)
    distance += PERCEPTUAL_WEIGHT * terms['perceptual'] + weight * terms['g_adv']
    if coarse_weight:
      terms['coarse'] = losses.coarse_error(x, coded.x_hat)
      distance += coarse_weight * terms['coarse']
    drawn = drawn._replace(weight=MSE_WEIGHT / drawn.lmbda)
    more: dict[str, Array] = {}
    if target is not None:
      drawn, more = _controlled(target, apply, codec, x.astype(compute_dtype), drawn, step)
    total, metrics = losses.rate_distortion(
      x, coded, drawn.lmbda, distortion=distance, weight=drawn.weight
    )
    metrics |= {**more, **{name: term.mean() for name, term in terms.items()}}
    total += metrics['d_real'] + metrics['d_fake']
    return total, (new_state, {**metrics, 'loss': total})

  def in_turn(
    weights: Any, params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    def of(learning: str) -> Callable[[Params, State, Array], tuple[Array, tuple[State, Metrics]]]:
      def turn(params: Params, state: State, x: Array) -> tuple[Array, tuple[State, Metrics]]:
        held = {k: v if k == learning else lax.stop_gradient(v) for k, v in params.items()}
        return both(weights, held, state, x, keys, step)

      return turn

    return lax.cond(step % 2 == 0, of('discriminator'), of('codec'), params, state, x)

  return Weighted(in_turn if alternate else both, perceptual.weights)


def _controlled(
  target: Target, apply: Apply, params: Params, x: Array, drawn: _Draw, step: Array
) -> tuple[_Draw, dict[str, Array]]:
  """Returns the draw with the lambda that the target decides, and the metrics of the control."""

  def bits() -> Array:
    rounded = apply(lax.stop_gradient(params), x, drawn.level, None)
    return jnp.sum(jnp.stack(list(rounded.bits.values())), 0)

  found = target_rate.controlled(target, bits, x.shape[1] * x.shape[2], step)
  lmbda = jnp.full_like(drawn.lmbda, found['lambda'])
  return drawn._replace(lmbda=lmbda, weight=MSE_WEIGHT / lmbda), found


def init_discriminator(
  discriminator: nn.Module, key: Key, image_shape: Sequence[int], latent_shape: Sequence[int]
) -> tuple[Params, State]:
  """Returns fresh parameters and spectral vectors of a discriminator.

  Images and latents have the shapes [..., H, W, C].
  """
  image, latents = (jnp.zeros((1, *shape[-3:])) for shape in (image_shape, latent_shape))
  variables = discriminator.init(key, image, latents)
  return variables['params'], {'batch_stats': variables['batch_stats']}


def _frozen(codec: Params) -> Params:
  """Stops gradients of all parts but the synthesis, so that others are not differentiated."""
  return {
    name: part if name == 'synthesis' else lax.stop_gradient(part) for name, part in codec.items()
  }


def _draw(
  keys: Key,
  level: int | Sequence[int] | None,
  draw: Callable[[Key], Array] | None = None,
) -> _Draw:
  """Returns the random choices of each example, which depend only on its own key.

  Levels are those of `draw`, if it is given.
  """
  key_level, key_noise = jax.vmap(jax.random.split, out_axes=1)(keys)
  if isinstance(level, int):
    levels = jnp.full(len(keys), level, jnp.int32)
    lmbda = lambda_of(levels)
    return _Draw(levels, lmbda, jnp.ones_like(lmbda), key_noise)
  if draw is not None:
    levels = draw(key_level)
  else:
    choices = jnp.arange(LEVELS) if level is None else jnp.asarray(level, jnp.int32)
    chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(choices)))(key_level)
    levels = choices[chosen]
  lmbda = lambda_of(levels)
  return _Draw(levels, lmbda, losses.weight_of(lmbda), key_noise)


def _judge_both(
  discriminator: nn.Module, params: Params, state: State, x: Array, coded: Coded
) -> tuple[_Judgement, _Judgement, State]:
  """Returns the discriminator's output for real and for coded images, and the new state.

  Both are one batch, each image with its latents. No gradient reaches the codec.
  """
  x_hat, y_hat = lax.stop_gradient((coded.x_hat, coded.y_hat))
  images, latents = jnp.concatenate([x, x_hat]), jnp.concatenate([y_hat, y_hat])
  both, state = _judge(discriminator, params, state, images, latents)
  real = jax.tree.map(lambda value: value[: len(x)], both)
  fake = jax.tree.map(lambda value: value[len(x) :], both)
  return real, fake, state


def _judge(
  discriminator: nn.Module, params: Params, state: State, x: Array, y_hat: Array
) -> tuple[_Judgement, State]:
  """Applies the discriminator and makes one step of its spectral vectors.

  The step depends only on the parameters and the state.
  """
  logits, updated = discriminator.apply(
    {'params': params, **state},
    x,
    y_hat,
    update=True,
    mutable=['batch_stats', 'intermediates'],
    capture_intermediates=_is_image_layer,
  )
  layers = updated['intermediates']
  features = tuple(layers[name]['__call__'][0] for name in sorted(layers) if name != '__call__')
  return _Judgement(logits, features), {'batch_stats': lax.stop_gradient(updated['batch_stats'])}


def _is_image_layer(module: nn.Module, method: str) -> bool:
  """Returns whether a module is a hidden layer that processes the image, with its spectral norm."""
  hidden = (module.name or '').startswith('conv')
  return isinstance(module, nn.SpectralNorm) and hidden and method == '__call__'
