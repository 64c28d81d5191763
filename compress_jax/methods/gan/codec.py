"""HiFiC: a conditional GAN over a mean-scale hyperprior (Mentzer et al. 2020).

`networks` analyses and synthesises images in floats; `coding` writes and reads latents in integers.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compress_jax.codec import LAMBDA_RANGE, Codec, Latents, Method, Params, Preset
from compress_jax.exact import floats, hyper, rates
from compress_jax.layers import linear as linear_path
from compress_jax.learned import codec as learned
from compress_jax.learned import scheme
from compress_jax.methods import METHODS
from compress_jax.methods.gan import coding, export, networks

NUMBER = METHODS['gan'].number
PRESETS = {
  'tiny': Preset(
    {
      'base': 12,
      'blocks': 2,
      'latents': 192,
      'hyper': 64,
      'linear': True,
      'restoration': 64,
      'centred': True,
      'magnitudes': True,
      'rdoq': 0.05,
    },
    *(10_000, 8, 128, 5e-4),
  ),
  'small': Preset(
    {
      'base': 16,
      'blocks': 3,
      'latents': 192,
      'hyper': 96,
      'linear': True,
      'restoration': 64,
      'deblocking': True,
      'centred': True,
      'magnitudes': True,
      'rdoq': 0.05,
    },
    *(100_000, 8, 192, 3e-4),
  ),
  'base': Preset(
    {
      'base': 32,
      'blocks': 5,
      'latents': 192,
      'hyper': 192,
    },
    *(500_000, 8, 256, 1e-4),
  ),
  'paper': Preset(
    {
      'base': 60,
      'blocks': 9,
      'latents': 220,
      'hyper': 320,
    },
    *(1_000_000, 8, 256, 1e-4),  # Mentzer et al. (2020), for each of two stages.
  ),
}
# Cells on each side on which an output depends: sums of kernel radii, rounded up.
_ANALYSIS_HALO, _HYPER_HALO = 3, 2
_LARGEST = 96  # The largest side of a tile, in cells.


def coding_of(options: Mapping[str, Any]) -> Any:
  """Returns the module that codes files of models with these options; it has `Coding`, `check`."""
  del options
  return coding


def codec(
  *,
  lmbda: float = 0.013,
  base: int = 60,
  blocks: int = 9,
  latents: int = 220,
  hyper: int = 320,
  levels: int = 6,
  linear: bool = False,
  restoration: int = 0,
  centred: bool = False,
  magnitudes: bool = False,
  deblocking: bool = False,
  refine: int = 0,
  rdoq: float = 0.0,
) -> Codec:
  """Returns HiFiC, the codec of Mentzer et al. (2020).

  Args:
    lmbda: minimise bits per pixel + lmbda * MSE on the 0..255 scale.
    base: channels at full resolution; they double with every halving of the grid.
    blocks: residual blocks of the generator.
    latents: channels of the latents.
    hyper: channels of the hyper-latents.
    levels: rates whose gains are learned; 1 makes a model of one rate.
    linear: with a linear path beside the transforms that starts as a cosine
      transform, which spares hours of training; not in the paper.
    restoration: channels of a network that corrects the image of the linear path, 0 for none; not
      in the paper.
    centred: whether the analysis network beside the linear path sees the image less its local mean;
      not in the paper.
    magnitudes: whether the network of the hyper-latents also sees the latents' magnitudes; not in
      the paper.
    deblocking: whether a filter smooths flat blocks of the linear path's image; not in the paper.
    refine: the number of passes that search cheaper latents of each image; 0 for none.
    rdoq: the worth of a bit in squared steps, for rounding by rate and distortion; 0 rounds to the
      nearest integer.

  Raises:
    CodecError: an option needs the linear path, which is off.
  """
  linear_path.check(linear, restoration=restoration, centred=centred, deblocking=deblocking)
  model = networks.Model(
    base, blocks, latents, hyper, levels, linear, restoration, centred, magnitudes, deblocking
  )
  return learned.codec(_scheme(model), lmbda, refine, rdoq=rdoq)


@functools.cache  # One compiled program per model, however many codecs are made of it.
def _scheme(model: networks.Model) -> scheme.Scheme:
  cell, hyper_cell, prior = networks.CELL, networks.HYPER_CELL, networks.prior(model)
  nets = networks.transforms(model)
  halo = 2 * model.blocks + 4 + (model.restoration > 0) + model.deblocking

  def make(params: Params, examples: Sequence[tuple[np.ndarray, np.ndarray]]) -> coding.Coding:
    return coding.make(
      export.float_layers(params['hyper_mean']),
      export.float_layers(params['hyper_scale']),
      floats.rates_of(params['log_gains']),
      floats.prior_of(prior, params['prior']),
      [z for _, z in examples],
    )

  return scheme.Scheme(
    name='gan',
    number=NUMBER,
    model=model,
    analysis=scheme.transform(nets, 'analysis', (cell, 1), _ANALYSIS_HALO + model.centred),
    synthesis=scheme.transform(nets, 'synthesis', (1, cell), halo),
    whole=scheme.whole(nets),
    rate=scheme.rate(model),
    largest=_LARGEST,
    depth=model.latents,
    quantise=_quantise,
    decide=coding.decide,
    write=coding.write,
    read=coding.read,
    make=make,
    unmake=_unmake,
    hyper_analysis=scheme.transform(nets, 'hyper_analysis', (hyper_cell, 1), _HYPER_HALO),
    hyper_cell=hyper_cell,
    hyper_depth=model.hyper,
    fit_prior=lambda integers: floats.fitted_prior(prior, integers.prior),
  )


def _quantise(integers: coding.Coding, y: np.ndarray, z: np.ndarray, level: int) -> Latents:
  symbols = hyper.quantise(z, integers.prior)
  mean = coding.means(integers, symbols, y.shape[:2], level)
  return Latents(rates.quantise(y, integers.rates, level, mean), symbols, mean)


def _unmake(integers: coding.Coding) -> Params:
  mean, scale = coding.thawed(integers)
  return {'hyper_mean': export.hyper_params(mean), 'hyper_scale': export.hyper_params(scale)}


METHOD = Method(codec, LAMBDA_RANGE, PRESETS, coding_of)
