"""The modes of the command line: the flags of each, and the text of --help."""

import re
import textwrap
from typing import NamedTuple

from absl import flags

_PROCESSES = 'coordinator', 'num_processes', 'process_id', 'distributed'
_RUN = 'workdir', 'preset', 'val', 'start', 'stage', 'distortion', 'lpips', 'precision', 'stream'
_HIFIC = 'perceptual', 'target_rate', 'learns', 'updates'
_UPDATES = 'steps', 'minutes', 'batch', 'crop', 'lr', 'inner'
_RHYTHM = 'log_every', 'save_every', 'validate_every', 'evaluate', 'dry_run'
# Flags of --mode=train that only learned methods have, and those that only kmeans has.
_NETWORKS = (*_RUN, *_HIFIC, *_UPDATES, *_RHYTHM, *_PROCESSES, 'lambda', 'images', 'protocol')
_TABLES = 'output', 'force'


class Mode(NamedTuple):
  """A mode as --help describes it."""

  about: str
  examples: tuple[str, ...]  # Flags after `compress-jax --mode=MODE`.
  flags: tuple[str, ...]  # Names of its flags beside `COMMON`.


COMMON = 'mode', 'method', 'set', 'output', 'version', 'help'
MODES = {
  'eval': Mode(
    'Measure a method on photographs, beside classical codecs of equal size.',
    (
      '--method=gmm',
      '--images=photos/ --protocol=crop --output=measured/',
      '--images=photos/ --report=page.html --methods=gmm,cae,jpeg,avif,jxl',
    ),
    (
      *('lambda', 'model', 'refine', 'seed', 'images', 'protocol', 'workers', 'json'),
      *('report', 'methods', 'lambdas'),
      *('depth8', 'flatten', 'first_frame', 'max_pixels'),
    ),
  ),
  'compress': Mode(
    'Turn photographs into small files.',
    (
      '--input=photo.png --output=photo.cjx',
      '--method=gmm --input=photos/ --output=coded/ --target_bpp=0.3',
    ),
    (
      *('input', 'force', 'skip_existing', 'lambda', 'target_bpp', 'target_psnr', 'model'),
      *('refine', 'seed', 'depth8', 'flatten', 'first_frame', 'max_pixels', 'json', *_PROCESSES),
    ),
  ),
  'decompress': Mode(
    'Turn the files into images; each knows its method.',
    ('--input=photo.cjx --output=photo.png',),
    ('input', 'force', 'skip_existing', 'model', 'max_pixels', 'json', *_PROCESSES),
  ),
  'train': Mode(
    'Train a method on photographs; the same command goes on where it was stopped.',
    (
      '--method=gmm --workdir=runs/gmm --data=photos/ --val=others/',
      '--method=kmeans --data=photos/ --output=tables.safetensors',
    ),
    ('data', 'seed', 'workers', 'force', *_NETWORKS),
  ),
  'export': Mode(
    'Turn trained weights, or what a run has reached, into a model that codes files.',
    (
      '--workdir=runs/gmm --output=model.safetensors',
      '--input=cheng2020-attn.pth.tar --output=model.safetensors --data=photos/',
      '--format=stablehlo --input=gmm --output=programs/',
    ),
    ('input', 'workdir', 'data', 'force', 'format'),
  ),
}
_OVERVIEW = """\
Compress photographs into small files, decode them, measure how good they are.

{modes}

Folders work in place of files, and - in place of a file is a pipe. ~ and $NAME in
paths are expanded. Without --mode it is eval.

  compress-jax --method=kmeans                      # measure on photographs at hand
  compress-jax --mode=compress --input=a.png --output=a.cjx
  compress-jax --mode=decompress --input=a.cjx --output=b.png

--help with a mode, such as --mode=train --help, shows the flags that it has. All modes have:

{flags}"""


def manual(values: flags.FlagValues) -> str:
  """Returns the text of --help: about the mode that --mode names, or else the overview."""
  if values['mode'].present:
    return _of_mode(values, values.mode)
  modes = '\n'.join(f'  --mode={name:11s} {mode.about}' for name, mode in MODES.items())
  return _OVERVIEW.format(modes=modes, flags=_listed(values, sorted(COMMON)))


def _of_mode(values: flags.FlagValues, mode: str) -> str:
  about, examples, _ = MODES[mode]
  lines = '\n'.join(f'  compress-jax --mode={mode} {example}' for example in examples)
  return f'--mode={mode}: {about}\n\n{lines}\n\n{_listed(values, flags_of(mode))}'


def flags_of(mode: str) -> list[str]:
  """Returns the names of the flags that a mode has, in the order of the alphabet."""
  return sorted((*COMMON, *MODES[mode].flags))


def check(values: flags.FlagValues) -> None:
  """Raises an error for flags that would have no effect.

  Raises:
    flags.Error: the mode or, in training, the method does not have a flag that was given.
  """
  for name in (name for name in values if values[name].present and values[name].name == name):
    if name not in flags_of(values.mode):
      having = ', '.join(mode for mode in MODES if name in flags_of(mode))
      raise flags.Error(f'--mode={values.mode} has no --{name}, which is for: {having}')
    if values.mode == 'train' and name in (_NETWORKS if values.method == 'kmeans' else _TABLES):
      having = 'cae, gan, gmm' if values.method == 'kmeans' else 'kmeans'
      raise flags.Error(f'--mode=train --method={values.method} has no --{name}: it is of {having}')


def _listed(values: flags.FlagValues, names: list[str]) -> str:
  return '\n'.join(map(_described, (values[name] for name in names)))


def _described(flag: flags.Flag) -> str:
  """Returns the text about a flag: its name, its purpose, its values and its default."""
  name = f'--[no]{flag.name}' if flag.boolean else f'--{flag.name}'
  short = f', -{flag.short_name}' if flag.short_name else ''
  text = re.sub(
    r'^<.*?>: |;\s+repeat this option.*', '', flag.help
  )  # Absl adds the choices and a remark on repetition.
  values = getattr(flag.parser, 'enum_values', None)
  notes = ['|'.join(values) if values else flag.parser.syntactic_help * (not flag.boolean)]
  if isinstance(flag, flags.MultiFlag):
    notes.append('repeatable')
  if flag.default not in (None, [], '') and not (flag.boolean and not flag.default):
    notes.append(f'default: {flag.default_as_str}')
  notes = [note for note in notes if note]
  about = f'{text[0].upper()}{text[1:]}' + (f' ({"; ".join(notes)})' if notes else '')
  body = textwrap.fill(about, 94, initial_indent=' ' * 6, subsequent_indent=' ' * 6)
  return f'  {name}{short}\n{body}'
