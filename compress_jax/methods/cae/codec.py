"""Compressive autoencoder with a Gaussian scale mixture prior (Theis et al. 2017).

`networks` analyses and synthesises images in floats; `coding` writes and reads latents in integers.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compress_jax.codec import LAMBDA_RANGE, Codec, CodecError, Latents, Method, Params, Preset
from compress_jax.exact import floats, rates
from compress_jax.learned import codec as learned
from compress_jax.learned import scheme, tiles
from compress_jax.methods import METHODS
from compress_jax.methods.cae import coding, networks

NUMBER = METHODS['cae'].number
PRESETS = {
  'tiny': Preset(
    {
      'widths': (32, 64, 96),
      'linear': True,
      'rdoq': 0.05,
    },
    *(7_000, 4, 128, 1e-3),
  ),
  'small': Preset(
    {
      'widths': (48, 96, 96),
      'linear': True,
      'rdoq': 0.05,
    },
    *(60_000, 8, 128, 5e-4),
  ),
  'paper': Preset(
    {
      'widths': (64, 128, 96),
    },
    *(300_000, 32, 128, 1e-4),  # Theis et al. (2017), section 4: 32 crops of 128.
  ),
}
BOUNDS = {'noisy': False, 'rounded': True}
_SYNTHESIS_HALO = 5  # Cells on each side on which an output depends: the sum of kernel radii.
_LARGEST = 96  # The largest side of a tile, in cells.


def coding_of(options: Mapping[str, Any]) -> Any:
  """Returns the module that codes files of models with these options; it has `Coding`, `check`."""
  del options
  return coding


def codec(
  *,
  lmbda: float = 0.013,
  widths: Sequence[int] = (64, 128, 96),
  components: int = 6,
  levels: int = 6,
  linear: bool = False,
  bound: str = 'noisy',
  refine: int = 0,
  rdoq: float = 0.0,
) -> Codec:
  """Returns the compressive autoencoder of Theis et al. (2017).

  Args:
    lmbda: minimise bits per pixel + lmbda * MSE on the 0..255 scale.
    widths: channels after the first and second convolution, and of the latents.
    components: Gaussians per channel of the prior.
    levels: rates whose gains are learned; 1 makes a model of one rate.
    linear: with a linear path beside the transforms that starts as a cosine
      transform, which spares hours of training; not in the paper.
    bound: the estimate of the rate in training. 'noisy' counts the probability at y + u with
      uniform noise u, as the other methods do. 'rounded' counts the density at round(y) + u, as the
      paper does; its mean is never below the true rate.
    refine: the number of passes that search cheaper latents of each image; 0 for none.
    rdoq: the worth of a bit in squared steps, for rounding by rate and distortion; 0 rounds to the
      nearest integer.

  Raises:
    CodecError: there is no such bound.
  """
  if bound not in BOUNDS:
    raise CodecError(f'bound must be one of {", ".join(BOUNDS)}, not {bound!r}')
  first, second, last = widths
  model = networks.Model((first, second, last), components, levels, linear, BOUNDS[bound])
  return learned.codec(_scheme(model), lmbda, refine, rdoq=rdoq)


@functools.cache  # One compiled program per model, however many codecs are made of it.
def _scheme(model: networks.Model) -> scheme.Scheme:
  nets = networks.transforms(model)
  mirrored = functools.partial(scheme.unframed, nets['analysis'], 'analysis')
  return scheme.Scheme(
    name='cae',
    number=NUMBER,
    model=model,
    analysis=tiles.Transform(mirrored, networks.CELL, 1, 0, networks.MARGIN, 'mirror'),
    synthesis=scheme.transform(nets, 'synthesis', (1, networks.CELL), _SYNTHESIS_HALO),
    whole=scheme.whole(nets),
    rate=scheme.rate(model),
    largest=_LARGEST,
    depth=model.widths[-1],
    quantise=_quantise,
    decide=coding.decide,
    write=coding.write,
    read=coding.read,
    make=_make,
    unmake=_unmake,
  )


def _quantise(integers: coding.Coding, y: np.ndarray, z: np.ndarray, level: int) -> Latents:
  return Latents(rates.quantise(y, integers.rates, level), z.astype(np.int64))


def _make(params: Params, examples: Sequence[Any]) -> coding.Coding:
  del examples  # Static tables need no calibration.
  prior, table = params['prior'], floats.rates_of(params['log_gains'])
  return coding.make(table, np.asarray(prior['logits']), np.asarray(prior['log_scales']))


def _unmake(integers: coding.Coding) -> Params:
  logits, log_scales = coding.thawed(integers)
  return {'prior': {'logits': logits, 'log_scales': log_scales}}


METHOD = Method(codec, LAMBDA_RANGE, PRESETS, coding_of)
