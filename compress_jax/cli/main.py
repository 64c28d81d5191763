"""The command line: defines its flags and calls the module of the mode; see also `cli.help`."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from compress_jax import __version__
from compress_jax.cli import processes
from compress_jax.cli.command import guarded, parse
from compress_jax.cli.flag_types import define_path, define_paths, define_positive
from compress_jax.cli.help import MODES, check, manual
from compress_jax.methods import METHODS
from compress_jax.runtime.imports import imported

PROGRAM = 'compress-jax'
# The module in this folder that runs each mode.
_PROGRAMS = {
  'compress': 'files',
  'decompress': 'files',
  'eval': 'evaluate',
  'export': 'export',
  'train': 'train',
}
STAGES = ('rate-distortion', 'rounded', 'decoder', 'adversarial', 'scales')


def define_flags() -> flags.FlagValues:
  """Returns all flags in a new registry, so that the registry of the process stays unchanged.

  The flags of each mode are listed in `cli.help`.
  """
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  flags.DEFINE_enum('mode', 'eval', list(MODES), 'What to do.', **here)
  flags.DEFINE_enum('method', 'kmeans', list(METHODS), 'How; files know theirs.', **here)
  about = 'Minimise bpp + lambda * MSE: more is better.'
  flags.DEFINE_float('lambda', 0.013, about, **here)
  flags.DEFINE_multi_string('set', [], 'An option of the method, as key=value.', **here)
  about = "A model file in place of the method's own."
  define_path('model', None, about, **here)
  about = 'Passes over the latents of each image for cheaper ones.'
  flags.DEFINE_integer('refine', 0, about, lower_bound=0, **here)
  about = 'Best quality within so many bits per pixel.'
  define_positive('target_bpp', None, about, **here)
  define_positive('target_psnr', None, 'Smallest file of at least so many dB.', **here)
  about = 'A file, a folder, or - for stdin; export: weights.'
  define_path('input', None, about, **here)
  about = 'A file, a folder, or - for stdout; eval: a folder for rows and files.'
  define_path('output', None, about, **here)
  about = 'Overwrite what is there.'
  flags.DEFINE_bool('force', False, about, **here)
  about = 'Make only the files that are missing.'
  flags.DEFINE_bool('skip_existing', False, about, **here)
  about = 'Round samples of more than 8 bits.'
  flags.DEFINE_bool('depth8', False, about, **here)
  about = 'Print a line of JSON for each file, and nothing else, to stdout.'
  flags.DEFINE_bool('json', False, about, **here)
  about = 'A colour to put behind transparent pixels.'
  flags.DEFINE_string('flatten', None, about, **here)
  about = 'Take the first frame of an animation.'
  flags.DEFINE_bool('first_frame', False, about, **here)
  about = 'Refuse larger images.'
  flags.DEFINE_integer('max_pixels', 2**26, about, 1, 2**26, **here)
  about = 'What to write: a model that codes files, or its networks as programs.'
  flags.DEFINE_enum('format', 'model', ('model', 'stablehlo'), about, **here)
  define_path('images', None, 'A folder of images to measure on.', **here)
  define_paths('data', 'A folder of images; repeatable.', **here)
  about = 'Write a page (.html) that compares --methods at several rates.'
  define_path('report', None, about, **here)
  about = 'With --report: methods, LABEL=METHOD:MODEL, classical codecs; else --method and those.'
  flags.DEFINE_list('methods', None, about, **here)
  about = 'With --report: operating points of the methods.'
  flags.DEFINE_list('lambdas', None, about, **here)
  about = 'Measure on all of an image, or on its 256x256 centre?'
  flags.DEFINE_enum('protocol', 'full', ('full', 'crop'), about, **here)
  flags.DEFINE_integer('workers', None, 'Processes at a time.', lower_bound=1, **here)
  flags.DEFINE_integer('seed', 0, 'Seed of everything random.', 0, **here)
  _define_training(here)
  processes.define_flags(values)
  flags.DEFINE_bool('version', False, 'Show the version.', **here)
  flags.DEFINE_bool(
    'help', False, 'Show this text; with --mode, the flags of that mode.', short_name='h', **here
  )
  return values


def _define_training(here: dict[str, Any]) -> None:
  """Defines the flags that only training has."""
  whole: dict[str, Any] = {'lower_bound': 1, **here}
  about = 'The folder of a run; train: else runs/METHOD.'
  define_path('workdir', None, about, **here)
  flags.DEFINE_string('preset', 'tiny', 'A size of the method.', **here)
  define_path('val', None, 'A folder of images to validate on.', **here)
  about = 'Weights, a model or a method whose model ships, to begin with.'
  define_path('start', None, about, **here)
  about = 'Stage of training; all but the first need --start, and adversarial is for gan only.'
  flags.DEFINE_enum('stage', STAGES[0], STAGES, about, **here)
  flags.DEFINE_enum('distortion', 'mse', ('mse', 'ms-ssim'), 'What is minimised.', **here)
  about = 'Weights of LPIPS, which joins what is minimised.'
  define_path('lpips', None, about, **here)
  about = 'What --lpips is for: LPIPS, or Wasserstein distortion on VGG16.'
  flags.DEFINE_enum('perceptual', 'lpips', ('lpips', 'wasserstein'), about, **here)
  about = 'Steer a model of one rate to so many bits per pixel; --lambda counts above it.'
  define_positive('target_rate', None, about, **here)
  about = 'Of gan in the adversarial stage: the generator alone, or all as in HiFiC?'
  flags.DEFINE_enum('learns', 'generator', ('generator', 'all'), about, **here)
  about = 'Of codec and discriminator in that stage: at once, or in turn as in HiFiC?'
  flags.DEFINE_enum('updates', 'once', ('once', 'alternate'), about, **here)
  flags.DEFINE_integer('steps', None, "Updates, else the preset's.", **whole)
  define_positive('minutes', None, 'As many updates as fit; saving follows.', **here)
  flags.DEFINE_integer('batch', None, "Crops per update, else the preset's.", **whole)
  flags.DEFINE_integer('crop', None, "Pixels of a crop's side, a multiple of 64.", **whole)
  define_positive('lr', None, 'Peak of the learning rate.', **here)
  precisions = ('float32', 'bfloat16')
  flags.DEFINE_enum('precision', None, precisions, 'Number format of activations.', **here)
  flags.DEFINE_integer('inner', None, 'Updates per dispatch.', **whole)
  flags.DEFINE_bool('stream', None, 'Read images as they are needed?', **here)
  flags.DEFINE_integer('log_every', 100, 'Steps between lines.', **whole)
  flags.DEFINE_integer('save_every', 1000, 'Steps between checkpoints.', **whole)
  about = 'Steps between validations; 0: only at the end.'
  flags.DEFINE_integer('validate_every', 0, about, 0, **here)
  flags.DEFINE_bool('evaluate', True, 'Compare with classical codecs at the end?', **here)
  flags.DEFINE_bool('dry_run', False, 'Say what it would take, and stop.', **here)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit status."""
  return guarded(PROGRAM, lambda: run(parse(define_flags(), manual, argv)))


def run(values: flags.FlagValues) -> int:
  """Runs the mode that the flags name; returns the exit status.

  Raises:
    flags.Error: the mode does not have a flag that was given, or a flag is missing.
  """
  if values.version:
    print(PROGRAM, __version__)
    return 0
  check(values)
  # Imported here: each mode waits only for what it uses.
  status: int = imported(f'compress_jax.cli.{_PROGRAMS[values.mode]}').run(values)
  return status
