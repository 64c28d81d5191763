"""Rate and distortion of decoded images: bpp, PSNR, MS-SSIM, SSIMULACRA2, BD-rate.

Images are u8[H, W, 3], or floats in [0, 1]; distortions are on the 0..255 scale over all channels.
"""

import functools
import importlib
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # scipy.interpolate is loaded on first use: it takes half a second.

from compress_jax.codec import Array, CodecError, Image

# Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality
# assessment", 2003: section 3.2 (exponents), Wang et al. 2004 section III-C (other constants).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
TAPS, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
MIN_POINTS, MIN_OVERLAP = 4, 1.0  # Smallest number of points and overlap in dB for a BD-rate.
MIN_SSIMULACRA2 = 225  # Smallest side in pixels: the last of six scales has 8.
INTERPOLATORS = {'pchip': 'PchipInterpolator', 'akima': 'Akima1DInterpolator'}


class BDRate(NamedTuple):
  """A Bjontegaard delta rate and the interval over which it was computed."""

  percent: float  # Negative: curve b needs fewer bits than curve a.
  low: float  # dB.
  high: float  # dB.
  points: int  # Number of points of the sparser curve inside the interval.


def bpp(nbytes: int, height: int, width: int) -> float:
  """Returns the bits per pixel of a complete file, its header included.

  Raises:
    CodecError: the number of bytes is negative, or a side is less than a pixel.
  """
  if not (nbytes >= 0 and height >= 1 and width >= 1):
    raise CodecError(f'there is no rate of {nbytes} bytes for {width}x{height} pixels')
  return 8 * nbytes / (height * width)


def mse(a: Image, b: Image) -> float:
  """Returns the mean squared error over pixels and channels, on the 0..255 scale.

  Args:
    a, b: u8[H, W, C], or floats in [0, 1], of one shape; grey ones may be [H, W].

  Raises:
    CodecError: the images differ in size, or are none of those.
  """
  a, b = _comparable(a, b)
  return float(np.mean(np.square(a - b)))


def psnr(a: Image, b: Image) -> float:
  """Returns the peak signal-to-noise ratio in dB, from the MSE over RGB; inf for equal images.

  Args and errors are those of `mse`.
  """
  error = mse(a, b)
  return 10 * math.log10(255**2 / error) if error else math.inf


def ms_ssim(a: Image, b: Image) -> float:
  """Returns the multi-scale structural similarity in [0, 1], the mean over the RGB channels.

  Five scales of 11 taps need both sides to be above 160 pixels. With fewer scales the
  number would not be comparable, so smaller images give NaN. Args are those of `mse`.

  Raises:
    CodecError: the images differ in size, or are none of those.
  """
  a, b = _comparable(a, b)
  if min(a.shape[:2]) <= (TAPS - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1):
    return math.nan
  return float(_ms_ssim(a, b))


def ssimulacra2(a: Image, b: Image) -> float:
  """Returns the SSIMULACRA2 of a decoded image, at most 100, by the package of that name.

  90 is visually lossless, 70 high, 50 medium and 30 low quality; it may be negative (J. Sneyers,
  cloudinary/ssimulacra2). Its weights belong to six scales. With fewer the number would not be
  comparable, so images with a side below 225 pixels give NaN.

  Args:
    a: u8[H, W, 3], the original: the metric is not symmetric.
    b: u8[H, W, 3], of the same size.

  Raises:
    CodecError: the images differ in size or are no such images, or the package is not installed.
  """
  if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8 or a.ndim != 3:
    raise CodecError(f'SSIMULACRA2 compares two u8[H, W, 3], not {a.shape} and {b.shape}')
  if min(a.shape[:2]) < MIN_SSIMULACRA2:
    return math.nan
  try:
    package = importlib.import_module('ssimulacra2')
  except ImportError as error:
    raise CodecError('SSIMULACRA2 needs its package: pip install ssimulacra2') from error
  return float(package.compute_ssimulacra2(*map(_as_file, (a, b))))


