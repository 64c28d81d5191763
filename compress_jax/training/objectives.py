"""What the trainer minimises, as a function of parameters, images and one key per example.

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

from compress_jax.codec import Coded, Key, Metrics, Params
from compress_jax.evaluation import lpips
from compress_jax.layers.quantization import lambda_of
from compress_jax.training import losses

Array = jax.Array
State = Any  # What a loss updates besides gradients; {} where there is nothing.
Apply = Callable[[Params, Array, Array, Key], Coded]
# Of params, state, f32[B, H, W, 3] in [0, 1], Key[B] and the step i32[].
LossFn = Callable[[Params, State, Array, Key, Array], tuple[Array, tuple[State, Metrics]]]
Features = Sequence[Array]  # f32[B, h, w, C] of each layer of a discriminator.

LEVELS = 256
# configs.py of the authors: MSE, LPIPS and the adversarial term have the weights 0.75 * 0.1 /
# 32 = 0.00234375, 1 and 0.15 at every rate. The last two are given as ratios to the first.
MSE_WEIGHT = 0.75 * 0.1 / 32
PERCEPTUAL_WEIGHT, ADVERSARIAL_WEIGHT = 427.0, 64.0
# Of the stand-in. At HiFiC's rates on Kodak LPIPS is 0.03..0.07 and 1 - MS-SSIM 0.02..0.06
# (data.csv of the authors). Feature matching was measured on AVIF files of 0.3..0.9 bpp: 0.13..0.24
# by a discriminator after 350 steps, a third of it before. So each term is about half of LPIPS.
STRUCTURE, MATCHING = 0.5, 0.1


class Perceptual(NamedTuple):
  """How different images look: near 0.05 where a good codec spends 0.3 bpp."""

  about: str  # For people: what is measured.
  # f32[B] of the weights, images, coded images, and what the discriminator makes of both.
  distance: Callable[[Any, Array, Array, Features, Features], Array]
  weights: Any = ()  # Arrays that do not learn.


class Weighted:
  """A loss with arrays that do not learn: a compiled step takes them as an argument.

  Closed over, they would be constants of the program: compiled into it, and held once more.
  It is called as any `LossFn`.
  """

  def __init__(self, of: Callable[..., tuple[Array, tuple[State, Metrics]]], weights: Any) -> None:
    """Binds `of`, which takes the weights before the arguments of a `LossFn`, to weights."""
    self.of, self.weights = of, weights

  def __call__(
    self, params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    """Returns the loss with the weights that it is bound to."""
    return self.of(self.weights, params, state, x, keys, step)


class _Draw(NamedTuple):
  """What the keys of examples decide."""

  level: Array  # i32[B].
  lmbda: Array  # f32[B].
  weight: Array  # f32[B], of the examples in the loss.
  noise: Key  # Key[B].


class _Seen(NamedTuple):
  """What a discriminator makes of images."""

  logits: Array  # f32[B, h, w], high where they look real.
  features: tuple[Array, ...]  # f32[B, h, w, C] of each of its convolutions of the image.


def rate_distortion(
  apply: Apply,
  *,
  level: int | Sequence[int] | None = None,
  distortion: losses.Distortion = losses.squared_error,
  compute_dtype: Any = jnp.float32,
) -> LossFn:
  """bpp + lambda * distortion.

  Args:
    apply: of a codec.
    level: every example is coded at this level byte, or each at its own, drawn evenly from
      several, from all where None.
    distortion: on the 0..255 scale.
    compute_dtype: of the codec's activations.
  """

  def loss(
    params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    del step
    drawn = _draw(keys, level)
    coded = apply(params, x.astype(compute_dtype), drawn.level, drawn.noise)
    distance = distortion(x, coded.x_hat)
    total, metrics = losses.rate_distortion(
      x, coded, drawn.lmbda, distortion=distance, weight=drawn.weight
    )
    return total, (state, metrics)

  return loss


def adversarial(
  apply: Apply,
  discriminator: nn.Module,
  *,
  perceptual: Perceptual,
  level: int | None = None,
  weight: float = ADVERSARIAL_WEIGHT,
  ramp: int = 0,
  compute_dtype: Any = jnp.float32,
) -> Weighted:
  """0.0023 * (MSE + 427 * perceptual + 64 * adversarial), and the discriminator's loss.

  The encoder is frozen, so the rate is a constant: bpp / lambda stands in the loss beside the MSE
  without a gradient, and the three other terms weigh the same at every lambda, as HiFiC's do.
  Both are minimised at once (HiFiC alternates), by `two_stage_optimizer`: no gradient of
  either reaches the parameters of the other. params is {'codec': ..., 'discriminator':
  ...}, state the spectral vectors of the discriminator, {'batch_stats': ...}.

  Metrics besides those of `rate_distortion`: 'perceptual', and three cross-entropies, which
  are ln 2 where the discriminator cannot tell: its own on real and on coded images, 'd_real'
  and 'd_fake', and that of the generator, 'g_adv'.

  Args:
    apply: of a codec whose sides of x divide by 16.
    discriminator: called with images and latents, as `methods.gan.networks.Discriminator`.
    perceptual: from `perceptual_of`.
    level: as in `rate_distortion`.
    weight: of the adversarial term, relative to MSE.
    ramp: steps in which that weight rises from 0: time for a fresh
      discriminator to learn. HiFiC has none.
    compute_dtype: of the codec's activations; the discriminator works in float32.
  """

  def loss(
    weights: Any, params: Params, state: State, x: Array, keys: Key, step: Array
  ) -> tuple[Array, tuple[State, Metrics]]:
    drawn = _draw(keys, level)
    coded = apply(_frozen(params['codec']), x.astype(compute_dtype), drawn.level, drawn.noise)
    real, fake, new_state = _judge(discriminator, params['discriminator'], state, x, coded)
    fixed = lax.stop_gradient(params['discriminator'])
    shown, _ = _look(discriminator, fixed, state, coded.x_hat, coded.y_hat)
    terms = {
      'perceptual': perceptual.distance(weights, x, coded.x_hat, real.features, shown.features),
      'g_adv': losses.called_real(shown.logits),
      'd_real': losses.called_real(real.logits),
      'd_fake': losses.called_coded(fake.logits),
    }
    beta = weight * (jnp.clip(step / ramp, 0, 1) if ramp else 1.0)
    distance = losses.squared_error(x, coded.x_hat)
    distance += PERCEPTUAL_WEIGHT * terms['perceptual'] + beta * terms['g_adv']
    total, metrics = losses.rate_distortion(
      x, coded, drawn.lmbda, distortion=distance, weight=MSE_WEIGHT / drawn.lmbda
    )
    metrics |= {name: term.mean() for name, term in terms.items()}
    total += metrics['d_real'] + metrics['d_fake']
    return total, (new_state, {**metrics, 'loss': total})

  return Weighted(loss, perceptual.weights)


def perceptual_of(path: Path | str | None) -> Perceptual:
  """LPIPS with the weights at `path` (see `lpips.find`), or a stand-in that needs none."""
  if path is None:
    about = f'no LPIPS: {STRUCTURE} * (1 - MS-SSIM) + {MATCHING} * feature matching instead of it'
    return Perceptual(about, _stand_in)

  def distance(weights: Any, x: Array, x_hat: Array, real: Features, coded: Features) -> Array:
    del real, coded
    return lpips.distance(weights, x, x_hat)

  weights = lpips.find(path)
  return Perceptual(f'{lpips.about(weights)} of {path}', distance, weights)


def init_discriminator(
  discriminator: nn.Module, key: Key, image_shape: Sequence[int], latent_shape: Sequence[int]
) -> tuple[Params, State]:
  """Fresh parameters and spectral vectors, for images and latents of shapes [..., H, W, C]."""
  image, latents = (jnp.zeros((1, *shape[-3:])) for shape in (image_shape, latent_shape))
  variables = discriminator.init(key, image, latents)
  return variables['params'], {'batch_stats': variables['batch_stats']}


def two_stage_optimizer(
  generator_tx: optax.GradientTransformation,
  discriminator_tx: optax.GradientTransformation,
  params: Params,
  *,
  clip: float = 1.0,
) -> optax.GradientTransformation:
  """The optimizer of `adversarial`: the codec's synthesis and the discriminator learn.

  The rest of the codec stays bit for bit as it is: latents and rates are those of the first
  stage. It has no optimizer state.

  Args:
    generator_tx, discriminator_tx: each sees the gradients of its group only.
    params: {'codec': ..., 'discriminator': ...}; only their structure counts.
    clip: largest norm of the gradients of each group.
  """
  clipped = optax.clip_by_global_norm(clip)
  groups = {
    'generator': optax.chain(clipped, generator_tx),
    'discriminator': optax.chain(clipped, discriminator_tx),
    'frozen': optax.set_to_zero(),
  }
  return optax.partition(groups, groups_of(params))


def groups_of(params: Params) -> Params:
  """The group of each parameter: 'generator', 'discriminator' or 'frozen'."""

  def labelled(tree: Params, group: str) -> Params:
    return jax.tree.map(lambda _: group, tree)

  codec = {
    name: labelled(part, 'generator' if name == 'synthesis' else 'frozen')
    for name, part in params['codec'].items()
  }
  return {'codec': codec, 'discriminator': labelled(params['discriminator'], 'discriminator')}


def _frozen(codec: Params) -> Params:
  """Without gradients but for the synthesis: what does not learn need not be differentiated."""
  return {
    name: part if name == 'synthesis' else lax.stop_gradient(part) for name, part in codec.items()
  }


def _draw(keys: Key, level: int | Sequence[int] | None) -> _Draw:
  """Of each example by its own key, wherever in a batch it is."""
  key_level, key_noise = jax.vmap(jax.random.split, out_axes=1)(keys)
  if isinstance(level, int):
    levels = jnp.full(len(keys), level, jnp.int32)
    lmbda = lambda_of(levels)
    return _Draw(levels, lmbda, jnp.ones_like(lmbda), key_noise)
  among = jnp.arange(LEVELS) if level is None else jnp.asarray(level, jnp.int32)
  levels = among[jax.vmap(lambda key: jax.random.randint(key, (), 0, len(among)))(key_level)]
  lmbda = lambda_of(levels)
  return _Draw(levels, lmbda, losses.weight_of(lmbda), key_noise)


def _judge(
  discriminator: nn.Module, params: Params, state: State, x: Array, coded: Coded
) -> tuple[_Seen, _Seen, State]:
  """What a discriminator makes of real and coded images: no gradient reaches the codec.

  One batch of both, each image with its own latents.
  """
  x_hat, y_hat = lax.stop_gradient((coded.x_hat, coded.y_hat))
  images, latents = jnp.concatenate([x, x_hat]), jnp.concatenate([y_hat, y_hat])
  both, state = _look(discriminator, params, state, images, latents)
  real = jax.tree.map(lambda value: value[: len(x)], both)
  fake = jax.tree.map(lambda value: value[len(x) :], both)
  return real, fake, state


def _look(
  discriminator: nn.Module, params: Params, state: State, x: Array, y_hat: Array
) -> tuple[_Seen, State]:
  """One step of the spectral vectors as well, a function of the parameters and the state."""
  logits, found = discriminator.apply(
    {'params': params, **state},
    x,
    y_hat,
    update=True,
    mutable=['batch_stats', 'intermediates'],
    capture_intermediates=_sees_image,
  )
  layers = found['intermediates']
  features = tuple(layers[name]['__call__'][0] for name in sorted(layers) if name != '__call__')
  return _Seen(logits, features), {'batch_stats': lax.stop_gradient(found['batch_stats'])}


def _sees_image(module: nn.Module, method: str) -> bool:
  """Whether it is a hidden layer that sees the image, with its spectral norm."""
  hidden = (module.name or '').startswith('conv')
  return isinstance(module, nn.SpectralNorm) and hidden and method == '__call__'


def _stand_in(weights: Any, x: Array, x_hat: Array, real: Features, coded: Features) -> Array:
  del weights
  structure = 1 - losses.ms_ssim(x, x_hat)
  return STRUCTURE * structure + MATCHING * losses.feature_matching(real, coded)
