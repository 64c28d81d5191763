"""Attention, hyperprior and context, and a discretised Gaussian mixture (Cheng et al. 2020).

The way of an image: `networks` analyses and synthesises it in floats, `coding`
writes and reads its latents in integers.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compress_jax.codec import LAMBDA_RANGE as LAMBDA_RANGE
from compress_jax.codec import Codec, CodecError, Image, Latents, Params
from compress_jax.exact import floats, rates
from compress_jax.exact import hyper as hyper_latents
from compress_jax.layers import linear as linear_path
from compress_jax.learned import scheme
from compress_jax.learned.relaxed import Relaxed
from compress_jax.learned.released import Released, release
from compress_jax.methods.gmm import (
  channels_coding,
  channels_export,
  channels_relaxed,
  networks,
  serial_export,
  serial_relaxed,
)
from compress_jax.methods.gmm import serial_coding as serial

METHOD_ID = 3
PRESETS: dict[str, dict[str, Any]] = {
  'tiny': {
    'channels': 96,
    'latents': 320,
    'hyper': 64,
    'widths': (160, 160),
    'stem': 4,
    'linear': True,
    'slices': (10, 22, 48, 80, 160),
    'context': 'channels',
    'magnitudes': True,
    'restoration': 64,
    'centred': True,
    'rdoq': 0.07,
  },
  'small': {
    'channels': 128,
    'latents': 192,
    'stem': 4,
    'linear': True,
    'restoration': 64,
    'centred': True,
    'rdoq': 0.1,
  },
  'paper': {'channels': 128},
  'large': {'channels': 192},
}
CONTEXTS = 'serial', 'channels'
_CELL, _HYPER_CELL = networks.CELL, serial.HYPER_CELL
# Cells that an output may depend on: sums of kernel radii, rounded up.
_ANALYSIS_HALO, _HYPER_HALO, _SYNTHESIS_HALO = 8, 2, 11


def coding_of(options: Mapping[str, Any]) -> Any:
  """The module that writes the files of a model with these options, with `Coding` and `check`."""
  return channels_coding if options.get('context') == 'channels' else serial


def codec(
  *,
  lmbda: float = 0.013,
  channels: int = 128,
  mixtures: int = 3,
  attention: bool = True,
  levels: int = 6,
  slope: float = 0.01,
  widths: Sequence[int] | None = None,
  stem: int = 1,
  linear: bool = False,
  latents: int | None = None,
  hyper: int | None = None,
  slices: Sequence[int] | None = None,
  magnitudes: bool = False,
  restoration: int = 0,
  centred: bool = False,
  context: str = 'serial',
  refine: int = 0,
  rdoq: float = 0.0,
) -> Codec:
  """Cheng et al. (2020).

  Args:
    lmbda: minimise bits per pixel + lmbda * MSE on the 0..255 scale.
    channels: N, of all convolutions; 128 and 192 in the paper.
    mixtures: K, Gaussians per latent; 3 in the paper.
    attention: with the attention modules.
    levels: rates whose gains are learned; 1 makes a model of one rate.
    slope: of the leaky rectifiers.
    widths: hidden channels of the entropy parameters; 10/3 N and 8/3 N unless given.
    stem: 4 folds 4 x 4 pixels into channels in place of the first two stages, which
      cost most; not in the paper.
    linear: with a linear path beside the transforms that starts as a cosine
      transform, which spares hours of training; not in the paper.
    latents: M, channels of the latents; N in the paper and unless given. They bound the
      quality at high rates.
    hyper: channels of the hyper-latents and width of their networks, M unless given.
    slices: how many latents of a position are coded at a time, summing up to M; each sees
      those before it (Minnen & Singh 2020); not in the paper, which codes all at once.
    magnitudes: the networks that predict rates see the latents' magnitudes beside them; not
      in the paper.
    restoration: channels of a network that sees the picture of the linear path and corrects it,
      0 for none; not in the paper.
    centred: the analysis network beside the linear path sees the image less its local mean; not
      in the paper.
    context: 'serial', the paper's, whose latents decode along a wavefront; or 'channels': slices
      are coded in two passes of a checkerboard, and each sees all positions of those before (He et
      al., CVPR 2022), which takes two large steps for each slice.
    refine: passes over the latents of each image that look for cheaper ones; 0 for none.
    rdoq: what a bit is worth, in squared steps, where latents round to what is cheaper in rate
      and distortion; 0 rounds to what is nearer.

  Raises:
    CodecError: there is no such context, the slices are not whole numbers that sum up to M, or an
      option needs the linear path, which is off.
  """
  if context not in CONTEXTS:
    raise CodecError(f'context={context!r} is not one of {", ".join(CONTEXTS)}')
  linear_path.check(linear, restoration=restoration, centred=centred)
  depth = latents or channels
  if slices is not None and (min(slices, default=0) < 1 or sum(slices) != depth):
    raise CodecError(f'slices={slices} must be positive and sum up to the {depth} latents')
  hidden = None if widths is None else (widths[0], widths[1])
  model = networks.Model(
    *(channels, mixtures, attention, levels, slope, hidden, stem, linear, latents, hyper),
    slices=None if slices is None else tuple(slices),
    magnitudes=magnitudes,
    restoration=restoration,
    centred=centred,
    context=context,
  )
  return scheme.codec(_scheme(model), model, lmbda, refine, rdoq=rdoq)


class _Entropy(NamedTuple):
  """What the two contexts of gmm do in ways of their own."""

  coding: Any  # The module that writes and reads files.
  export: Callable[..., Any]  # Of params, gains, prior, calibration.
  thaw: Callable[[Any], Params]
  relaxed: Relaxed


def _serial(model: networks.Model) -> _Entropy:
  def export(params: Params, *tables: Any) -> Any:
    gains, prior, calibration = tables
    found = serial_export.float_networks(params, model.slope)
    return serial_export.make(found, gains, prior, model.mixtures, calibration)

  def thaw(coding: Any) -> Params:
    return serial_export.params_of(serial_export.thawed(coding))

  return _Entropy(serial, export, thaw, serial_relaxed.RELAXED)


def _channels(model: networks.Model) -> _Entropy:
  views = 1 + model.magnitudes

  def export(params: Params, *tables: Any) -> Any:
    gains, prior, calibration = tables
    found = channels_export.FloatNetworks(
      serial_export.hyper_layers(params['hyper_synthesis'], model.slope),
      channels_export.group_layers(params['groups'], model.slope),
    )
    return channels_export.make(found, gains, prior, model.mixtures, views, calibration)

  def thaw(coding: Any) -> Params:
    found = channels_export.thawed(coding)
    features = found.hyper[-1].bias.size
    return {
      'hyper_synthesis': serial_export.hyper_params(found.hyper),
      'groups': channels_export.group_params(found.groups, features, views),
    }

  return _Entropy(channels_coding, export, thaw, channels_relaxed.RELAXED)


@functools.cache  # One compiled program per model, however many codecs are made of it.
def _scheme(model: networks.Model) -> scheme.Scheme:
  entropy = _channels(model) if model.context == 'channels' else _serial(model)
  run = scheme.runner(96 if model.channels <= 128 else 64)
  nets = networks.transforms(model)
  analysis = scheme.transform(nets, 'analysis', (_CELL, 1), _ANALYSIS_HALO + model.centred)
  hyper_analysis = scheme.transform(nets, 'hyper_analysis', (_HYPER_CELL, 1), _HYPER_HALO)
  synthesis = scheme.transform(
    nets, 'synthesis', (1, _CELL), _SYNTHESIS_HALO + 2 * (model.restoration > 0)
  )

  def analyse(encoder: Params, images: Sequence[Image]) -> list[tuple[np.ndarray, np.ndarray]]:
    ys = run(analysis, encoder, images)
    return list(zip(ys, run(hyper_analysis, encoder, ys), strict=True))

  def quantise(released: Released, images: Sequence[Image], level: int) -> list[Latents]:
    own = released.coding
    return [
      Latents(rates.quantise(y, own.rates, level), hyper_latents.quantise(z, own.prior), y=y)
      for y, z in analyse(released.encoder, images)
    ]

  def synthesise(released: Released, y_hats: Sequence[np.ndarray]) -> list[np.ndarray]:
    return run(synthesis, released.decoder, y_hats)

  def export(params: Params, images: list[Image]) -> Released:
    encoder = {name: params[name] for name in ('analysis', 'hyper_analysis')}
    tables = (
      floats.rates_of(params['log_gains']),
      floats.prior_of(networks.prior(model), params['prior']),
    )
    made = entropy.export(params, *tables, analyse(encoder, images))
    return release(encoder, {'synthesis': params['synthesis']}, made)

  def thaw(released: Released) -> Params:
    return {
      **released.encoder,
      **released.decoder,
      **entropy.thaw(released.coding),
      'prior': floats.fitted_prior(networks.prior(model), released.coding.prior),
      'log_gains': floats.log_gains_of(released.coding.rates, model.levels),
    }

  def symbols(height: int, width: int) -> int:
    rows, columns = hyper_latents.grid(height, width, _HYPER_CELL)
    of_y, of_z = networks.depths(model)
    return of_y * height * width + of_z * rows * columns

  return scheme.Scheme(
    name='gmm',
    method_id=METHOD_ID,
    cell=_CELL,
    symbols=symbols,
    quantise=quantise,
    write=entropy.coding.write,
    read=entropy.coding.read,
    synthesise=synthesise,
    export=export,
    thaw=thaw,
    decide=entropy.coding.decide,
    relaxed=entropy.relaxed,
    whole=scheme.whole(nets),
    transposes=model.context == 'serial',
  )
