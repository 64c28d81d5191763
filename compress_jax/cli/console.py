"""Standard streams of programs: closed, broken or full ones cost one line, and never a result."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


def open_closed() -> None:
  """Gives the program streams in place of those that were closed when it started.

  Input and output fail as closed ones do; what goes to standard error is dropped. They also keep
  the numbers 0 to 2 from the next files that are opened, to which libraries would then write.
  """
  if sys.stdin is None:
    sys.stdin = _null(os.O_WRONLY, 'r')
  if sys.stdout is None:
    sys.stdout = _null(os.O_RDONLY, 'w')
  if sys.stderr is None:
    sys.stderr = _null(os.O_WRONLY, 'w')


def _null(flags: int, mode: str) -> Any:
  """A stream of the null device, opened for the other direction where it is to fail."""
  number = os.open(os.devnull, flags)
  if number <= 2:
    os.set_inheritable(number, True)  # As standard streams are.
  return open(number, mode, errors='backslashreplace')


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
  """Within, printing loses nothing and stops nothing that a person still wants.

  What an encoding lacks is written as an escape. A reader who has gone (`| head`) stops no work:
  the rest is dropped. An output that fails otherwise raises OSError, which names it.
  """
  out, err = _Forgiving(sys.stdout, required=True), _Forgiving(sys.stderr, required=False)
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # type: ignore[type-var]
    yield


class _Forgiving:
  """A text stream that drops what cannot be delivered."""

  def __init__(self, stream: Any, *, required: bool) -> None:
    self._stream, self._required, self._gone = stream, required, False

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    encoding = getattr(self._stream, 'encoding', None)
    if encoding:
      text = text.encode(encoding, 'backslashreplace').decode(encoding)
    self._deliver(lambda: self._stream.write(text))
    return len(text)

  def writelines(self, lines: Any) -> None:
    for line in lines:
      self.write(line)

  def flush(self) -> None:
    self._deliver(self._stream.flush)

  def _deliver(self, send: Callable[[], Any]) -> None:
    if self._gone:
      return
    try:
      send()
    except OSError as error:
      self._gone = True
      _discard(self._stream)
      if self._required and not isinstance(error, BrokenPipeError):
        raise _named(error, 'standard output') from error


def _discard(stream: Any) -> None:
  """Points a stream that fails at the null device, or the end of the program would fail too."""
  with contextlib.suppress(AttributeError, OSError, ValueError):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def receive() -> bytes:
  """All of standard input.

  Raises:
    OSError: it is closed; the error names it.
  """
  try:
    return sys.stdin.buffer.read()
  except OSError as error:
    raise _named(error, 'standard input') from error


def send(data: bytes) -> None:
  """Writes to standard output.

  Raises:
    OSError: not all of it was delivered; the error names the stream.
  """
  try:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
  except OSError as error:
    _discard(sys.stdout)
    raise _named(error, 'standard output') from error


def _named(error: OSError, stream: str) -> OSError:
  """The error of a stream, with the name of that and a reason in plain words."""
  reasons = {errno.EBADF: 'it is closed', errno.EPIPE: 'nobody reads it'}
  return OSError(error.errno, reasons.get(error.errno or 0, error.strerror), stream)
