"""HiFiC: a conditional GAN over a mean-scale hyperprior (Mentzer et al. 2020).

The way of an image: `networks` analyses and synthesises it in floats, `coding`
writes and reads its latents in integers.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compress_jax.codec import LAMBDA_RANGE as LAMBDA_RANGE
from compress_jax.codec import Codec, Image, Latents, Params
from compress_jax.exact import floats, rates
from compress_jax.exact import hyper as hyper_latents
from compress_jax.layers import linear as linear_path
from compress_jax.learned import scheme
from compress_jax.learned.released import Released, release
from compress_jax.methods.gan import coding, networks, relaxed
from compress_jax.methods.gan import export as export_layers

METHOD_ID = 1
PRESETS: dict[str, dict[str, Any]] = {
  'tiny': {
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
  'small': {
    'base': 16,
    'blocks': 3,
    'latents': 192,
    'hyper': 96,
    'linear': True,
    'restoration': 64,
    'centred': True,
    'magnitudes': True,
    'rdoq': 0.05,
  },
  'base': {'base': 32, 'blocks': 5, 'latents': 192, 'hyper': 192},
  'paper': {'base': 60, 'blocks': 9, 'latents': 220, 'hyper': 320},
}
_CELL, _HYPER_CELL = networks.CELL, coding.HYPER_CELL
# Cells that an output may depend on: sums of kernel radii, rounded up.
_ANALYSIS_HALO, _HYPER_HALO = 3, 2
_LARGEST = 96  # Cells of a tile's side.


def coding_of(options: Mapping[str, Any]) -> Any:
  """The module that writes the files of a model with these options, with `Coding` and `check`."""
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
  refine: int = 0,
  rdoq: float = 0.0,
) -> Codec:
  """Mentzer et al. (2020).

  Args:
    lmbda: minimise bits per pixel + lmbda * MSE on the 0..255 scale.
    base: channels at full resolution; they double with every halving of the grid.
    blocks: residual blocks of the generator.
    latents: channels of the latents.
    hyper: channels of the hyper-latents.
    levels: rates whose gains are learned; 1 makes a model of one rate.
    linear: with a linear path beside the transforms that starts as a cosine
      transform, which spares hours of training; not in the paper.
    restoration: channels of a network that sees the picture of the linear path and corrects it,
      0 for none; not in the paper.
    centred: the analysis network beside the linear path sees the image less its local mean; not
      in the paper.
    magnitudes: the network of the hyper-latents sees the latents' magnitudes beside them; not
      in the paper.
    refine: passes over the latents of each image that look for cheaper ones; 0 for none.
    rdoq: what a bit is worth, in squared steps, where latents round to what is cheaper in rate
      and distortion; 0 rounds to what is nearer.

  Raises:
    CodecError: an option needs the linear path, which is off.
  """
  linear_path.check(linear, restoration=restoration, centred=centred)
  model = networks.Model(
    base, blocks, latents, hyper, levels, linear, restoration, centred, magnitudes
  )
  return scheme.codec(_scheme(model), model, lmbda, refine, rdoq=rdoq)


@functools.cache  # One compiled program per model, however many codecs are made of it.
def _scheme(model: networks.Model) -> scheme.Scheme:
  run = scheme.runner(_LARGEST)
  nets = networks.transforms(model)
  analysis = scheme.transform(nets, 'analysis', (_CELL, 1), _ANALYSIS_HALO + model.centred)
  hyper_analysis = scheme.transform(nets, 'hyper_analysis', (_HYPER_CELL, 1), _HYPER_HALO)
  halo = 2 * model.blocks + 4 + (model.restoration > 0)
  synthesis = scheme.transform(nets, 'synthesis', (1, _CELL), halo)

  def analyse(encoder: Params, images: Sequence[Image]) -> list[tuple[np.ndarray, np.ndarray]]:
    ys = run(analysis, encoder, images)
    return list(zip(ys, run(hyper_analysis, encoder, ys), strict=True))

  def quantise(released: Released, images: Sequence[Image], level: int) -> list[Latents]:
    return [_quantise(released.coding, y, z, level) for y, z in analyse(released.encoder, images)]

  def synthesise(released: Released, y_hats: Sequence[np.ndarray]) -> list[np.ndarray]:
    return run(synthesis, released.decoder, y_hats)

  def export(params: Params, images: list[Image]) -> Released:
    encoder = {name: params[name] for name in ('analysis', 'hyper_analysis')}
    made = coding.make(
      export_layers.float_layers(params['hyper_mean']),
      export_layers.float_layers(params['hyper_scale']),
      floats.rates_of(params['log_gains']),
      floats.prior_of(networks.prior(model), params['prior']),
      [z for _, z in analyse(encoder, images)],
    )
    return release(encoder, {'synthesis': params['synthesis']}, made)

  def thaw(released: Released) -> Params:
    mean, scale = coding.thawed(released.coding)
    return {
      **released.encoder,
      **released.decoder,
      'hyper_mean': export_layers.hyper_params(mean),
      'hyper_scale': export_layers.hyper_params(scale),
      'prior': floats.fitted_prior(networks.prior(model), released.coding.prior),
      'log_gains': floats.log_gains_of(released.coding.rates, model.levels),
    }

  def symbols(height: int, width: int) -> int:
    rows, columns = hyper_latents.grid(height, width, _HYPER_CELL)
    return model.latents * height * width + model.hyper * rows * columns

  return scheme.Scheme(
    name='gan',
    method_id=METHOD_ID,
    cell=_CELL,
    symbols=symbols,
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


def _quantise(own: coding.Coding, y: np.ndarray, z: np.ndarray, level: int) -> Latents:
  symbols = hyper_latents.quantise(z, own.prior)
  mean = coding.predict(own, symbols, y.shape[:2], level).mean
  return Latents(rates.quantise(y, own.rates, level, mean), symbols, mean, y)
