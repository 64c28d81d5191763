"""Sets of images: files, folders, the Kodak suite, photographs of scikit-image.

Images are u8[H, W, 3] in sRGB. Functions that read and write single files are exported here too.
"""

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from compress_jax.codec import CodecError, Image
from compress_jax.images.kodak import kodak
from compress_jax.images.listing import Report, find_images, warn
from compress_jax.images.reading import load_image
from compress_jax.images.writing import image_bytes, save_image
from compress_jax.runtime.extras import require

__all__ = [
  'NamedImage',
  'centre_crop',
  'default_images',
  'find_images',
  'image_bytes',
  'kodak',
  'load_image',
  'photographs_at_hand',
  'sample_photographs',
  'save_image',
]

# Colour photographs in scikit-image's wheel; its other images are grey, synthetic or medical.
PHOTOGRAPHS = ('astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png', 'rocket.jpg')


class NamedImage(NamedTuple):
  """An image of a set: its name, and a function that reads it in whichever process calls it."""

  name: str  # Unique in its set; without the set's folder, and without a suffix if still unique.
  load: Callable[[], Image]


def centre_crop(image: Image, size: int = 256) -> Image:
  """Returns the middle `size` x `size` pixels; a side that is shorter is not cropped."""
  height, width = image.shape[:2]
  top, left = max(0, height - size) // 2, max(0, width - size) // 2
  return image[top : top + size, left : left + size]


def sample_photographs() -> list[tuple[str, Image]]:
  """Returns the colour photographs that scikit-image carries in its wheel."""
  return [(name, load()) for name, load in _named(_photographs())]


def photographs_at_hand() -> list[NamedImage]:
  """Returns the colour photographs of scikit-image, each read when it is needed."""
  return _named(_photographs())


def _photographs() -> list[Path]:
  require('train', 'skimage')
  spec = find_spec('skimage')
  folder = Path((spec and spec.origin) or '').parent / 'data'
  paths = [folder / name for name in PHOTOGRAPHS if (folder / name).is_file()]
  if not paths:
    raise CodecError('scikit-image carries no photographs; give a folder of images')
  return paths


def default_images(
  images: str | None = None,
  *,
  report: Report = warn,
  read: Callable[[str | Path], Image] = load_image,
) -> tuple[str, list[NamedImage]]:
  """Returns one line that says which images a comparison uses and why, and the images.

  Args:
    images: a folder or a file; by default the Kodak suite from $KODAK_DIR, from the cache or
      downloaded; without it the photographs of scikit-image.
    report: receives a line for each file of the folder that is skipped, see `find_images`.
    read: reads a file of the folder; it can be sent to another process.
  """
  if images is not None:
    named = _named(find_images(images, report=report), Path(images), read)
    return f'{len(named)} image{"s" * (len(named) > 1)} of {images}', named
  try:
    return 'the Kodak suite (24 images)', _named(kodak())
  except CodecError as error:
    if os.environ.get('KODAK_DIR'):
      raise  # A folder that the user named has no substitute.
    try:
      named = photographs_at_hand()
    except CodecError as other:
      raise CodecError(f'{error}; photographs in its place: {other}') from error
    return f'{len(named)} photographs of scikit-image, as {error}', named


def _named(
  paths: list[Path],
  root: Path | None = None,
  read: Callable[[str | Path], Image] = load_image,
) -> list[NamedImage]:
  names = [p.relative_to(root) if root and root.is_dir() else Path(p.name) for p in paths]
  short = [name.with_suffix('').as_posix() for name in names]
  unique = len(set(short)) == len(short)
  labels = short if unique else [name.as_posix() for name in names]
  return [NamedImage(n, partial(read, p)) for n, p in zip(labels, paths, strict=True)]
