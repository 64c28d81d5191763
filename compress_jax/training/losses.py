"""Loss functions of a batch that was coded: f32[B] of images f32[B, H, W, 3] in [0, 1].

All distortions are on the 0..255 scale of squared errors, so that one lambda leads to
about the same rate with each.
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

_COARSE = 4  # Side in pixels of the cells whose means `coarse_error` compares.
PEAK = 255.0  # Squared errors are counted on the 0..255 scale.
# Where CompressAI trains for MSE at lambda 0.013, it trains for MS-SSIM at 16.64 (its page
# of the model zoo); over its eight qualities the ratio goes from 1333 to 1222.
MS_SSIM_SCALE = 1280.0
# MS-SSIM is a product of powers below 1, whose slopes are infinite at 0.
_MIN_SIMILARITY = 0.01
_TINY = 1e-6


def squared_error(x: Array, x_hat: Array) -> Array:
  """Returns the MSE of each example on the 0..255 scale."""
  return PEAK**2 * jnp.mean((x_hat - x) ** 2, (1, 2, 3))


def coarse_error(x: Array, x_hat: Array) -> Array:
  """Returns the MSE of the means of 4x4 pixels, of each example, on the 0..255 scale.

  Both sides are multiples of 4. It counts errors of low frequencies, such as flat blocks.
  """
  rows, columns = x.shape[1] // _COARSE, x.shape[2] // _COARSE
  cells = (x_hat - x).reshape(-1, rows, _COARSE, columns, _COARSE, x.shape[3])
  return PEAK**2 * jnp.mean(jnp.mean(cells, (2, 4)) ** 2, (1, 2, 3))


def ms_ssim(x: Array, x_hat: Array) -> Array:
  """Returns the MS-SSIM of each example, with a gradient everywhere.

  It equals `metrics.ms_ssim`, except that smaller images have as many scales as fit, with the same
  weights divided by their sum: 5 from a side of 161 pixels on, 4 from 81, 3 from 41, 2 from 21, 1
  from 11. A mean term of a scale below 0.01 counts as 0.01.

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
  """Returns 1280 * (1 - MS-SSIM) of each example: at one lambda about as many bits as for MSE."""
  return MS_SSIM_SCALE * (1 - ms_ssim(x, x_hat))


def feature_matching(real: Sequence[Array], coded: Sequence[Array]) -> Array:
  """Returns f32[B], the distance between features of coded images and of the real ones.

  The mean over layers of the mean absolute difference (Wang et al., "High-resolution image
  synthesis and semantic manipulation with conditional GANs", 2018, eq. 4), relative to the mean
  magnitude of the real features (Défossez et al., "High fidelity neural audio compression",
  2022, eq. 5): it does not depend on the scale of the features.

  Args:
    real: f32[B, ...] for each layer; they get no gradient.
    coded: f32[B, ...] for each layer, of the coded images.
  """
  total = jnp.zeros(())
  for a, b in zip(map(lax.stop_gradient, real), coded, strict=True):
    axes = tuple(range(1, a.ndim))
    total += jnp.mean(jnp.abs(a - b), axes) / (jnp.mean(jnp.abs(a), axes) + _TINY)
  return total / len(real)


def called_real(logits: Array) -> Array:
  """Returns f32[B], the cross-entropy of logits f32[B, ...] with the label "real".

  A generator minimises it for its images: the non-saturating loss (Goodfellow et
  al. 2014, section 3).
  """
  return jnp.mean(jax.nn.softplus(-logits), tuple(range(1, logits.ndim)))


def called_coded(logits: Array) -> Array:
  """Returns f32[B], the cross-entropy of logits f32[B, ...] with the label "coded"."""
  return called_real(-logits)


def weight_of(lmbda: Any) -> Any:
  """Returns the weight of examples of a lambda: lambda^-1/2, 1 in the middle of the range.

  The loss at its optimum grows about like the root of lambda, and the model has to serve
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
  """Returns bpp + lambda * distortion, averaged over examples of different lambda, and metrics.

  Args:
    x: f32[B, H, W, 3] in [0, 1].
    coded: the result of a codec's `apply` for x.
    lmbda: f32[B].
    distortion: f32[B], the squared error where None.
    weight: f32[B], weights of the examples, `weight_of(lmbda)` where None.

  Returns:
    The loss f32[] and metrics: the loss, bpp, MSE and the rate of each stream.
  """
  pixels = x.shape[1] * x.shape[2]
  mse = squared_error(x, coded.x_hat)
  bpp = jnp.sum(jnp.stack(list(coded.bits.values())), 0) / pixels
  weight = weight_of(lmbda) if weight is None else weight
  loss = jnp.mean(weight * (bpp + lmbda * (mse if distortion is None else distortion)))
  figures = {'loss': loss, 'bpp': bpp.mean(), 'mse': mse.mean()}
  figures |= {f'bpp_{name}': bits.mean() / pixels for name, bits in coded.bits.items()}
  return loss, figures
