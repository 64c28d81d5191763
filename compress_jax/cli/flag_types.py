"""Types of flags that absl lacks: paths, positive numbers, and lists of numbers."""

import math
import os
from collections.abc import Sequence

from absl import flags

from compress_jax.errors import CodecError


def expanded(path: str) -> str:
  """Returns a path in which `~`, `~user`, `$NAME` and `${NAME}` are expanded.

  Shells expand few of them after `=`. The name of an existing file may contain a `$`, and is
  returned as it is.

  Raises:
    CodecError: the path begins with a user or a variable that does not exist.
  """
  full = os.path.expanduser(path)
  if not os.path.lexists(full):
    full = os.path.expandvars(full)
  if full.startswith(('~', '$')) and not os.path.lexists(full):
    first = full.split('/')[0]
    raise CodecError(f'{first} has no value here; ./{first} is a name that begins with it')
  return full


class _Path(flags.ArgumentParser):
  """A parser of paths, which it expands."""

  syntactic_help = 'a path'

  def parse(self, argument: str) -> str:
    return expanded(argument)

  def flag_type(self) -> str:
    return 'path'


def is_path(flag: flags.Flag) -> bool:
  """Returns whether the values of a flag are paths."""
  return isinstance(flag.parser, _Path)


class _Positive(flags.FloatParser):
  """A parser of finite numbers above 0."""

  syntactic_help = 'a positive number'

  def parse(self, argument: str | float) -> float:
    value: float = super().parse(argument)
    if not 0 < value < math.inf:
      raise ValueError('must be a positive number')
    return value


def define_path(name: str, default: str | None, text: str, flag_values: flags.FlagValues) -> None:
  """Defines a flag whose value is one path."""
  flags.DEFINE(_Path(), name, default, text, flag_values)


def define_paths(name: str, text: str, flag_values: flags.FlagValues) -> None:
  """Defines a flag that can be repeated, with one path each time."""
  flags.DEFINE_multi(_Path(), flags.ArgumentSerializer(), name, [], text, flag_values)


def define_positive(
  name: str, default: float | None, text: str, flag_values: flags.FlagValues
) -> None:
  """Defines a flag whose value is a finite number above 0."""
  flags.DEFINE(_Positive(), name, default, text, flag_values, flags.ArgumentSerializer())


def numbers(name: str, texts: Sequence[str]) -> list[float]:
  """Returns the values of a list flag as floats.

  Raises:
    flags.Error: one of the texts is no number.
  """
  try:
    return [float(text) for text in texts]
  except ValueError as error:
    raise flags.Error(f'--{name}: {error}') from error
