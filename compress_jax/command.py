"""What command line programs share: reading flags, and errors of one line."""

import ast
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from compress_jax.codec import CodecError


def parse(
  values: flags.FlagValues, manual: str | None, argv: Sequence[str] | None = None
) -> flags.FlagValues:
  """Reads the command line into `values`.

  Raises:
    flags.Error: what is wrong with it.
    SystemExit: after showing the help that was asked for.
  """
  rest = values(list(sys.argv if argv is None else argv))[1:]
  if values.help:
    print(manual, values.get_help(), sep='\n')
    raise SystemExit(0)
  if rest:
    raise flags.Error(f'unexpected argument {rest[0]!r}: every value goes with a --flag')
  return values


def guarded(program: str, body: Callable[[], int]) -> int:
  """Runs `body`; what a user can cause becomes one line and an exit status."""
  try:
    return body()
  except flags.Error as error:
    return _fail(program, f'{error} (--help shows the flags)', 2)
  except CodecError as error:
    return _fail(program, str(error), 1)
  except OSError as error:
    text = f'{error.filename}: {error.strerror}' if error.filename else str(error)
    return _fail(program, text, 1)
  except KeyboardInterrupt:
    return _fail(program, 'interrupted', 130)


def settings(pairs: Sequence[str]) -> dict[str, Any]:
  """key=value options as keywords: values are Python literals or true and false, else strings.

  Raises:
    flags.Error: there is no `=`.
  """
  found = {}
  for pair in pairs:
    key, equals, value = pair.partition('=')
    if not equals or not key.isidentifier() or key in ('method', 'lmbda'):
      raise flags.Error(f'--set={pair} is not of the form key=value, with the name of an option')
    try:
      found[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
      found[key] = {'true': True, 'false': False}.get(value.lower(), value)
  return found


def options(values: flags.FlagValues) -> dict[str, Any]:
  """The options of a method: those of --set, --refine and --model.

  Raises:
    flags.Error: they make no sense.
  """
  chosen = settings(values.set)
  if values.refine:
    if values.method == 'kmeans':
      raise flags.Error('--refine is for cae, gan and gmm; kmeans has --set=refine=...')
    chosen['refine'] = values.refine
  return {**chosen, 'model': values.model} if values.model else chosen


def _fail(program: str, message: str, status: int) -> int:
  print(f'{program}: error: {" ".join(message.split())}', file=sys.stderr)
  return status
