"""IMAGE out: lossless picture files, and files that are complete or not there."""

import contextlib
import io
import os
import secrets
import shutil
from pathlib import Path

from PIL import Image as PILImage

from compress_jax.codec import CodecError, Image

LOSSLESS: dict[str, tuple[str, dict[str, object]]] = {
  '.png': ('PNG', {}),
  '.ppm': ('PPM', {}),
  '.bmp': ('BMP', {}),
  '.tif': ('TIFF', {'compression': 'tiff_adobe_deflate'}),
  '.tiff': ('TIFF', {'compression': 'tiff_adobe_deflate'}),
  '.webp': ('WEBP', {'lossless': True}),
}


def image_bytes(image: Image, suffix: str = '.png') -> bytes:
  """The file of an image in a lossless format; grey where its channels are all equal.

  Raises:
    CodecError: the suffix is no lossless format, or the format cannot hold the image.
  """
  if suffix.lower() not in LOSSLESS:
    raise CodecError(f'cannot write {suffix or "files without a suffix"} without loss; use .png')
  format, options = LOSSLESS[suffix.lower()]
  grey = bool((image == image[..., :1]).all())
  out = io.BytesIO()
  try:
    PILImage.fromarray(image[..., 0] if grey else image).save(out, format, **options)
  except Exception as error:  # Pillow's plugins have no common error.
    raise CodecError(f'{format} cannot store this image ({error})') from error
  return out.getvalue()


def save_image(path: str | Path, image: Image, *, overwrite: bool = False) -> None:
  """Writes u8[H, W, 3] to a lossless format chosen by the suffix, all or nothing."""
  write_atomically(path, image_bytes(image, Path(path).suffix), overwrite=overwrite)


def write_atomically(
  path: str | Path, data: bytes, *, overwrite: bool = False, source: str | Path | None = None
) -> None:
  """Writes a file that is either complete or not there.

  The bytes go to a temporary file beside the target, which then takes its name. A symlink is
  followed, so it stays a link; a pipe or a device is written to directly.

  Args:
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
  """Makes a rename survive a power cut, where the system lets folders be synced."""
  with contextlib.suppress(OSError):
    handle = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)
