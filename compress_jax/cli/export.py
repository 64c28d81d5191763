"""--mode=export of the command line: from trained float weights to a model that codes files.

Two other outputs are made from a model that exists already: a table of the quantisation steps that
each lambda uses, and its networks as programs that run elsewhere.
"""

from pathlib import Path
from typing import Any

from absl import flags

from compress_jax import methods
from compress_jax.cli import progress
from compress_jax.cli.command import check_new, settings
from compress_jax.cli.fit import trained
from compress_jax.codec import CodecError, Released
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

# Files that --format=stablehlo writes: two programs, the model that codes, and a description.
FILES = 'analysis.stablehlo', 'synthesis.stablehlo', 'model.safetensors', 'programs.json'


def run(values: flags.FlagValues) -> int:
  """Exports --input, or the newest checkpoint of the run in --workdir, to --output.

  The ranges of its integers, and the quantisation steps that each lambda uses, are measured on
  --data, or else on the photographs that scikit-image carries.

  `--set=half=True` rounds the float weights to 16 bits, which halves the file.
  `--set=deflate=True` makes the file smaller without loss, see `files.deflated`.

  With an --output that ends in .json only those steps are measured, for the model in --input. A
  file NAME.lambdas.json beside NAME.safetensors replaces the table in the model file.

  `--format=stablehlo` writes a folder for the model in --input: its analysis and its synthesis as
  programs of `jax.export`, and the model itself, whose integer tables decode files.

  Raises:
    CodecError: the weights cannot be read, or integers cannot represent them.
    flags.Error: a flag is missing, or has no effect beside the others.
  """
  if not values.output or not (values.input or values.workdir):
    raise flags.Error('--mode=export needs --output, and --input or --workdir')
  output, options = Path(values.output), settings(values.set)
  half, deflate = options.pop('half', False), options.pop('deflate', False)
  if options or not isinstance(half, bool) or not isinstance(deflate, bool):
    raise CodecError('export has two options: half and deflate, each True or False')
  if values.input and values.workdir:
    raise flags.Error('--input and --workdir exclude each other')
  if output.suffix == '.json' and (half or deflate):
    raise flags.Error('half and deflate are options of a model, not of a table of lambdas')
  programs = values.format == 'stablehlo'
  for path in [output / name for name in FILES] if programs else [output]:
    check_new(path, force=values.force)
  enable_cache()
  with progress.shown(str(output)):
    if programs:
      line = _programs(values, output)
    elif output.suffix == '.json':
      line = _measure(values, output)
    else:
      line = _model(values, output, half=half, deflate=deflate)
  print(f'{output}: {line}')
  return 0


def _model(values: flags.FlagValues, output: Path, *, half: bool, deflate: bool) -> str:
  """Writes the model of the weights that the flags name; returns a line that describes it."""
  params, config = weights(Path(values.input)) if values.input else trained(Path(values.workdir))
  if methods.method(config['method']).coding_of is None:
    raise CodecError(f'{config["method"]} has no float weights to export')
  codec = fitting(config['method'], config['options'], params)
  images = calibration(values.data)
  released = codec.export(halve(params) if half else params, images)
  ratios = measured_ratios(config['method'], config['options'], released, images)
  config = {**config, lambdas.FIELD: ratios}
  models.write(output, to_arrays(released), config, overwrite=values.force, deflate=deflate)
  return f'{config["method"]} model {released.model_id.hex()}'


def _measure(values: flags.FlagValues, output: Path) -> str:
  """Writes the table of lambdas of the model in --input; returns a line that describes it."""
  method, options, released = _released(values, 'a table of lambdas')
  ratios = measured_ratios(method, options, released, calibration(values.data))
  content = lambdas.written(ratios, released.model_id)
  write_atomically(output, content, overwrite=values.force)
  return f'lambdas of the {method} model {released.model_id.hex()}'


def _programs(values: flags.FlagValues, output: Path) -> str:
  """Writes the folder of --format=stablehlo; returns a line that describes the model."""
  from compress_jax.learned import stablehlo  # Export is for few, and takes time to load.

  if values.set or values.data:
    raise flags.Error('--format=stablehlo has no --set and --data: export a model first')
  method, options, released = _released(values, '--format=stablehlo')
  made = stablehlo.programs(methods.method(method).codec(**options), released)
  config = {'method': method, 'options': options, lambdas.FIELD: released.ratios}
  analysis, synthesis, model, about = (output / name for name in FILES)
  output.mkdir(parents=True, exist_ok=True)
  write_atomically(analysis, made.analysis, overwrite=values.force)
  write_atomically(synthesis, made.synthesis, overwrite=values.force)
  models.write(model, to_arrays(released), config, overwrite=values.force)
  content = stablehlo.description(made, method, released.model_id)
  write_atomically(about, content, overwrite=values.force)
  return f'programs of the {method} model {released.model_id.hex()}'


def _released(values: flags.FlagValues, purpose: str) -> tuple[str, dict[str, Any], Released]:
  """Returns the method, the options and the weights of the model in --input.

  Args:
    values: the values of all flags.
    purpose: the flag or output that needs the model, for messages.

  Raises:
    CodecError: there is no such model.
    flags.Error: there is no --input.
  """
  if not values.input:
    raise flags.Error(f'{purpose} needs --input: a model that codes files')
  path = file_of(Path(values.input))
  method = models.read(path)[1].get('method')
  if method not in methods.METHODS:
    raise CodecError(f'{path} is no model of a learned method')
  options, released = load_model(method, str(path))
  return method, options, released