def _as_file(image: Image) -> io.BytesIO:
  """Returns an image as an open file without compression: the package accepts only files."""
  height, width = image.shape[:2]
  return io.BytesIO(b'P6 %d %d 255\n' % (width, height) + image.tobytes())


def _comparable(a: Image, b: Image) -> tuple[np.ndarray, np.ndarray]:
  """Returns two images [H, W, C] of one shape on the 0..255 scale, i32 where both are u8, else f64.

  Raises:
    CodecError: the shapes differ, or one is no image.
  """
  x, y = np.asarray(a), np.asarray(b)
  if x.shape != y.shape:
    raise CodecError(f'cannot compare images of {x.shape} and {y.shape}')
  if x.dtype == y.dtype == np.uint8:
    return _shaped(x).astype(np.int32), _shaped(y).astype(np.int32)
  return _scaled(x), _scaled(y)


def _shaped(x: np.ndarray) -> np.ndarray:
  """Returns one image as [H, W, C]."""
  shaped = x[..., None] if x.ndim == 2 else x
  if shaped.ndim != 3 or shaped.shape[2] not in (1, 3) or 0 in shaped.shape:
    raise CodecError(f'an image has the shape [H, W, 3], [H, W, 1] or [H, W], not {x.shape}')
  return shaped


def _scaled(x: np.ndarray) -> np.ndarray:
  """Returns f64[H, W, C] on the 0..255 scale, of an image of bytes or of floats in [0, 1]."""
  if x.dtype == np.uint8:
    return _shaped(x).astype(np.float64)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise CodecError(f'an image holds bytes (uint8) or floats in [0, 1], not {x.dtype}')
  wide = _shaped(x).astype(np.float64)
  if not (wide.min() >= 0 and wide.max() <= 1):  # False for NaN too.
    limits = f'{wide.min():g} to {wide.max():g}'
    raise CodecError(f'an image of floats has values in [0, 1], not {limits}; clip or scale it')
  return 255 * wide


@jax.jit
def _ms_ssim(a: Array, b: Array) -> Array:
  """Returns the MS-SSIM of [H, W, C] on 0..255: products over scales, averaged over channels."""
  a, b = (jnp.moveaxis(x, -1, 0).astype(jnp.float32) for x in (a, b))
  score = jnp.ones(a.shape[0])
  terms = scale_terms(a, b, len(MS_SSIM_WEIGHTS))
  for term, weight in zip(terms, MS_SSIM_WEIGHTS, strict=True):
    score *= jnp.maximum(term, 0.0) ** weight
  return jnp.mean(score)


def scale_terms(a: Array, b: Array, scales: int) -> list[Array]:
  """Returns the factors of MS-SSIM, finest scale first.

  They are the mean contrast-structure term of each scale, with luminance at the last.

  Args:
    a, b: f32[..., H, W] on the 0..255 scale, both sides above 10 * 2^(scales - 1).
    scales: number of scales, each half the size of the one before.

  Returns:
    f32[...] for each scale, in [-1, 1].
  """
  terms = []
  for scale in range(scales):
    if scale:
      a, b = _halve(a), _halve(b)
    luminance, contrast = _ssim_terms(a, b)
    terms.append(jnp.mean(luminance * contrast if scale == scales - 1 else contrast, (-2, -1)))
  return terms


def _ssim_terms(a: Array, b: Array) -> tuple[Array, Array]:
  """Returns luminance and contrast-structure maps f32[..., H-10, W-10] of f32[..., H, W]."""
  moments = _blur(jnp.stack([a, b, a * a, b * b, a * b]))
  mean_a, mean_b, aa, bb, ab = moments
  c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
  luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
  contrast = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
  return luminance, contrast


