"""The command line's export: from trained float weights to a model that codes files.

Its second use measures which steps each lambda takes for a model that is there already.
"""

from pathlib import Path

from absl import flags

from compress_jax import methods
from compress_jax.cli.command import check_new, settings
from compress_jax.cli.fit import trained
from compress_jax.codec import CodecError
from compress_jax.files import models
from compress_jax.files.atomic import write_atomically
from compress_jax.learned import lambdas
from compress_jax.learned.released import halve, to_arrays
from compress_jax.model_zoo import load_model
from compress_jax.runtime.compilation_cache import enable_cache
from compress_jax.training.float_weights import (
  calibration,
  file_of,
  fitting,
  measured_ratios,
  weights,
)


def run(values: flags.FlagValues) -> int:
  """Reads --input, or what the run in --workdir has reached, and writes --output.

  The ranges of its integers are calibrated on --data or the photographs at hand, which also tell
  which steps each lambda takes.

  `--set=half=True` rounds the float weights to 16 bits, which halves the file.
  `--set=deflate=True` makes the file smaller without loss, see `files.deflated`.

  With an --output that ends in .json it only measures those steps, for the model in --input: beside
  NAME.safetensors, NAME.lambdas.json is used in place of what that file says.

  Raises:
    CodecError: the weights cannot be read, or are none that integers can hold.
    flags.Error: a flag is missing.
  """
  if not values.output or not (values.input or values.workdir):
    raise flags.Error('--mode=export needs --output, and --input or --workdir')
  output, options = Path(values.output), settings(values.set)
  half, deflate = options.pop('half', False), options.pop('deflate', False)
  if options or not isinstance(half, bool) or not isinstance(deflate, bool):
    raise CodecError('export has two options: half and deflate, each True or False')
  check_new(output, force=values.force)
  enable_cache()
  if output.suffix == '.json':
    return _measure(values, output)
  params, config = weights(Path(values.input)) if values.input else trained(Path(values.workdir))
  if methods.method(config['method']).coding_of is None:
    raise CodecError(f'{config["method"]} has no float weights to export')
  codec = fitting(config['method'], config['options'], params)
  images = calibration(values.data)
  released = codec.export(halve(params) if half else params, images)
  ratios = measured_ratios(config['method'], config['options'], released, images)
  config = {**config, lambdas.FIELD: ratios}
  models.write(output, to_arrays(released), config, overwrite=values.force, deflate=deflate)
  print(f'{output}: {config["method"]} model {released.model_id.hex()}')
  return 0


def _measure(values: flags.FlagValues, output: Path) -> int:
  """Writes the ratios of the model in --input, as `lambdas.beside` names their file."""
  if not values.input:
    raise flags.Error('a table of lambdas needs --input: a model that codes files')
  path = file_of(Path(values.input))
  method = models.read(path)[1].get('method')
  if method not in methods.METHODS:
    raise CodecError(f'{path} is no model of a learned method')
  options, released = load_model(method, str(path))
  ratios = measured_ratios(method, options, released, calibration(values.data))
  content = lambdas.written(ratios, released.model_id)
  write_atomically(output, content, overwrite=values.force)
  print(f'{output}: lambdas of the {method} model {released.model_id.hex()}')
  return 0
