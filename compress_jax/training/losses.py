"""What training minimises, of a batch that was coded: f32[B] of f32[B, H, W, 3] in [0, 1].

Distortions are counted on the 0..255 scale of squared errors, so that one lambda asks for
about the same rate of each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from compress_jax.codec import LAMBDA_RANGE, CodecError, Coded
from compress_jax.evaluation import metrics
from compress_jax.layers.blocks import lower_bound

Array = jax.Array
Distortion = Callable[[Array, Array], Array]

PEAK = 255.0  # Squared errors are counted on the 0..255 scale.
# Where CompressAI trains for MSE at lambda 0.013, it trains for MS-SSIM at 16.64 (its page
# of the model zoo); over its eight qualities the ratio goes from 1333 to 1222.
MS_SSIM_SCALE = 1280.0
# MS-SSIM is a product of powers below 1, whose slopes are infinite at 0.
_MIN_SIMILARITY = 0.01
_TINY = 1e-6


def squared_error(x: Array, x_hat: Array) -> Array:
  """The MSE of each example on the 0..255 scale."""
  return PEAK**2 * jnp.mean((x_hat - x) ** 2, (1, 2, 3))


def ms_ssim(x: Array, x_hat: Array) -> Array:
  """MS-SSIM of each example, with a gradient everywhere.

  `metrics.ms_ssim`, but smaller images have as many scales as fit, of the same weights
  divided by their sum: 5 from a side of 161 pixels on, 4 from 81, 3 from 41, 2 from 21, 1 from
  11. Images so different that the mean term of a scale is below 0.01 count as if it were that.

  Raises:
    CodecError: a side is below 11 pixels.
  """
  side = min(x.shape[1:3])
  if side < metrics.TAPS:
    raise CodecError(f'MS-SSIM needs sides of {metrics.TAPS} pixels, not {side}')
  smallest = [(metrics.TAPS - 1) * 2**n for n in range(len(metrics.MS_SSIM_WEIGHTS))]
  weights = metrics.MS_SSIM_WEIGHTS[: sum(side > limit for limit in smallest)]
  a, b = (jnp.moveaxis(image, -1, 1) * PEAK for image in (x, x_hat))
  score = jnp.ones(())
  for term, weight in zip(metrics.scale_terms(a, b, len(weights)), weights, strict=True):
    score *= lower_bound(term, _MIN_SIMILARITY) ** (weight / sum(weights))
  return jnp.mean(score, 1)


def ms_ssim_distortion(x: Array, x_hat: Array) -> Array:
  """1280 * (1 - MS-SSIM) of each example: at one lambda about as many bits as for MSE."""
  return MS_SSIM_SCALE * (1 - ms_ssim(x, x_hat))


def feature_matching(real: Sequence[Array], coded: Sequence[Array]) -> Array:
  """How far features of coded images are from those of the real ones, f32[B].

  The mean over layers of the mean absolute difference (Wang et al., "High-resolution image
  synthesis and semantic manipulation with conditional GANs", 2018, eq. 4), relative to the mean
  magnitude of the real features (Défossez et al., "High fidelity neural audio compression",
  2022, eq. 5): how a discriminator scales its features does not matter.

  Args:
    real: f32[B, ...] of each layer; no gradient goes there.
    coded: the same of the coded images.
  """
  total = jnp.zeros(())
  for a, b in zip(map(lax.stop_gradient, real), coded, strict=True):
    axes = tuple(range(1, a.ndim))
    total += jnp.mean(jnp.abs(a - b), axes) / (jnp.mean(jnp.abs(a), axes) + _TINY)
  return total / len(real)


def called_real(logits: Array) -> Array:
  """Cross-entropy f32[B] of logits f32[B, ...] with the answer "real".

  What a generator minimises is this of its own images: the non-saturating loss (Goodfellow et
  al. 2014, section 3).
  """
  return jnp.mean(jax.nn.softplus(-logits), tuple(range(1, logits.ndim)))


def called_coded(logits: Array) -> Array:
  """Cross-entropy f32[B] of logits f32[B, ...] with the answer "coded"."""
  return called_real(-logits)


def weight_of(lmbda: Any) -> Any:
  """The weight of examples of different lambda: lambda^-1/2, 1 in the middle of the range.

  The loss at its optimum grows about like the root of lambda, and the model is to serve
  every rate.
  """
  low, high = LAMBDA_RANGE
  return ((low * high) ** 0.5 / lmbda) ** 0.5


def rate_distortion(
  x: Array,
  coded: Coded,
  lmbda: Array,
  *,
  distortion: Array | None = None,
  weight: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
  """bpp + lambda * distortion, averaged over examples of different lambda.

  Args:
    x: f32[B, H, W, 3] in [0, 1].
    coded: of the same images.
    lmbda: f32[B].
    distortion: f32[B], the squared error where None.
    weight: f32[B] of the examples, `weight_of(lmbda)` where None.

  Returns:
    The loss f32[] and metrics: the loss, bpp, MSE and the rate of each stream.
  """
  pixels = x.shape[1] * x.shape[2]
  mse = squared_error(x, coded.x_hat)
  bpp = jnp.sum(jnp.stack(list(coded.bits.values())), 0) / pixels
  weight = weight_of(lmbda) if weight is None else weight
  loss = jnp.mean(weight * (bpp + lmbda * (mse if distortion is None else distortion)))
  found = {'loss': loss, 'bpp': bpp.mean(), 'mse': mse.mean()}
  found |= {f'bpp_{name}': bits.mean() / pixels for name, bits in coded.bits.items()}
  return loss, found