def _blur(x: Array) -> Array:
  """Returns the Gaussian average over the two last axes, at valid positions only."""
  taps = np.exp(-((np.arange(TAPS) - TAPS // 2) ** 2) / (2 * SIGMA**2))
  taps = (taps / taps.sum()).astype(np.float32)
  for axis in (-2, -1):
    size = x.shape[axis] - TAPS + 1
    x = sum(t * jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i, t in enumerate(taps))
  return x


def _halve(x: Array) -> Array:
  """Returns 2x2 means of f32[..., H, W]; an odd side gets a zero in front, as in pytorch-msssim."""
  *lead, h, w = x.shape
  x = jnp.pad(x, [(0, 0)] * len(lead) + [(h % 2, 0), (w % 2, 0)])
  return jnp.mean(x.reshape(*lead, (h + 1) // 2, 2, (w + 1) // 2, 2), (-3, -1))


def bd_rate(
  rate_a: Sequence[float],
  psnr_a: Sequence[float],
  rate_b: Sequence[float],
  psnr_b: Sequence[float],
  *,
  interval: tuple[float, float] | None = None,
  method: str = 'pchip',
  overlap: float = MIN_OVERLAP,
) -> BDRate | None:
  """Returns by how many per cent curve b needs more bits than curve a at equal PSNR.

  Any other quality measure may replace PSNR if better images have higher values.

  The result is the mean difference of log-rate as a function of PSNR (Bjontegaard, VCEG-M33), with
  piecewise interpolation instead of one cubic. Points that another point of the same curve
  beats in both rate and PSNR are left out, so the curves may be unsorted and may fold back.

  Args:
    rate_a, psnr_a: the anchor; bits per pixel (or bytes) and dB.
    rate_b, psnr_b: the codec that is compared with it.
    interval: dB, clipped to the range of both curves; None is that range.
    method: 'pchip' or 'akima'.
    overlap: the smallest common range of the curves, in dB.

  Returns:
    None for "no overlap": under 4 points in a curve or a common range under `overlap`.

  Raises:
    CodecError: a curve holds something else than rates and PSNRs, or the method is unknown.
  """
  if method not in INTERPOLATORS:
    raise CodecError(f'method must be one of {sorted(INTERPOLATORS)}, got {method!r}')
  if interval is not None and not interval[0] < interval[1]:
    raise CodecError(f'an interval goes from a lower to a higher PSNR, not {interval}')
  curves = ((tuple(rate_a), tuple(psnr_a)), (tuple(rate_b), tuple(psnr_b)))
  curve_a, curve_b = (_front(*curve) for curve in curves)
  if min(len(curve_a), len(curve_b)) < MIN_POINTS:
    return None
  given_low, given_high = interval or (-math.inf, math.inf)
  low = max(given_low, curve_a[0, 0], curve_b[0, 0])
  high = min(given_high, curve_a[-1, 0], curve_b[-1, 0])
  if high - low < overlap:
    return None
  area_a, area_b = (_fit(*curve, method).integrate(low, high) for curve in curves)
  points = min(int(np.sum((c[:, 0] >= low) & (c[:, 0] <= high))) for c in (curve_a, curve_b))
  percent = 100 * math.expm1((area_b - area_a) / (high - low))
  return BDRate(percent, float(low), float(high), points)


# Tables compare every curve with many others, so both of these are kept for each curve.
@functools.lru_cache(4096)
def _fit(rate: tuple[float, ...], psnr: tuple[float, ...], method: str) -> Any:
  """Returns the interpolation of ln rate over PSNR through the undominated points of a curve."""
  return getattr(scipy.interpolate, INTERPOLATORS[method])(*_front(rate, psnr).T)


@functools.lru_cache(4096)
def _front(rate: tuple[float, ...], psnr: tuple[float, ...]) -> np.ndarray:
  """Returns (PSNR, ln rate) f64[N, 2] of the undominated points, increasing in both columns."""
  if len(rate) != len(psnr):
    raise CodecError(f'a curve has as many rates as PSNRs, not {len(rate)} and {len(psnr)}')
  if not all(0 <= r < math.inf for r in rate) or any(math.isnan(p) for p in psnr):
    raise CodecError('a curve has finite rates that are not negative, and PSNRs that are numbers')
  kept: list[tuple[float, float]] = []
  for r, p in sorted(zip(rate, psnr, strict=True), key=lambda point: (point[0], -point[1])):
    if math.isfinite(p) and r > 0 and (not kept or p > kept[-1][0]):
      kept.append((p, math.log(r)))
  return np.asarray(kept).reshape(-1, 2)
