"""Records that --json prints: one line of JSON on standard output for each file."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from compress_jax.cli.command import named
from compress_jax.codec import CodecError


def write(record: Mapping[str, Any]) -> None:
  """Prints one line of JSON; numbers that are not finite become null, as JSON has none."""
  print(json.dumps({key: _finite(value) for key, value in record.items()}), flush=True)


def failed(file: str, line: str) -> None:
  """Prints the record of a file that failed; `line` is the error message."""
  write({'file': file, 'error': line.removeprefix(f'{file}: ')})


def failed_line(line: str) -> None:
  """Prints the record of an error message that begins with the name of a file and a colon."""
  parts = line.split(': ')
  names = [': '.join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]
  failed(next(filter(os.path.lexists, names), parts[0]), line)  # A name may hold a colon.


class FileError(CodecError):
  """An error of one file, whose name is the attribute `file`."""

  def __init__(self, message: str, file: str) -> None:
    """Binds a message of one line to the name of a file."""
    super().__init__(message)
    self.file = file


@contextlib.contextmanager
def failing(file: str, *, json: bool) -> Iterator[None]:
  """Prints errors that pass through as records, if `json` is set; raises them again.

  A `FileError` names its file; other errors are those of `file`.
  """
  try:
    yield
  except (CodecError, OSError) as error:
    if json:
      file = getattr(error, 'file', file)
      failed(file, named(error) if isinstance(error, OSError) else str(error))
    raise


def _finite(value: Any) -> Any:
  return None if isinstance(value, float) and not math.isfinite(value) else value
