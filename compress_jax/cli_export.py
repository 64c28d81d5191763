"""The command line's export: from trained float weights to a model that codes files."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from absl import flags

from compress_jax import data, methods, model_files
from compress_jax.codec import Codec, CodecError, Image, Params
from compress_jax.command import settings
from compress_jax.interop import compressai
from compress_jax.pretrained import check_options
from compress_jax.released import halve, to_arrays, unflatten

_IMAGES, _SIDE = 8, 512  # What activations are calibrated on.
_TORCH = ('.pth', '.pt', '.tar')


def run(values: flags.FlagValues) -> int:
  """Reads --input, calibrates on --data or the photographs at hand, writes --output.

  `--set=half=True` rounds the float weights to 16 bits, which halves the file.

  Raises:
    CodecError: the weights cannot be read, or are none that integers can hold.
    flags.Error: a flag is missing.
  """
  for name in ('input', 'output'):
    if not values[name].value:
      raise flags.Error(f'--mode=export needs --{name}')
  output, options = Path(values.output), settings(values.set)
  half = options.pop('half', False)
  if options or not isinstance(half, bool):
    raise CodecError('export has one option: half=True or half=False')
  if output.exists() and not values.force:
    raise CodecError(f'{output} exists; --force overwrites it')
  params, config = weights(Path(values.input))
  module = methods.method(config['method'])
  if not hasattr(module, 'Coding'):
    raise CodecError(f'{config["method"]} has no float weights to export')
  codec = fitting(module, config['options'], params)
  released = codec.export(halve(params) if half else params, calibration(values.data))
  model_files.write(output, to_arrays(released), config, overwrite=values.force)
  print(f'{output}: {config["method"]} model {released.model_id.hex()}')
  return 0


def weights(path: Path) -> tuple[Params, dict]:
  """Float parameters, and the method with its options, of our file or a CompressAI checkpoint."""
  if path.suffix in _TORCH:
    params, options = compressai.read(path)
    return params, {'method': 'gmm', 'options': dict(options)}
  arrays, config = model_files.read(path)
  sound = isinstance(config.get('method'), str) and isinstance(config.get('options'), dict)
  if not sound or not any(name.startswith('params.') for name in arrays):
    raise CodecError(f'{path} holds no float weights')
  return unflatten(arrays, 'params'), config


def fitting(module: ModuleType, options: Mapping[str, Any], params: Params) -> Codec:
  """The codec of these options, whose parameters `params` are.

  Raises:
    CodecError: options or parameters are not those of the method.
  """
  check_options(module.__name__.rpartition('.')[2], module.codec, options)
  codec = module.codec(**options)
  wanted = jax.tree.map(np.shape, jax.eval_shape(codec.init, jax.random.key(0)))
  if jax.tree.map(np.shape, params) != wanted:
    raise CodecError('the weights do not have the shapes that their options ask for')
  return codec


def calibration(folders: list[str] | None) -> list[Image]:
  """A few images, cropped."""
  if not folders:
    images = [image for _, image in data.sample_photographs()]
  else:
    paths = [path for folder in folders for path in data.find_images(Path(folder))]
    images = [data.load_image(path) for path in paths[:: max(len(paths) // _IMAGES, 1)]]
  return [image[:_SIDE, :_SIDE] for image in images[:_IMAGES]]
