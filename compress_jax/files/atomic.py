"""Atomic writes: a file is either complete or absent."""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from compress_jax.codec import CodecError


def write_atomically(
  path: str | Path, data: bytes, *, overwrite: bool = False, source: str | Path | None = None
) -> None:
  """Writes a file atomically: it is either complete or absent.

  The bytes go to a temporary file beside the target, which is then renamed. A symlink is
  followed, so it stays a link; a pipe or a device is written to directly.

  Args:
    path: the target.
    data: the content.
    overwrite: replaces an existing file.
    source: the file that the bytes were made from, which must not be overwritten.

  Raises:
    CodecError: the target exists and `overwrite` is False, is `source`, or cannot be written.
  """
  path = Path(path)
  try:
    if source is not None and path.exists() and path.samefile(source):
      raise CodecError(f'{path}: output and input are the same file')
    if path.exists() and not (path.is_file() or path.is_dir()):
      path.write_bytes(data)
    elif os.path.lexists(path) and not overwrite:
      raise CodecError(f'{path}: exists already; allow overwriting to replace it')
    else:
      _replace(Path(os.path.realpath(path)), data)
  except OSError as error:
    raise CodecError(f'{path}: cannot be written ({error.strerror or error})') from error


def _replace(path: Path, data: bytes) -> None:
  temporary = path.parent / f'.{secrets.token_hex(8)}.tmp'
  try:
    with open(temporary, 'xb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    if path.exists():
      shutil.copymode(path, temporary)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
  _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
  """Makes a rename survive a power failure, where the system can sync folders."""
  with contextlib.suppress(OSError):
    handle = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)
