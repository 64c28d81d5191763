"""A line on the terminal that shows the progress of long work."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from compress_jax.codec import Progress

QUIET = 1.0  # Seconds that work may take before anything is shown.
PERIOD = 0.2  # Seconds between two looks at how far it is.
COUNTED = '{desc}: {n_fmt}/{total_fmt} |{bar:20}| {elapsed}'
UNCOUNTED = '{desc} {elapsed}'


@contextlib.contextmanager
def shown(what: str) -> Iterator[Progress]:
  """Shows the progress of the work inside the context on standard error, until the work ends.

  The elapsed time is shown also while the work reports no progress, such as while XLA compiles.
  Nothing is shown for work that is quick, or where standard error is not a terminal.

  Args:
    what: the name of the work, such as that of a file. Of a name that takes more than half a line
      its end is shown.

  Yields:
    A function that the work calls to report its progress.
  """
  latest: list[tuple[str, int, int]] = [('', 0, 0)]

  def report(stage: str, done: int, total: int) -> None:
    latest[0] = stage, done, total

  if not sys.stderr.isatty():
    yield report
    return
  ended = threading.Event()
  thread = threading.Thread(target=_show, args=(what, latest, ended, sys.stderr), daemon=True)
  thread.start()
  try:
    yield report
  finally:
    ended.set()
    thread.join()


def _show(
  what: str, latest: list[tuple[str, int, int]], ended: threading.Event, stream: Any
) -> None:
  """Draws the progress in `latest` until the work ends."""
  if ended.wait(QUIET):
    return
  columns = _columns(stream)
  what = _end_of(what, max(columns // 2, 8))
  size = {'ncols': columns, 'nrows': 2}
  with tqdm(desc=what, leave=False, file=stream, bar_format=UNCOUNTED, **size) as bar:
    bar.start_t -= QUIET
    while not ended.wait(PERIOD):
      stage, bar.n, total = latest[0]
      bar.total, bar.bar_format = total or None, COUNTED if total > 1 else UNCOUNTED
      bar.set_description_str(f'{what}: {stage}' if stage else what, refresh=False)
      bar.refresh()


def _end_of(name: str, length: int) -> str:
  """Returns a name of at most `length` characters, without the beginning of a longer one."""
  return name if len(name) <= length else f'...{name[3 - length :]}'


def _columns(stream: Any) -> int:
  """Returns the width of a terminal in columns; 80 where it is unknown."""
  try:
    return os.get_terminal_size(stream.fileno()).columns or 80
  except (OSError, ValueError):
    return 80
