"""The text of --help: an overview of the modes, or one mode with its flags."""

import re
import textwrap
from typing import NamedTuple

from absl import flags


class Mode(NamedTuple):
  """A mode as --help describes it."""

  about: str
  examples: tuple[str, ...]  # Flags after `compress-jax --mode=MODE`.


MODES = {
  'eval': Mode(
    'Measure a method on photographs, beside classical codecs of equal size.',
    ('--method=gmm', '--images=photos/ --protocol=crop --output=measured/'),
  ),
  'compress': Mode(
    'Turn photographs into small files.',
    (
      '--input=photo.png --output=photo.cjx',
      '--method=gmm --input=photos/ --output=coded/ --target_bpp=0.3',
    ),
  ),
  'decompress': Mode(
    'Turn the files into images; each knows its method.',
    ('--input=photo.cjx --output=photo.png',),
  ),
  'train': Mode(
    'Train a method on photographs; the same command goes on where it was stopped.',
    (
      '--method=gmm --workdir=runs/gmm --data=photos/ --val=others/',
      '--method=kmeans --data=photos/ --output=tables.safetensors',
    ),
  ),
  'export': Mode(
    'Make a model that codes files of trained weights, or of what a run has reached.',
    (
      '--workdir=runs/gmm --output=model.safetensors',
      '--input=cheng2020-attn.pth.tar --output=model.safetensors --data=photos/',
    ),
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

--help with a mode, such as --mode=train --help, shows the flags that it has. Of all modes are:

{flags}"""


def manual(values: flags.FlagValues) -> str:
  """The text of --help: of the mode that was named, or the overview."""
  if values['mode'].present:
    return _of_mode(values, values.mode)
  modes = '\n'.join(f'  --mode={name:11s} {mode.about}' for name, mode in MODES.items())
  shared = [name for name in _names(values) if _split(values[name].help)[0] is None]
  return _OVERVIEW.format(modes=modes, flags=_listed(values, shared))


def _of_mode(values: flags.FlagValues, mode: str) -> str:
  about, examples = MODES[mode]
  lines = '\n'.join(f'  compress-jax --mode={mode} {example}' for example in examples)
  return f'--mode={mode}: {about}\n\n{lines}\n\n{_listed(values, flags_of(values, mode))}'


def flags_of(values: flags.FlagValues, mode: str) -> list[str]:
  """The names of the flags that a mode has."""
  return [name for name in _names(values) if mode in (_split(values[name].help)[0] or MODES)]


def _names(values: flags.FlagValues) -> list[str]:
  """Names in the order of the alphabet, without those of one letter."""
  return sorted(name for name in values if values[name].name == name)


def _split(text: str) -> tuple[list[str] | None, str]:
  """The modes that a text about a flag begins with, and the rest of it; None: all modes."""
  text = re.sub(r'^<.*?>: |;\s+repeat this option.*', '', text)  # What absl adds.
  head, colon, rest = text.partition(': ')
  modes = head.split(', ')
  return (modes, rest) if colon and set(modes) <= set(MODES) else (None, text)


def _listed(values: flags.FlagValues, names: list[str]) -> str:
  return '\n'.join(map(_described, (values[name] for name in names)))


def _described(flag: flags.Flag) -> str:
  """A flag, what it is for, its values and its default."""
  name = f'--[no]{flag.name}' if flag.boolean else f'--{flag.name}'
  short = f', -{flag.short_name}' if flag.short_name else ''
  text = _split(flag.help)[1]
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
