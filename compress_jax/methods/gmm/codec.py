"""Attention, hyperprior and context, and a discretised Gaussian mixture (Cheng et al. 2020).

`networks` analyses and synthesises images in floats; `serial_coding` and `channels_coding` write
and read latents in integers.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from compress_jax.codec import LAMBDA_RANGE, Codec, CodecError, Latents, Method, Params, Preset
from compress_jax.exact import floats, rates
from compress_jax.exact import hyper as hyper_latents
from compress_jax.layers import linear as linear_path
from compress_jax.learned import codec as learned
from compress_jax.learned import scheme
from compress_jax.methods import METHODS
from compress_jax.methods.gmm import (
  channels_coding,
  channels_export,
  export,
  networks,
  serial_coding,
  serial_export,
)

NUMBER = METHODS['gmm'].number
PRESETS = {
  'tiny': Preset(
    {
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
      'shortcuts': True,
    },
    *(11_000, 4, 128, 5e-4),
  ),
  'small': Preset(
    {
      'channels': 128,
      'latents': 192,
      'stem': 4,
      'linear': True,
      'restoration': 64,
      'centred': True,
      'rdoq': 0.1,
    },
    *(100_000, 8, 192, 5e-4),
  ),
  'paper': Preset(
    {
      'channels': 128,
    },
    *(1_000_000, 8, 256, 1e-4),  # Cheng et al. (2020), section 4.1.
  ),
  'large': Preset(
    {
      'channels': 192,
    },
    *(1_000_000, 8, 256, 1e-4),
  ),
}
CONTEXTS = 'serial', 'channels'
ATTENTION = True, False, 'inner', 'all'
# Cells on each side on which an output depends: sums of kernel radii, rounded up.
_ANALYSIS_HALO, _HYPER_HALO, _SYNTHESIS_HALO = 8, 2, 11


def coding_of(options: Mapping[str, Any]) -> Any:
  """Returns the module that codes files of models with these options; it has `Coding`, `check`."""
  return channels_coding if options.get('context') == 'channels' else serial_coding


def codec(
  *,
  lmbda: float = 0.013,
  channels: int = 128,
  mixtures: int = 3,
  attention: bool | str = True,
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
  shortcuts: bool = False,
  context: str = 'serial',
  two_passes: int | None = None,
  refine: int = 0,
  rdoq: float = 0.0,
) -> Codec:
  """Returns the codec of Cheng et al. (2020).

  Args:
    lmbda: minimise bits per pixel + lmbda * MSE on the 0..255 scale.
    channels: N, of all convolutions; 128 and 192 in the paper.
    mixtures: K, Gaussians per latent; 3 in the paper.
    attention: whether the networks have attention modules. With 'all' they have the four of the
      paper, with 'inner' the two inside of the transforms. With True they have all four where there
      are as many latents as channels, and else two.
    levels: rates whose gains are learned; 1 makes a model of one rate.
    slope: the slope of the leaky rectifiers.
    widths: hidden channels of the entropy parameters; 10/3 N and 8/3 N unless given.
    stem: 4 folds 4 x 4 pixels into channels in place of the first two stages, which
      cost most; not in the paper.
    linear: with a linear path beside the transforms that starts as a cosine
      transform, which spares hours of training; not in the paper.
    latents: M, channels of the latents; N in the paper and unless given. They bound the
      quality at high rates.
    hyper: channels of the hyper-latents and width of their networks, M unless given.
    slices: numbers of latents of a position that are coded together, which sum up to M; each slice
      sees those before it (Minnen & Singh 2020); not in the paper, which has one slice.
    magnitudes: whether the networks that predict rates also see the latents' magnitudes; not in the
      paper.
    restoration: channels of a network that corrects the image of the linear path, 0 for none; not
      in the paper.
    centred: whether the analysis network beside the linear path sees the image less its local mean;
      not in the paper.
    shortcuts: with wavelet-based linear shortcuts beside the stages of both transforms (Li et al.,
      ICLR 2025); not in the paper.
    context: 'serial' or 'channels'. With 'serial', the paper's, latents are decoded along a
      wavefront. With 'channels' slices are coded in two passes of a checkerboard, and each sees all
      positions of those before (He et al., CVPR 2022); each slice needs two large steps.
    two_passes: the number of first slices that have two passes with context='channels', all unless
      given. The others have one pass, which is faster, and do not see their own latents.
    refine: the number of passes that search cheaper latents of each image; 0 for none.
    rdoq: the worth of a bit in squared steps, for rounding by rate and distortion; 0 rounds to the
      nearest integer.

  Raises:
    CodecError: there is no such context or attention, the slices are not whole numbers that sum up
      to M, there are fewer than two_passes, or an option needs another one that is off.
  """
  if context not in CONTEXTS:
    raise CodecError(f'context={context!r} is not one of {", ".join(CONTEXTS)}')
  if not isinstance(attention, (bool, str)) or attention not in ATTENTION:
    raise CodecError(f'attention={attention!r} is not one of {", ".join(map(str, ATTENTION))}')
  linear_path.check(linear, restoration=restoration, centred=centred)
  depth = latents or channels
  if slices is not None and (min(slices, default=0) < 1 or sum(slices) != depth):
    raise CodecError(f'slices={slices} must be positive and sum up to the {depth} latents')
  if two_passes is not None and (
    context != 'channels' or two_passes not in range(len(slices or (depth,)) + 1)
  ):
    raise CodecError(
      f"two_passes={two_passes} needs context='channels' and that many slices, or more"
    )
  hidden = None if widths is None else (widths[0], widths[1])
  model = networks.Model(
    *(channels, mixtures, attention, levels, slope, hidden, stem, linear, latents, hyper),
    slices=None if slices is None else tuple(slices),
    magnitudes=magnitudes,
    restoration=restoration,
    centred=centred,
    shortcuts=shortcuts,
    context=context,
    two_passes=two_passes,
  )
  return learned.codec(_scheme(model), lmbda, refine, rdoq=rdoq)


class _Context(NamedTuple):
  """The module and the functions that differ between the two contexts."""

  coding: Any  # The module that writes and reads files.
  make: Callable[..., Any]  # The coding, of params, gains, prior and examples.
  unmake: Callable[[Any], Params]


def _serial(model: networks.Model) -> _Context:
  def make(params: Params, *tables: Any) -> Any:
    gains, prior, examples = tables
    nets = serial_export.float_networks(params, model.slope)
    return serial_export.make(nets, gains, prior, model.mixtures, examples)

  def unmake(coding: Any) -> Params:
    return serial_export.params_of(serial_export.thawed(coding))

  return _Context(serial_coding, make, unmake)


def _channels(model: networks.Model) -> _Context:
  views = 1 + model.magnitudes

  def make(params: Params, *tables: Any) -> Any:
    gains, prior, examples = tables
    nets = channels_export.FloatNetworks(
      export.hyper_layers(params['hyper_synthesis'], model.slope),
      channels_export.group_layers(params['groups'], model.slope),
    )
    return channels_export.make(nets, gains, prior, model.mixtures, views, examples)

  def unmake(coding: Any) -> Params:
    nets = channels_export.thawed(coding)
    features = nets.hyper[-1].bias.size
    return {
      'hyper_synthesis': export.hyper_params(nets.hyper),
      'groups': channels_export.group_params(nets.groups, features, views, coding.mixtures),
    }

  return _Context(channels_coding, make, unmake)


@functools.cache  # One compiled program per model, however many codecs are made of it.
def _scheme(model: networks.Model) -> scheme.Scheme:
  context = _channels(model) if model.context == 'channels' else _serial(model)
  cell, hyper_cell, prior = networks.CELL, networks.HYPER_CELL, networks.prior(model)
  nets, (depth, hyper_depth) = networks.transforms(model), networks.depths(model)
  halo = _SYNTHESIS_HALO + 2 * (model.restoration > 0)
  halo += (
    depth != model.channels and model.attention == 'all'
  )  # It has a first layer beside that module.

  def make(params: Params, examples: Sequence[tuple[np.ndarray, np.ndarray]]) -> Any:
    tables = floats.rates_of(params['log_gains']), floats.prior_of(prior, params['prior'])
    return context.make(params, *tables, examples)

  return scheme.Scheme(
    name='gmm',
    number=NUMBER,
    model=model,
    analysis=scheme.transform(nets, 'analysis', (cell, 1), _ANALYSIS_HALO + model.centred),
    synthesis=scheme.transform(nets, 'synthesis', (1, cell), halo),
    whole=scheme.whole(nets),
    rate=scheme.rate(model),
    largest=96 if model.channels <= 128 else 64,
    depth=depth,
    quantise=_quantise,
    decide=context.coding.decide,
    write=context.coding.write,
    read=context.coding.read,
    make=make,
    unmake=context.unmake,
    hyper_analysis=scheme.transform(nets, 'hyper_analysis', (hyper_cell, 1), _HYPER_HALO),
    hyper_cell=hyper_cell,
    hyper_depth=hyper_depth,
    fit_prior=lambda coding: floats.fitted_prior(prior, coding.prior),
    transposes=model.context == 'serial',
  )


def _quantise(coding: Any, y: np.ndarray, z: np.ndarray, level: int) -> Latents:
  return Latents(rates.quantise(y, coding.rates, level), hyper_latents.quantise(z, coding.prior))


METHOD = Method(codec, LAMBDA_RANGE, PRESETS, coding_of)
