"""Compress photographs into small files, decode them, measure how good they are.

  python run.py --method=kmeans                      # measure on photographs at hand
  python run.py --mode=compress --input=a.png --output=a.cjx
  python run.py --mode=decompress --input=a.cjx --output=b.png

Folders work in place of files, and - in place of a file is a pipe.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from compress_jax import processes
from compress_jax.command import guarded, parse
from compress_jax.methods import NUMBERS

PROGRAM = 'compress-jax'
STAGES = ('rate-distortion', 'rounded', 'decoder', 'adversarial', 'scales')  # Those of `stages`.
MODES = ('eval', 'compress', 'decompress', 'train', 'export')


def define_flags() -> flags.FlagValues:
  """The flags, in a registry of their own: nothing is left behind in the process."""
  values = flags.FlagValues()
  here: dict[str, Any] = {'flag_values': values}
  flags.DEFINE_enum('mode', 'eval', MODES, 'What to do.', **here)
  flags.DEFINE_enum('method', 'kmeans', list(NUMBERS), 'How; files know theirs.', **here)
  flags.DEFINE_float('lambda', 0.013, 'Minimise bpp + lambda * MSE: more is better.', **here)
  flags.DEFINE_multi_string('set', [], 'An option of the method, as key=value.', **here)
  flags.DEFINE_string('model', None, "A model file in place of the method's own.", **here)
  about = 'eval, compress: passes over the latents of each image for cheaper ones.'
  flags.DEFINE_integer('refine', 0, about, lower_bound=0, **here)
  flags.DEFINE_float('target_bpp', None, 'Best quality within so many bits per pixel.', **here)
  flags.DEFINE_float('target_psnr', None, 'Smallest file of at least so many dB.', **here)
  flags.DEFINE_string('input', None, 'A file, a folder, or - for stdin.', **here)
  flags.DEFINE_string('output', None, 'A file, a folder, or - for stdout.', **here)
  flags.DEFINE_bool('force', False, 'Overwrite what is there.', **here)
  flags.DEFINE_bool('skip_existing', False, 'Make only the files that are missing.', **here)
  flags.DEFINE_bool('depth8', False, 'eval, compress: round samples of over 8 bits.', **here)
  flags.DEFINE_string('flatten', None, 'A colour to put behind transparent pixels.', **here)
  flags.DEFINE_bool('first_frame', False, 'Take the first frame of an animation.', **here)
  flags.DEFINE_integer('max_pixels', 2**26, 'Refuse larger images.', 1, 2**26, **here)
  flags.DEFINE_string('images', None, 'eval: a folder of images.', **here)
  flags.DEFINE_multi_string('data', None, 'train, export: a folder of images; repeatable.', **here)
  flags.DEFINE_enum('protocol', 'full', ('full', 'crop'), 'eval: crop to 256x256?', **here)
  flags.DEFINE_integer('workers', None, 'eval, train: processes at a time.', lower_bound=1, **here)
  flags.DEFINE_integer('seed', 0, 'Of everything random.', **here)
  _define_training(here)
  processes.define_flags(values)
  flags.DEFINE_bool('help', False, 'Show this.', short_name='h', **here)
  return values


def _define_training(here: dict[str, Any]) -> None:
  """What --mode=train of the learned methods has in addition."""
  whole: dict[str, Any] = {'lower_bound': 1, **here}
  flags.DEFINE_string('workdir', None, 'train: the folder of a run, else runs/METHOD.', **here)
  flags.DEFINE_string('preset', 'tiny', 'train: a size of the method.', **here)
  flags.DEFINE_string('val', None, 'train: a folder of images to validate on.', **here)
  flags.DEFINE_string(
    'start', None, 'train: weights, a model or a method whose model ships, to begin with.', **here
  )
  flags.DEFINE_enum(
    'stage', STAGES[0], STAGES, "train: the first, or what follows; adversarial is gan's.", **here
  )
  flags.DEFINE_enum('distortion', 'mse', ('mse', 'ms-ssim'), 'train: what is minimised.', **here)
  flags.DEFINE_string('lpips', None, 'train: weights of LPIPS for the second stage.', **here)
  flags.DEFINE_integer('steps', None, "train: updates, else the preset's.", **whole)
  flags.DEFINE_float(
    'minutes', None, 'train: as many updates as fit; saving follows.', lower_bound=0.01, **here
  )
  flags.DEFINE_integer('batch', None, "train: crops per update, else the preset's.", **whole)
  flags.DEFINE_integer('crop', None, "train: pixels of a crop's side, a multiple of 64.", **whole)
  flags.DEFINE_float('lr', None, 'train: peak of the learning rate.', lower_bound=0, **here)
  precisions = ('float32', 'bfloat16')
  flags.DEFINE_enum('precision', None, precisions, 'train: of activations.', **here)
  flags.DEFINE_integer('inner', None, 'train: updates per dispatch.', **whole)
  flags.DEFINE_bool('stream', None, 'train: read images as they are needed?', **here)
  flags.DEFINE_integer('log_every', 100, 'train: steps between lines.', **whole)
  flags.DEFINE_integer('save_every', 1000, 'train: steps between checkpoints.', **whole)
  flags.DEFINE_integer('validate_every', 0, 'train: steps between validations.', 0, **here)
  flags.DEFINE_bool('evaluate', True, 'train: compare with classical codecs at the end?', **here)
  flags.DEFINE_bool('dry_run', False, 'train: say what it would take, and stop.', **here)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit status."""
  return guarded(PROGRAM, lambda: run(parse(define_flags(), __doc__, argv)))


def run(values: flags.FlagValues) -> int:
  """Does what the flags say; returns the exit status."""
  # Imported here: each mode waits only for what it uses.
  if values.mode == 'train':
    from compress_jax import cli_train

    return cli_train.run(values)
  if values.mode == 'eval':
    from compress_jax import cli_eval

    return cli_eval.overview(values)
  if values.mode == 'export':
    from compress_jax import cli_export

    return cli_export.run(values)
  from compress_jax import cli_files

  return cli_files.run(values)
