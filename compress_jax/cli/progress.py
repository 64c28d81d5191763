"""What takes long shows on a terminal how far it is; elsewhere nothing is shown."""

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
  """Shows on standard error how far the work within is, and removes it when the work ends.

  The time that has passed is shown also where the work does not say how far it is, such as while
  XLA compiles. Nothing is shown of work that is quick, or where standard error is no terminal.

  Args:
    what: names the work, such as a file.

  Yields:
    A function for the work to say how far it is.
  """
  latest: list[tuple[str, int, int]] = [('', 0, 0)]

  def told(stage: str, done: int, total: int) -> None:
    latest[0] = stage, done, total

  if not sys.stderr.isatty():
    yield told
    return
  ended = threading.Event()
  thread = threading.Thread(target=_show, args=(what, latest, ended, sys.stderr), daemon=True)
  thread.start()
  try:
    yield told
  finally:
    ended.set()
    thread.join()


def _show(
  what: str, latest: list[tuple[str, int, int]], ended: threading.Event, stream: Any
) -> None:
  """Draws `latest` until the work ends."""
  if ended.wait(QUIET):
    return
  size = {'ncols': _columns(stream), 'nrows': 2}
  with tqdm(desc=what, leave=False, file=stream, bar_format=UNCOUNTED, **size) as bar:
    bar.start_t -= QUIET
    while not ended.wait(PERIOD):
      stage, bar.n, total = latest[0]
      bar.total, bar.bar_format = total or None, COUNTED if total > 1 else UNCOUNTED
      bar.set_description_str(f'{what}: {stage}' if stage else what, refresh=False)
      bar.refresh()


def _columns(stream: Any) -> int:
  """Returns the width of a terminal; 80 where it does not tell, as where a program holds it."""
  try:
    return os.get_terminal_size(stream.fileno()).columns or 80
  except (OSError, ValueError):
    return 80
