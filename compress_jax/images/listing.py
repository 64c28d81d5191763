"""The listing of a folder's image files: one rule for compressing, measuring and training.

Listed are files with the suffix of a readable format, and files without a suffix whose first bytes
are those of a picture. Other files that look like pictures are reported. Hidden files and folders
are skipped. Links to folders are followed, and each folder is read once.
"""

import logging
import mimetypes
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from compress_jax.codec import CodecError
from compress_jax.images import containers

Report = Callable[[str], None]  # It receives one line.

SUFFIXES = re.compile(
  r'\.(a?png|jpe?g|jpe|jfif|webp|bmp|dib|tiff?|p[pgbn]m|pfm|gif|jp2|j2k|j2c|jpc|jpx|jph|jhc|avifs?|'
  r'hei[cf]s?|hif|jxl)',
  re.IGNORECASE,
)
# Cameras' raw files and other pictures, which `mimetypes` does not know.
OTHERS = re.compile(
  r'\.(3fr|ar[wq]|cr[23w]|dcr|dng|erf|fff|iiq|k25|kdc|mef|mos|mrw|ne[fv]|nrw|orf|pef|raf|raw|rw2|'
  r'rwl|sr[2fw]|x3f|exr|hdr|dds|tga|ps[db]|xcf|qoi|sgi|icns|pam|jxr|wdp|hdp|bpg|flif|jls|dcm|fits?)',
  re.IGNORECASE,
)


def warn(line: str) -> None:
  """Logs a line as a warning: the default report."""
  logging.getLogger(__name__).warning('%s', line)


def find_images(root: str | Path, *, report: Report = warn) -> list[Path]:
  """Returns every image file under a folder, in natural order; a single file is a list of one.

  Args:
    root: the folder or the file.
    report: receives a line for each file or folder that is skipped though it may hold a picture.

  Raises:
    CodecError: there is no such file or folder, or no image in it.
  """
  root = Path(root)
  if root.is_dir():
    skipped: list[str] = []

    def report_and_keep(line: str) -> None:
      skipped.append(line)
      report(line)

    paths = [path for path in walk(root, report_and_keep) if _is_image(path, report_and_keep)]
    if not paths:
      more = f' (and {len(skipped) - 1} more)' if len(skipped) > 1 else ''
      reason = f': {skipped[0]}{more}' if skipped else ''
      raise CodecError(f'{root}: no images in this folder{reason}')
    return sorted(paths, key=lambda path: natural(path.relative_to(root).as_posix()))
  if not root.exists():
    raise CodecError(f'{root}: no such file or folder')
  return [root]


def renamed(paths: list[Path], suffix: str) -> list[Path]:
  """Returns each path with another suffix; where two would be equal, it is appended instead."""
  appended: set[Path] = set()
  while True:
    names = [
      p.with_name(p.name + suffix) if p in appended else p.with_suffix(suffix) for p in paths
    ]
    counts = Counter(names)
    clashing = {path for path, name in zip(paths, names, strict=True) if counts[name] > 1}
    if clashing <= appended:
      return names
    appended |= clashing


def natural(text: str) -> list[tuple[int, str]]:
  """Returns a sorting key by which image2 comes before image10."""
  parts = re.split(r'(\d+)', text.lower())
  return [(int(p), p) if i % 2 else (0, p) for i, p in enumerate(parts)] + [(0, text)]


def walk(root: Path, report: Report) -> Iterator[Path]:
  """Yields every visible file under a folder; folders that cannot be read are reported.

  Links to folders come after all real folders, so that files are listed by their real paths.
  """
  ancestors = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
  seen: set[tuple[int, int] | None] = set()
  links: list[Path] = []
  folders = [root]
  while folders or links:
    folder = folders.pop() if folders else links.pop(0)
    if _identity(folder) in seen:
      continue
    if folder != root and _identity(folder) in ancestors:
      report(f'{folder}: a link to a folder that holds {root}; not followed')
      continue
    seen.add(_identity(folder))
    try:
      entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
      report(f'{folder}: folder cannot be read ({error.strerror})')
      continue
    for entry in entries:
      if entry.name.startswith('.'):
        continue
      path = folder / entry.name
      if not _is_folder(entry):
        yield path
      elif entry.is_symlink():
        links.append(path)
      else:
        folders.append(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # A link through a folder that cannot be read.
    return False


def _identity(folder: Path) -> tuple[int, int] | None:
  try:
    status = folder.stat()
  except OSError:
    return None
  return status.st_dev, status.st_ino


def _is_image(path: Path, report: Report) -> bool:
  """Returns whether a file is listed; reports one that is not, but looks like a picture."""
  named = SUFFIXES.fullmatch(path.suffix) is not None
  try:
    regular = stat.S_ISREG(path.stat().st_mode)
  except OSError as error:
    if not named:  # It may be a link to a folder of pictures.
      report(f'{path}: cannot be read ({error.strerror})')
    return named  # The error message comes when it is read.
  if not regular:
    if named:
      report(f'{path}: not a regular file')
    return False
  if named:
    return True
  guess = mimetypes.guess_type(path.name)[0] or ''
  known = OTHERS.fullmatch(path.suffix) is not None or guess.startswith('image/')
  try:
    with open(path, 'rb') as file:
      picture_bytes = containers.looks_like_an_image(file.read(containers.HEAD))
  except OSError as error:
    report(f'{path}: cannot be read ({error.strerror})')
    return False
  if picture_bytes and not path.suffix:
    return True
  if known or picture_bytes:
    report(f'{path}: looks like an image, but {path.suffix} files are not read')
  return False
