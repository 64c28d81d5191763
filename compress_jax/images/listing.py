"""Which files of a folder are taken, one rule for compressing, measuring and training.

Taken are files whose suffix is that of a format that is read, and files without a suffix that
begin as a picture does. What else looks like a picture is reported, never passed over in
silence. Hidden files and folders are left out. Links to folders are followed, each folder is
read once.
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

Report = Callable[[str], None]  # Takes one line.

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
  """Reports by `logging`, where nobody else listens."""
  logging.getLogger(__name__).warning('%s', line)


def find_images(root: str | Path, *, report: Report = warn) -> list[Path]:
  """Every image file under a folder, in natural order; a single file is a list of one.

  Args:
    root: the folder or the file.
    report: takes a line for each file or folder that is left out though it may hold a picture.

  Raises:
    CodecError: nothing is there.
  """
  root = Path(root)
  if root.is_dir():
    told: list[str] = []

    def tell(line: str) -> None:
      told.append(line)
      report(line)

    found = [path for path in walk(root, tell) if _is_image(path, tell)]
    if not found:
      more = f' (and {len(told) - 1} more)' if len(told) > 1 else ''
      raise CodecError(f'{root}: no images in this folder{f": {told[0]}{more}" if told else ""}')
    return sorted(found, key=lambda path: natural(path.relative_to(root).as_posix()))
  if not root.exists():
    raise CodecError(f'{root}: no such file or folder')
  return [root]


def renamed(paths: list[Path], suffix: str) -> list[Path]:
  """Another suffix for each path, beside its own one where two would meet."""
  long: set[Path] = set()
  while True:
    names = [p.with_name(p.name + suffix) if p in long else p.with_suffix(suffix) for p in paths]
    counts = Counter(names)
    meeting = {path for path, name in zip(paths, names, strict=True) if counts[name] > 1}
    if meeting <= long:
      return names
    long |= meeting


def natural(text: str) -> list[tuple[int, str]]:
  """A sorting key by which image2 comes before image10."""
  parts = re.split(r'(\d+)', text.lower())
  return [(int(p), p) if i % 2 else (0, p) for i, p in enumerate(parts)] + [(0, text)]


def walk(root: Path, report: Report) -> Iterator[Path]:
  """Every visible file under a folder; folders that cannot be read are reported.

  Links to folders come after all folders proper, so that these give their files their names.
  """
  above = {_identity(folder) for folder in (root.resolve(), *root.resolve().parents)}
  seen: set[tuple[int, int] | None] = set()
  links: list[Path] = []
  folders = [root]
  while folders or links:
    folder = folders.pop() if folders else links.pop(0)
    if _identity(folder) in seen:
      continue
    if folder != root and _identity(folder) in above:
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
    found = folder.stat()
  except OSError:
    return None
  return found.st_dev, found.st_ino


def _is_image(path: Path, report: Report) -> bool:
  """Whether a file is taken; reports one that is not, but looks like a picture."""
  named = SUFFIXES.fullmatch(path.suffix) is not None
  try:
    regular = stat.S_ISREG(path.stat().st_mode)
  except OSError as error:
    if not named:  # It may be a link to a folder of pictures.
      report(f'{path}: cannot be read ({error.strerror})')
    return named  # Reading it will say what is wrong.
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
      alike = containers.looks_like_an_image(file.read(containers.HEAD))
  except OSError as error:
    report(f'{path}: cannot be read ({error.strerror})')
    return False
  if alike and not path.suffix:
    return True
  if known or alike:
    report(f'{path}: looks like an image, but {path.suffix} files are not read')
  return False
