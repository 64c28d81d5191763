"""--mode=train of the command line: from images to a model file."""

import inspect
import sys
from pathlib import Path

from absl import flags

from compress_jax.cli.command import check_new, settings
from compress_jax.codec import CodecError
from compress_jax.images import sources
from compress_jax.runtime import jax_settings, workers
from compress_jax.training import codebooks


def run(values: flags.FlagValues) -> int:
  """Trains the networks of a learned method, or the tables of kmeans; returns the exit status.

  The tables of kmeans are trained on --data and written to --output.

  Raises:
    CodecError: a file cannot be read or written, or an option is out of range.
    flags.Error: a flag is missing.
  """
  if values.method != 'kmeans':
    from compress_jax.cli import fit  # flax, optax and orbax take a second.

    return fit.run(values)
  for name in ('data', 'output'):
    if not values[name].value:
      raise flags.Error(f'--mode=train needs --{name}')
  output = Path(values.output)
  check_new(output, force=values.force)
  jax_settings.check_devices()
  options = settings(values.set)
  allowed = list(inspect.signature(codebooks.Plan).parameters)[1:]
  for name, value in options.items():
    if name not in allowed or type(value) is not int or value < 1:
      raise CodecError(f'cannot set {name}={value}; whole numbers can be set: {", ".join(allowed)}')
  source = sources.open_sources(values.data, log=_log)
  source = sources.large_enough(source, codebooks.LEAST, log=_log)
  source = sources.decodable(source, log=_log)
  _log(f'{len(source)} images')
  plan = codebooks.Plan(values.seed, **options)
  processes = workers.cores() if values.workers is None else values.workers
  codebooks.train(source, plan, output, workers=processes, log=_log)
  return 0


def _log(line: str) -> None:
  print(line, file=sys.stderr, flush=True)
