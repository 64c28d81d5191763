"""Types of flags that absl lacks: paths, positive numbers, and lists of numbers."""

import math
import os
from collections.abc import Sequence

from absl import flags

from compress_jax.codec import CodecError


def expanded(path: str) -> str:
  """A path with `~`, `~user`, `$NAME` and `${NAME}` in full; shells expand few of them after `=`.

  A file whose name holds a `$` is taken as it is.

  Raises:
    CodecError: it begins with something that has no value.
  """
  found = os.path.expanduser(path)
  if not os.path.lexists(found):
    found = os.path.expandvars(found)
  if found.startswith(('~', '$')) and not os.path.lexists(found):
    first = found.split('/')[0]
    raise CodecError(f'{first} has no value here; ./{first} is a name that begins with it')
  return found


class _Path(flags.ArgumentParser):
  """A path, in full."""

  syntactic_help = 'a path'

  def parse(self, argument: str) -> str:
    return expanded(argument)

  def flag_type(self) -> str:
    return 'path'


class _Positive(flags.FloatParser):
  """A number above 0."""

  syntactic_help = 'a positive number'

  def parse(self, argument: str | float) -> float:
    value: float = super().parse(argument)
    if not 0 < value < math.inf:
      raise ValueError('must be a positive number')
    return value


def define_path(name: str, default: str | None, text: str, flag_values: flags.FlagValues) -> None:
  """Defines a flag that takes one path."""
  flags.DEFINE(_Path(), name, default, text, flag_values)


def define_paths(name: str, text: str, flag_values: flags.FlagValues) -> None:
  """Defines a flag that takes a path each time that it is given."""
  flags.DEFINE_multi(_Path(), flags.ArgumentSerializer(), name, [], text, flag_values)


def define_positive(
  name: str, default: float | None, text: str, flag_values: flags.FlagValues
) -> None:
  """Defines a flag that takes a number above 0."""
  flags.DEFINE(_Positive(), name, default, text, flag_values)


def numbers(name: str, texts: Sequence[str]) -> list[float]:
  """Returns the numbers of a list flag.

  Raises:
    flags.Error: one of the texts is no number.
  """
  try:
    return [float(text) for text in texts]
  except ValueError as error:
    raise flags.Error(f'--{name}: {error}') from error
