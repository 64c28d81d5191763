"""Parts that command line programs share: reading flags, and errors of one line."""

import ast
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax.cli import console
from compress_jax.cli.flag_types import expanded, is_path
from compress_jax.errors import CodecError
from compress_jax.runtime import jax_settings

PATHS = ('model', 'tables')  # Options of methods that name files.
_HOSTS = ('coordinator',)  # Flags that name machines.
# The folders of a path after a colon, or after '=' or a comma if it does not begin with a name.
_FOLDERS = re.compile(r'(?<=:)[^,=:]*/|(?<=[=,])(?:~|\.{1,2}|\$\w+)?/(?:[^,=:]*/)?')

# The text that stands before the flags in --help, or a function that returns the whole text.
Manual = str | None | Callable[[flags.FlagValues], str]


def parse(
  values: flags.FlagValues, manual: Manual, argv: Sequence[str] | None = None
) -> flags.FlagValues:
  """Reads the command line into `values`.

  Raises:
    flags.Error: a flag is unknown, repeated, empty or has a wrong value; the message names it.
    SystemExit: after --help has been shown.
  """
  rest = values(list(sys.argv if argv is None else argv))[1:]
  if values.help:
    print(manual(values) if callable(manual) else f'{manual}\n{values.get_help()}')
    raise SystemExit(0)
  if rest:
    raise flags.Error(f'unexpected argument {rest[0]!r}: every value goes with a --flag')
  for name in values:
    _check_given(values[name])
  return values


def _check_given(flag: flags.Flag) -> None:
  """Raises flags.Error if a flag has no value, or has several where one is allowed."""
  several = isinstance(flag, flags.MultiFlag)
  if flag.present > 1 and not several:
    raise flags.Error(f'--{flag.name} is given {flag.present} times, and takes one value')
  given = flag.value if isinstance(flag.value, list) else [flag.value]
  if flag.present and (not given or any(isinstance(v, str) and not v.strip() for v in given)):
    raise flags.Error(f'--{flag.name} is empty')


def command_line(program: str, values: flags.FlagValues) -> str:
  """Returns the command of a program with the flags that were given, but without folders.

  Flags whose value is a path are left out. In other values, a path after a colon, or one that
  begins with a slash, '~', '.' or '$', keeps its last part.
  """
  given = [values[name] for name in values if values[name].present]
  texts = [flag.serialize() for flag in given if not is_path(flag) and flag.name not in _HOSTS]
  words = [_FOLDERS.sub('', word) for text in texts for word in text.split('\n')]
  return ' '.join([program, *map(shlex.quote, words)])


def guarded(program: str, body: Callable[[], int]) -> int:
  """Runs `body` and returns its exit status; errors that a user can cause print one line.

  The status is 2 for errors of flags, 1 for other errors and 130 for an interrupt.
  """
  console.open_closed()
  with console.forgiving(), jax_settings.usual_promotion():
    status = _status(program, body)
    try:
      sys.stdout.flush()
    except OSError as error:
      return _fail(program, named(error), status or 1)
    return status


def _status(program: str, body: Callable[[], int]) -> int:
  try:
    return body()
  except SystemExit as stop:
    return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
  except flags.Error as error:
    return _fail(program, f'{error} (--help shows the flags)', 2)
  except CodecError as error:
    return _fail(program, str(error), 1)
  except OSError as error:
    return _fail(program, named(error), 1)
  except KeyboardInterrupt:
    return _fail(program, 'interrupted', 130)
  except Exception:
    if (reason := jax_settings.no_device()) is None:
      raise
    return _fail(program, reason, 1)


def named(error: OSError) -> str:
  """Returns the message of an error with the name of its file; the target where it has two."""
  name = error.filename2 or error.filename
  return f'{os.fspath(name)}: {error.strerror}' if name else str(error)


def settings(pairs: Sequence[str]) -> dict[str, Any]:
  """Returns key=value options as keyword arguments.

  Values are Python literals, true or false; all others are strings.

  Raises:
    flags.Error: there is no `=`, or a key is repeated.
  """
  keywords: dict[str, Any] = {}
  for pair in pairs:
    key, equals, value = pair.partition('=')
    if not equals or not key.isidentifier() or key in ('method', 'lmbda'):
      raise flags.Error(f'--set={pair} is not of the form key=value, with the name of an option')
    if key in keywords:
      raise flags.Error(f'--set={key}=... is given twice')
    try:
      keywords[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
      keywords[key] = {'true': True, 'false': False}.get(value.lower(), value)
    if key in PATHS and isinstance(keywords[key], str):
      keywords[key] = expanded(keywords[key])
  return keywords


def options(values: flags.FlagValues) -> dict[str, Any]:
  """Returns the options of a method that --set, --refine and --model ask for.

  Raises:
    flags.Error: two flags set the same option, or the method does not have it.
  """
  chosen = settings(values.set)
  for name in ('refine', 'model', 'seed'):
    if name in chosen and values[name].present:
      raise flags.Error(f'--{name} and --set={name}=... exclude each other')
  if values.refine:
    if values.method == 'kmeans':
      raise flags.Error('--refine is for cae, gan and gmm; kmeans has --set=refine=...')
    chosen['refine'] = values.refine
  return {**chosen, 'model': values.model} if values.model else chosen


def check_new(output: Path, *, force: bool) -> None:
  """Raises CodecError if a file cannot be written; to be called before its contents are computed.

  An existing file counts as writable only with `force`.
  """
  if output.is_dir():
    raise CodecError(f'{output} is a folder')
  if output.exists() and not force:
    raise CodecError(f'{output} exists; --force overwrites it')
  folder = next(parent for parent in output.absolute().parents if parent.exists())
  if not folder.is_dir():
    raise CodecError(f'{output} cannot be written: {folder} is no folder')
  if not os.access(folder, os.W_OK):
    raise CodecError(f'{output} cannot be written: {folder} cannot be written to')


def _fail(program: str, message: str, status: int) -> int:
  print(f'{program}: error: {" ".join(message.split())}', file=sys.stderr)
  return status
