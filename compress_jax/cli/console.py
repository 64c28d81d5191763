"""Standard streams of programs: a closed, broken or full one costs a message, never a result."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


def open_closed() -> None:
  """Opens the null device in place of standard streams that were closed when the program started.

  Input and output still fail as closed streams do; output to standard error is dropped. The
  numbers 0 to 2 are then in use: otherwise the next files that are opened would get them, and
  libraries would write to those files.
  """
  if sys.stdin is None:
    sys.stdin = _null(os.O_WRONLY, 'r')
  if sys.stdout is None:
    sys.stdout = _null(os.O_RDONLY, 'w')
  if sys.stderr is None:
    sys.stderr = _null(os.O_WRONLY, 'w')


def _null(flags: int, mode: str) -> Any:
  """Returns a stream of the null device with the `flags` of os.open and the `mode` of a file.

  A stream whose flags and mode name opposite directions fails when it is used.
  """
  number = os.open(os.devnull, flags)
  if number <= 2:
    os.set_inheritable(number, True)  # As standard streams are.
  return open(number, mode, errors='backslashreplace')


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
  """Replaces standard output and standard error by streams that survive a broken reader.

  Characters that an encoding lacks are written as escapes. Where the reader has ended (`| head`),
  the rest of the output is dropped and the program goes on. Other failures of standard output
  raise OSError, which names the stream.
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
  """Redirects a stream that fails to the null device, so that the flush at exit does not fail."""
  with contextlib.suppress(AttributeError, OSError, ValueError):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def receive() -> bytes:
  """Returns all bytes of standard input.

  Raises:
    OSError: standard input is closed; the error names it.
  """
  try:
    return sys.stdin.buffer.read()
  except OSError as error:
    raise _named(error, 'standard input') from error


def send(data: bytes) -> None:
  """Writes bytes to standard output.

  Raises:
    OSError: not all of them were delivered; the error names the stream.
  """
  try:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
  except OSError as error:
    _discard(sys.stdout)
    raise _named(error, 'standard output') from error


def _named(error: OSError, stream: str) -> OSError:
  """Returns the error with the name of its stream and a reason in plain words."""
  reasons = {errno.EBADF: 'it is closed', errno.EPIPE: 'nobody reads it'}
  return OSError(error.errno, reasons.get(error.errno or 0, error.strerror), stream)
