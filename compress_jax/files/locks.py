"""A lock that lets one program at a time use a folder."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from compress_jax.codec import CodecError
from compress_jax.files.atomic import write_atomically

LOCK, HOLDER = '.lock', '.holder.json'


@contextmanager
def held(folder: Path) -> Iterator[None]:
  """Locks a folder inside the `with` block; the folder is made if it does not exist.

  The lock is one of the operating system, which releases it when the process ends for any reason.

  Raises:
    CodecError: another program holds the lock.
  """
  folder.mkdir(parents=True, exist_ok=True)
  lock = FileLock(folder / LOCK)
  try:
    lock.acquire(timeout=0)
  except Timeout as error:
    raise CodecError(
      f'{folder} is in use by {_holder(folder)}: wait for its end, or choose another folder'
    ) from error
  try:
    about = {'pid': os.getpid(), 'host': socket.gethostname(), 'since': time.strftime('%F %T %z')}
    write_atomically(folder / HOLDER, json.dumps(about).encode(), overwrite=True)
    yield
  finally:
    (folder / HOLDER).unlink(missing_ok=True)
    lock.release()


def _holder(folder: Path) -> str:
  """Returns a description of the process that holds a folder's lock."""
  with suppress(OSError, ValueError, KeyError, TypeError):
    about = json.loads((folder / HOLDER).read_text())
    return f'process {about["pid"]} on {about["host"]} since {about["since"]}'
  return 'another program'
