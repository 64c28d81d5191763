"""The command line's export: from trained float weights to a model that codes files."""

from pathlib import Path

from absl import flags

from compress_jax import methods, model_files
from compress_jax.cli_fit import trained
from compress_jax.codec import CodecError
from compress_jax.command import check_new, settings
from compress_jax.float_weights import calibration, fitting, weights
from compress_jax.released import halve, to_arrays


def run(values: flags.FlagValues) -> int:
  """Reads --input, or what the run in --workdir has reached, and writes --output.

  The ranges of its integers are calibrated on --data or the photographs at hand.

  `--set=half=True` rounds the float weights to 16 bits, which halves the file.

  Raises:
    CodecError: the weights cannot be read, or are none that integers can hold.
    flags.Error: a flag is missing.
  """
  if not values.output or not (values.input or values.workdir):
    raise flags.Error('--mode=export needs --output, and --input or --workdir')
  output, options = Path(values.output), settings(values.set)
  half = options.pop('half', False)
  if options or not isinstance(half, bool):
    raise CodecError('export has one option: half=True or half=False')
  check_new(output, force=values.force)
  params, config = weights(Path(values.input)) if values.input else trained(Path(values.workdir))
  module = methods.method(config['method'])
  if not hasattr(module, 'coding_of'):
    raise CodecError(f'{config["method"]} has no float weights to export')
  codec = fitting(module, config['options'], params)
  released = codec.export(halve(params) if half else params, calibration(values.data))
  model_files.write(output, to_arrays(released), config, overwrite=values.force)
  print(f'{output}: {config["method"]} model {released.model_id.hex()}')
  return 0
