"""What command line programs share: reading flags, and errors of one line."""

import ast
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from compress_jax.cli import console
from compress_jax.cli.flag_types import expanded
from compress_jax.codec import CodecError
from compress_jax.runtime import jax_settings

PATHS = ('model', 'tables')  # Options of methods that name files.

Manual = str | None | Callable[[flags.FlagValues], str]  # Or the whole text of --help.


def parse(
  values: flags.FlagValues, manual: Manual, argv: Sequence[str] | None = None
) -> flags.FlagValues:
  """Reads the command line into `values`.

  Raises:
    flags.Error: what is wrong with it.
    SystemExit: after showing the help that was asked for.
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
  """Raises flags.Error where a flag has no value, or takes one and was given several."""
  several = isinstance(flag, flags.MultiFlag)
  if flag.present > 1 and not several:
    raise flags.Error(f'--{flag.name} is given {flag.present} times, and takes one value')
  found = flag.value if isinstance(flag.value, list) else [flag.value]
  if flag.present and (not found or any(isinstance(v, str) and not v.strip() for v in found)):
    raise flags.Error(f'--{flag.name} is empty')


def guarded(program: str, body: Callable[[], int]) -> int:
  """Runs `body`; what a user can cause becomes one line and an exit status."""
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
  """Returns the file and what is wrong with it; of two files, the one that was to be made."""
  name = error.filename2 or error.filename
  return f'{os.fspath(name)}: {error.strerror}' if name else str(error)


def settings(pairs: Sequence[str]) -> dict[str, Any]:
  """key=value options as keywords: values are Python literals or true and false, else strings.

  Raises:
    flags.Error: there is no `=`, or a key comes twice.
  """
  found: dict[str, Any] = {}
  for pair in pairs:
    key, equals, value = pair.partition('=')
    if not equals or not key.isidentifier() or key in ('method', 'lmbda'):
      raise flags.Error(f'--set={pair} is not of the form key=value, with the name of an option')
    if key in found:
      raise flags.Error(f'--set={key}=... is given twice')
    try:
      found[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
      found[key] = {'true': True, 'false': False}.get(value.lower(), value)
    if key in PATHS and isinstance(found[key], str):
      found[key] = expanded(found[key])
  return found


def options(values: flags.FlagValues) -> dict[str, Any]:
  """The options of a method: those of --set, --refine and --model.

  Raises:
    flags.Error: they make no sense.
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
  """Raises CodecError where a file cannot be made, before the work that makes its contents."""
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
