"""Records that --json prints: one line of JSON on standard output for each file."""

import contextlib
import json
import math
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
  failed(line.partition(': ')[0], line)


@contextlib.contextmanager
def failing(file: str, *, json: bool) -> Iterator[None]:
  """Prints errors that pass through as records of `file`, if `json` is set; raises them again."""
  try:
    yield
  except (CodecError, OSError) as error:
    if json:
      failed(file, named(error) if isinstance(error, OSError) else str(error))
    raise


def _finite(value: Any) -> Any:
  return None if isinstance(value, float) and not math.isfinite(value) else value
