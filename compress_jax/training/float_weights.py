"""Trained float weights: their files, the codec that fits, and images to calibrate an export."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from compress_jax import methods
from compress_jax.codec import Codec, CodecError, Image, Params, Released
from compress_jax.files import models
from compress_jax.images import sets, sources
from compress_jax.images.listing import warn
from compress_jax.interop import compressai
from compress_jax.learned import lambdas
from compress_jax.learned.released import unflatten
from compress_jax.model_zoo import ZOO, check_options, load_model

_IMAGES, _SIDE = 8, 512  # Number and largest side of images that calibrate activations.
_MEASURED = 256  # Side in pixels of the crops on which lambdas are measured.
_TORCH = ('.pth', '.pt', '.tar')
WEIGHTS = 'weights.safetensors'  # The file that a training run writes into its folder.


def weights(path: Path) -> tuple[Params, dict]:
  """Reads float parameters, and the method with its options.

  The file is one of this package or a CompressAI checkpoint. If it is a model that codes images,
  the parameters are its integers, converted back to floats. A method's name stands for the model
  that ships with it, and a run's folder for the weights that the run has written.

  Raises:
    CodecError: there are none.
  """
  path = file_of(path)
  if path.suffix in _TORCH:
    params, options = compressai.read(path)
    return params, {'method': 'gmm', 'options': dict(options)}
  arrays, config = models.read(path)
  sound = isinstance(config.get('method'), str) and isinstance(config.get('options'), dict)
  if sound and any(name.startswith('coding.') for name in arrays):
    options, released = load_model(config['method'], str(path))
    codec = methods.method(config['method']).codec(**options)
    return codec.thaw(released), config
  if not sound or not any(name.startswith('params.') for name in arrays):
    raise CodecError(f'{path} holds no float weights')
  return unflatten(arrays, 'params'), config


def file_of(path: Path) -> Path:
  """Returns the file that a path, the name of a method or the folder of a run stands for.

  Raises:
    CodecError: the folder holds no weights.
  """
  if str(path) in methods.METHODS and not path.exists():
    return ZOO / f'{path}.safetensors'
  if not path.is_dir():
    return path
  if not (path / WEIGHTS).exists():
    raise CodecError(
      f'{path} holds no {WEIGHTS}, which a training run leaves there when it validates, ends or '
      f'is stopped'
    )
  return path / WEIGHTS


def fitting(method: str, options: Mapping[str, Any], params: Params) -> Codec:
  """Returns the codec of these options, after a check that `params` fit it.

  Raises:
    CodecError: options or parameters are not those of the method.
  """
  factory = methods.method(method).codec
  check_options(method, factory, options)
  codec = factory(**options)
  wanted = jax.tree.map(np.shape, jax.eval_shape(codec.init, jax.random.key(0)))
  if jax.tree.map(np.shape, params) != wanted:
    raise CodecError('the weights do not have the shapes that their options ask for')
  return codec


def calibration(folders: list[str] | None) -> list[Image]:
  """Returns a few cropped images of the folders, or of scikit-image, that calibrate an export."""
  if not folders:
    images = [image for _, image in sets.sample_photographs()]
  else:
    return examples_of(sources.open_sources(folders, log=warn))
  return [image[:_SIDE, :_SIDE] for image in images[:_IMAGES]]


def examples_of(source: sources.Source) -> list[Image]:
  """Returns a few images of a source, evenly spaced and cropped, that calibrate an export."""
  chosen = range(0, len(source), max(len(source) // _IMAGES, 1))
  return [source[i][:_SIDE, :_SIDE] for i in list(chosen)[:_IMAGES]]


def measured_ratios(
  method: str, options: Mapping[str, Any], released: Released, images: Sequence[Image]
) -> lambdas.Ratios:
  """Returns the ratios of lambda of a model, measured on the middle of a few images.

  They are empty where all lambdas have the same steps.
  """
  if options.get('levels') == 1:
    return ()
  factory = methods.method(method).codec
  crops = [sets.centre_crop(image, _MEASURED) for image in images]
  codec_at = lambda lmbda: factory(lmbda=lmbda, **options)  # noqa: E731
  return lambdas.measured(codec_at, released._replace(ratios=()), crops)
