"""Compressive autoencoder with a Gaussian scale mixture prior (Theis et al. 2017).

The way of an image: `networks` analyses and synthesises it in floats, `coding`
writes and reads its latents in integers.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from compress_jax.codec import LAMBDA_RANGE as LAMBDA_RANGE
from compress_jax.codec import Array, Codec, CodecError, Coded, Image, Key, Latents, Level, Params
from compress_jax.exact import floats, rates
from compress_jax.learned import scheme, tiles
from compress_jax.learned.released import Released, release
from compress_jax.methods.cae import coding, networks, relaxed

METHOD_ID = 2
PRESETS: dict[str, dict[str, Any]] = {
  'tiny': {'widths': (32, 64, 96), 'linear': True, 'rdoq': 0.05},
  'small': {'widths': (48, 96, 96), 'linear': True, 'rdoq': 0.05},
  'paper': {'widths': (64, 128, 96)},
}
BOUNDS = {'noisy': False, 'rounded': True}
_CELL = networks.CELL
_SYNTHESIS_HALO = 5  # Cells that an output may depend on: kernel radii summed, rounded up.
_LARGEST = 96  # Cells of a tile's side.


def coding_of(options: Mapping[str, Any]) -> Any:
  """The module that writes the files of a model with these options, with `Coding` and `check`."""
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
  """Theis et al. (2017).

  Args:
    lmbda: minimise bits per pixel + lmbda * MSE on the 0..255 scale.
    widths: channels after the first and second convolution, and of the latents.
    components: Gaussians per channel of the prior.
    levels: rates whose gains are learned; 1 makes a model of one rate.
    linear: with a linear path beside the transforms that starts as a cosine
      transform, which spares hours of training; not in the paper.
    bound: of the rate in training: 'noisy' counts the probability at y + u with uniform
      noise u, as the other methods do, 'rounded' the density at round(y) + u, as the paper
      does, whose mean is never below the true rate.
    refine: passes over the latents of each image that look for cheaper ones; 0 for none.
    rdoq: what a bit is worth, in squared steps, where latents round to what is cheaper in rate
      and distortion; 0 rounds to what is nearer.

  Raises:
    CodecError: no such bound.
  """
  if bound not in BOUNDS:
    raise CodecError(f'bound must be one of {", ".join(BOUNDS)}, not {bound!r}')
  first, second, last = widths
  model = networks.Model((first, second, last), components, levels, linear, BOUNDS[bound])
  made = scheme.codec(_scheme(model), model, lmbda, refine, rdoq=rdoq)
  return made._replace(apply=functools.partial(_apply, model))


def _apply(
  model: networks.Model,
  params: Params,
  x: Array,
  level: Level,
  key: Key | None,
  mask: Array | None = None,
  *,
  worth: float | None = None,
) -> Coded:
  """The forward pass, with a mask bool[C] of channels that are sent."""
  if key is not None and key.ndim == 0:
    key = jax.random.split(key, len(x))
  coded: Any = model.apply({'params': params}, x, level, key, mask, worth=worth)
  return coded


@functools.cache  # One compiled program per model, however many codecs are made of it.
def _scheme(model: networks.Model) -> scheme.Scheme:
  run = scheme.runner(_LARGEST)
  nets = networks.transforms(model)
  mirrored = functools.partial(scheme.unframed, nets['analysis'], 'analysis')
  analysis = tiles.Transform(mirrored, _CELL, 1, 0, networks.MARGIN, 'mirror')
  synthesis = scheme.transform(nets, 'synthesis', (1, _CELL), _SYNTHESIS_HALO)

  def quantise(released: Released, images: Sequence[Image], level: int) -> list[Latents]:
    nothing = np.zeros((0, 0, 0), np.int64)
    ys = run(analysis, released.encoder, images)
    return [Latents(rates.quantise(y, released.coding.rates, level), nothing, y=y) for y in ys]

  def synthesise(released: Released, y_hats: Sequence[np.ndarray]) -> list[np.ndarray]:
    return run(synthesis, released.decoder, y_hats)

  def export(params: Params, images: list[Image]) -> Released:
    del images  # Static tables need no calibration.
    prior = params['prior']
    table = floats.rates_of(params['log_gains'])
    made = coding.make(table, np.asarray(prior['logits']), np.asarray(prior['log_scales']))
    return release({'analysis': params['analysis']}, {'synthesis': params['synthesis']}, made)

  def thaw(released: Released) -> Params:
    logits, log_scales = coding.thawed(released.coding)
    return {
      **released.encoder,
      **released.decoder,
      'prior': {'logits': logits, 'log_scales': log_scales},
      'log_gains': floats.log_gains_of(released.coding.rates, model.levels),
    }

  return scheme.Scheme(
    name='cae',
    method_id=METHOD_ID,
    cell=_CELL,
    symbols=lambda height, width: height * width * model.widths[-1],
    quantise=quantise,
    write=coding.write,
    read=coding.read,
    synthesise=synthesise,
    export=export,
    thaw=thaw,
    decide=coding.decide,
    relaxed=relaxed.RELAXED,
    whole=scheme.whole(nets),
  )
