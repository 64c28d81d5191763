"""The losses of training, functions of parameters, images and one key per example.

`rate_distortion` trains every learned method, `adversarial` the second stage of HiFiC: F.
Mentzer, G. Toderici, M. Tschannen, E. Agustsson, "High-fidelity generative image
compression", NeurIPS 2020.

All metrics are plain means over examples: their mean over devices is that of the whole batch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from compress_jax.codec import CodecError, Coded, Key, Metrics, Params
from compress_jax.evaluation import lpips, wasserstein
from compress_jax.layers.quantization import lambda_of
from compress_jax.training import losses, target_rate
from compress_jax.training.target_rate import MSE_WEIGHT, Target

Array = jax.Array
State = Any  # Arrays that a loss updates without gradients; {} where there are none.
Apply = Callable[[Params, Array, Array, Key | None], Coded]
# A function of params, state, f32[B, H, W, 3] in [0, 1], Key[B] and the step i32[].
LossFn = Callable[[Params, State, Array, Key, Array], tuple[Array, tuple[State, Metrics]]]
Features = Sequence[Array]  # f32[B, h, w, C] for each layer of a discriminator.

LEVELS = 256
# In the authors' configs.py MSE, LPIPS and the adversarial term have the weights 0.75 * 0.1 /
# 32 = 0.00234375, 1 and 0.15 at every rate. The last two are ratios to the first here.
PERCEPTUAL_WEIGHT, ADVERSARIAL_WEIGHT = 427.0, 64.0
# Weights of the substitute for LPIPS. At HiFiC's rates on Kodak LPIPS is 0.03..0.07 and
# 1 - MS-SSIM 0.02..0.06 (the authors' data.csv). Feature matching on AVIF files of 0.3..0.9 bpp was
# measured as 0.13..0.24 by a discriminator after 350 steps, and a third of that before training.
# So each term is about half of LPIPS.
STRUCTURE, MATCHING = 0.5, 0.1
# The weight of Wasserstein distortion relative to LPIPS. For JPEG and AVIF files of 0.5..1.9 bpp of
# three Kodak images it is 0.8..2.5 and LPIPS 0.01..0.3; the geometric mean of the ratios is 0.06.
WASSERSTEIN = 0.05


class Perceptual(NamedTuple):
  """A perceptual distance between images: near 0.05 for a good codec at 0.3 bpp."""

  about: str  # A description of the distance for the log.
  # Returns f32[B] from the weights, images, coded images, and the discriminator's features of both.
  distance: Callable[[Any, Array, Array, Features, Features], Array]
  weights: Any = ()  # Arrays that do not learn.


class Weighted:
  """A loss with arrays that do not learn, which a compiled step takes as an argument.

  In a closure they would be constants of the program: compiled into it, and stored once more.
  It is called like any `LossFn`.
  """

  def __init__(self, of: Callable[..., tuple[Array, tuple[State, Metrics]]], weights: Any) -> None:
    """Binds `of`, which takes the weights before the arguments of a `LossFn`, to weights."""
    self.of, self.weights = of, weights

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
  distortion: losses.Distortion = losses.squared_error,
  perceptual: Perceptual | None = None,
  target: Target | None = None,
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
    distortion: a distance on the 0..255 scale.
    perceptual: the result of `perceptual_of` for some weights, since there is no discriminator.
    target: the target rate, for a fixed level.
    compute_dtype: type of the codec's activations.
  """

  def loss(
    weights: Any, params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    drawn = _draw(keys, level)
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
    return total, (state, {**metrics, **more})

  return Weighted(loss, () if perceptual is None else perceptual.weights)


def adversarial(
  apply: Apply,
  discriminator: nn.Module,
  *,
  perceptual: Perceptual,
  level: int | None = None,
  weight: float = ADVERSARIAL_WEIGHT,
  whole: bool = False,
  alternate: bool = False,
  target: Target | None = None,
  compute_dtype: Any = jnp.float32,
) -> Weighted:
  """Returns 0.0023 * (MSE + 427 * perceptual + 64 * adversarial) plus the discriminator's loss.

  bpp / lambda is added to the MSE, so that the three other terms have the same weights at every
  lambda, as in HiFiC. Where the encoder is frozen the rate is a constant without a gradient.
  Both losses are minimised by `two_stage_optimizer`, at once or in turn: no gradient of
  either reaches the parameters of the other. params is {'codec': ..., 'discriminator':
  ...}, state the spectral vectors of the discriminator, {'batch_stats': ...}.

  Metrics besides those of `rate_distortion`: 'perceptual', and three cross-entropies, which
  are ln 2 where the discriminator cannot distinguish: its own on real and on coded images, 'd_real'
  and 'd_fake', and that of the generator, 'g_adv'.

  Args:
    apply: the forward pass of a codec whose sides of x divide by 16.
    discriminator: a module called with images and latents, as
      `methods.gan.networks.Discriminator`.
    perceptual: the result of `perceptual_of`.
    level: as in `rate_distortion`.
    weight: weight of the adversarial term, relative to MSE.
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


def perceptual_of(path: Path | str | None, measure: str = 'lpips') -> Perceptual:
  """Returns a perceptual distance: LPIPS, Wasserstein distortion or a substitute without weights.

  Args:
    path: path of the weights, see `lpips.find`; None asks for the substitute for LPIPS.
    measure: 'lpips', on AlexNet, or 'wasserstein', on VGG16.

  Raises:
    CodecError: there are no such weights.
  """
  if measure == 'wasserstein':
    return _wasserstein(path)
  if path is None:
    about = f'no LPIPS: {STRUCTURE} * (1 - MS-SSIM) + {MATCHING} * feature matching instead of it'
    return Perceptual(about, _substitute)

  def distance(weights: Any, x: Array, x_hat: Array, real: Features, coded: Features) -> Array:
    del real, coded
    return lpips.distance(weights, x, x_hat)

  weights = lpips.find(path)
  return Perceptual(f'{lpips.about(weights)} of {path}', distance, weights)


def _wasserstein(path: Path | str | None) -> Perceptual:
  """Returns Wasserstein distortion, scaled to the size of LPIPS."""
  if path is None:
    raise CodecError('Wasserstein distortion needs --lpips: weights of LPIPS on VGG16')

  def distance(weights: Any, x: Array, x_hat: Array, real: Features, coded: Features) -> Array:
    del real, coded
    return WASSERSTEIN * wasserstein.distortion(weights, x, x_hat, wasserstein.SIGMA)

  weights = lpips.find(path, 'vgg')
  return Perceptual(f'{wasserstein.about(weights)} of {path}', distance, weights)


def init_discriminator(
  discriminator: nn.Module, key: Key, image_shape: Sequence[int], latent_shape: Sequence[int]
) -> tuple[Params, State]:
  """Returns fresh parameters and spectral vectors of a discriminator.

  Images and latents have the shapes [..., H, W, C].
  """
  image, latents = (jnp.zeros((1, *shape[-3:])) for shape in (image_shape, latent_shape))
  variables = discriminator.init(key, image, latents)
  return variables['params'], {'batch_stats': variables['batch_stats']}


def two_stage_optimizer(
  generator_tx: optax.GradientTransformation,
  discriminator_tx: optax.GradientTransformation,
  params: Params,
  *,
  clip: float = 1.0,
  whole: bool = False,
  alternate: bool = False,
) -> optax.GradientTransformation:
  """Returns the optimizer of `adversarial`: the codec's synthesis and the discriminator learn.

  The rest of the codec stays bit for bit as it is: latents and rates are those of the first
  stage. It has no optimizer state.

  Args:
    generator_tx, discriminator_tx: each sees the gradients of its group only.
    params: {'codec': ..., 'discriminator': ...}; only their structure counts.
    clip: largest norm of the gradients of each group.
    whole: whether all of the codec learns.
    alternate: whether the discriminator is updated at even steps only and the codec at odd ones;
      `update` then takes the step as a keyword.
  """
  clipped = optax.clip_by_global_norm(clip)
  groups = {
    'generator': optax.chain(clipped, generator_tx),
    'discriminator': optax.chain(clipped, discriminator_tx),
    'frozen': optax.set_to_zero(),
  }
  if alternate:
    groups['discriminator'] = in_turn(groups['discriminator'], 0)
    groups['generator'] = in_turn(groups['generator'], 1)
  return optax.partition(groups, groups_of(params, whole=whole))


def in_turn(tx: optax.GradientTransformation, turn: int) -> optax.GradientTransformationExtraArgs:
  """Returns an optimizer that is `tx` at every second step and changes nothing at the others.

  `update` takes as keywords the `step` of the run, counted from 0, and its `total`; `tx` is called
  with half of that total.

  Args:
    tx: an optimizer.
    turn: 0 for the even steps, 1 for the odd ones.
  """
  every = optax.with_extra_args_support(tx)

  def update(
    updates: Params,
    state: Any,
    params: Params | None = None,
    *,
    step: Array,
    total: Array,
    **_: Any,
  ) -> tuple[Params, Any]:
    def mine() -> tuple[Params, Any]:
      return every.update(updates, state, params, step=step, total=total // 2)

    def others() -> tuple[Params, Any]:
      return jax.tree.map(jnp.zeros_like, updates), state

    found: tuple[Params, Any] = lax.cond(step % 2 == turn, mine, others)
    return found

  return optax.GradientTransformationExtraArgs(tx.init, update)


def groups_of(params: Params, *, whole: bool = False) -> Params:
  """Returns the group of each parameter: 'generator', 'discriminator' or 'frozen'."""

  def labelled(tree: Params, group: str) -> Params:
    return jax.tree.map(lambda _: group, tree)

  codec = {
    name: labelled(part, 'generator' if whole or name == 'synthesis' else 'frozen')
    for name, part in params['codec'].items()
  }
  return {'codec': codec, 'discriminator': labelled(params['discriminator'], 'discriminator')}


def _frozen(codec: Params) -> Params:
  """Stops gradients of all parts but the synthesis, so that others are not differentiated."""
  return {
    name: part if name == 'synthesis' else lax.stop_gradient(part) for name, part in codec.items()
  }


def _draw(keys: Key, level: int | Sequence[int] | None) -> _Draw:
  """Returns the random choices of each example, which depend only on its own key."""
  key_level, key_noise = jax.vmap(jax.random.split, out_axes=1)(keys)
  if isinstance(level, int):
    levels = jnp.full(len(keys), level, jnp.int32)
    lmbda = lambda_of(levels)
    return _Draw(levels, lmbda, jnp.ones_like(lmbda), key_noise)
  choices = jnp.arange(LEVELS) if level is None else jnp.asarray(level, jnp.int32)
  levels = choices[jax.vmap(lambda key: jax.random.randint(key, (), 0, len(choices)))(key_level)]
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


def _substitute(weights: Any, x: Array, x_hat: Array, real: Features, coded: Features) -> Array:
  del weights
  structure = 1 - losses.ms_ssim(x, x_hat)
  return STRUCTURE * structure + MATCHING * losses.feature_matching(real, coded)
