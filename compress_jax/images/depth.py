"""Conversion of samples of more than 8 bits to 8: round(v * 255 / max).

Where a decoder gives only 8 bits (AVIF and HEIC, JPEG XL in colour), its result is used: JPEG XL
is then truncated, not rounded, and at most one level lower.
"""

import io
import sys
from typing import Any, BinaryIO

import numpy as np
from PIL import Image as PILImage
from PIL import TiffImagePlugin

from compress_jax.codec import CodecError
from compress_jax.images.header import Facts
from compress_jax.runtime.extras import require

_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
_ORIENTATION = 274


def to_8_bits(file: BinaryIO, picture: PILImage.Image | None, facts: Facts) -> PILImage.Image:
  """Returns the picture with 8 bits per sample, its metadata kept.

  Args:
    file: the complete file.
    picture: as Pillow opens it, not loaded yet; None for a TIFF that it cannot open.
    facts: the result of `containers.facts`.

  Raises:
    CodecError: float samples lie outside 0..1, or nothing decodes them.
  """
  if picture is None or (picture.format == 'TIFF' and facts.floats):
    return _picture(_rounded(*_by_tifffile(file), None), *_tags(file))
  info, orientation = dict(picture.info), picture.getexif().get(_ORIENTATION, 1)
  if picture.mode.startswith(('I', 'F')):
    values, most = _grey(picture, facts)
  elif picture.format in ('PNG', 'TIFF') and (both := _two_bytes(file, picture)) is not None:
    values, most = both, 65535
  elif picture.format == 'TIFF' and not _raw_mode(picture).startswith('RGBa'):
    values, most = _by_tifffile(file)
  elif picture.format == 'JPEG2000':
    values, most = _by_imagecodecs(file, picture, facts)
  else:
    return picture
  return _picture(_rounded(values, most, info.pop('transparency', None)), info, orientation)


def spread(picture: PILImage.Image, facts: Facts) -> PILImage.Image:
  """Returns a JPEG 2000 of fewer than 8 bits with its samples scaled to 0..255.

  Pillow shifts them to the highest bits instead. Other pictures are returned as they are.
  """
  bands = len(picture.getbands())
  if picture.format != 'JPEG2000' or min(facts.depths) >= 8 or picture.mode in ('P', 'PA'):
    return picture
  levels, table = np.arange(256), []
  for bits in (facts.depths * bands)[:bands]:
    table.append(np.rint((levels >> max(8 - bits, 0)) * 255 / (2 ** min(bits, 8) - 1)))
  return picture.point(np.concatenate(table).astype(int).tolist())


def _rounded(values: np.ndarray, most: float, key: tuple[int, ...] | int | None) -> np.ndarray:
  """Returns u8[H, W, C] of samples up to `most`.

  Where `key` is a colour, an alpha channel is added in which its pixels are transparent.
  """
  values = values if values.ndim == 3 else values[..., None]
  if values.dtype.kind == 'f' and not (values.min() >= 0 and values.max() <= most):
    low, high = values.min(), values.max()
    raise CodecError(f'float samples from {low:g} to {high:g}; only 0 to 1 have a meaning here')
  table = np.rint(np.arange(2**16) * (255 / most)) if most < 2**16 else None
  if table is not None and values.dtype.kind == 'u':
    pixels = table[values]
  else:
    pixels = np.rint(values.astype(np.float64) * (255 / most))
  if key is not None:
    pixels = np.dstack([pixels, 255 * (values != np.array(key)).any(-1)])
  return pixels.astype(np.uint8)


def _picture(pixels: np.ndarray, info: dict, orientation: int) -> PILImage.Image:
  channels = pixels.shape[2]
  picture = PILImage.fromarray(pixels if channels > 1 else pixels[..., 0])
  assert picture.mode == _MODES[channels]
  picture.info = info
  picture.getexif()[_ORIENTATION] = orientation
  return picture


def _grey(picture: PILImage.Image, facts: Facts) -> tuple[np.ndarray, float]:
  """Returns samples and their largest value, of a picture in one of Pillow's wide modes."""
  values, bits = np.asarray(picture), facts.depths[0]
  if isinstance(picture, TiffImagePlugin.TiffImageFile):
    values, most = values.view(np.uint32) if bits == 32 else values, 2**bits - 1
    white_is_0 = picture.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    return (most - values if white_is_0 else values), most
  if picture.mode == 'F':
    return values, 1.0
  if picture.format == 'PPM':  # Pillow stretches what it reads to 16 bits.
    return np.rint(values * (facts.most / 65535)).astype(np.uint16), facts.most
  if picture.format == 'JPEG2000':  # Pillow shifts the samples to the highest bits.
    return values >> (16 - bits), 2**bits - 1
  return values, 65535


def _two_bytes(file: BinaryIO, picture: PILImage.Image) -> np.ndarray | None:
  """Returns u16[H, W, C] of a colour file of 16 bits, of which Pillow keeps one byte.

  Read in the other byte order, Pillow keeps the other byte. Returns None where that is impossible.
  """
  file.seek(0)
  other: Any = PILImage.open(io.BytesIO(file.read()), formats=[picture.format or ''])
  if picture.mode == 'LA':
    return _grey_and_alpha(other)
  raw = _raw_mode(other)
  if raw not in {f'{picture.mode};16{order}' for order in 'BLN'} or _has_planes(other):
    return None
  big = raw.endswith('B') or (raw.endswith('N') and sys.byteorder == 'big')
  swapped = raw[:-1] + ('L' if big else 'B')
  other.tile = [
    tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
    for tile in other.tile
  ]
  high, low = (np.asarray(each).astype(np.uint16) for each in (picture, other))
  return high << 8 | low


def _grey_and_alpha(other: Any) -> np.ndarray | None:
  """Returns a PNG's two samples of 16 bits, read as four of 8."""
  if other.format != 'PNG':
    return None
  other._mode = 'RGBA'
  other.tile = [tile._replace(args='RGBA') for tile in other.tile]
  return np.asarray(other).copy().view('>u2').astype(np.uint16)


def _has_planes(picture: Any) -> bool:
  """Returns whether a TIFF stores its channels one after the other, which Pillow may misread."""
  return picture.format == 'TIFF' and picture.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2


def _raw_mode(picture: Any) -> str:
  """Returns the mode by which Pillow will unpack the samples; empty where planes differ."""
  modes = {tile.args[0] if isinstance(tile.args, tuple) else tile.args for tile in picture.tile}
  return str(modes.pop()) if len(modes) == 1 else ''


def _by_tifffile(file: BinaryIO) -> tuple[np.ndarray, float]:
  """Returns samples and their largest value, of the first page of a TIFF."""
  page = _page(file)
  if page.photometric not in (0, 1, 2):
    raise CodecError(f'colours of TIFF number {page.photometric}; convert it to RGB first')
  try:
    values = page.asarray()
  except ValueError as error:  # A compression that tifffile does not support.
    raise CodecError(f'its samples cannot be decoded ({error})') from error
  if page.axes[0] == 'S':
    values = np.moveaxis(values, 0, -1)
  most = 1.0 if values.dtype.kind == 'f' else 2**page.bitspersample - 1
  return (most - values if page.photometric == 0 else values), most


def _page(file: BinaryIO) -> Any:
  import tifffile  # Rarely needed.

  file.seek(0)
  return tifffile.TiffFile(io.BytesIO(file.read())).pages.first


def _by_imagecodecs(
  file: BinaryIO, picture: PILImage.Image, facts: Facts
) -> tuple[np.ndarray, float]:
  """Returns samples and their largest value, of a JPEG 2000 in colour.

  Without imagecodecs they come from Pillow, which gives 8 bits and turns the brightest to 0.
  """
  try:
    require('formats', 'imagecodecs')
  except CodecError as error:
    values = np.asarray(picture)
    if not values.all():
      raise CodecError(f'Pillow gives the brightest of its samples as black; {error}') from error
    return values, 255
  import imagecodecs

  if len(set(facts.depths)) > 1:
    raise CodecError('channels of different depths; convert it to 8 bits first')
  file.seek(0)
  return imagecodecs.jpeg2k_decode(file.read()), 2 ** facts.depths[0] - 1


def _tags(file: BinaryIO) -> tuple[dict, int]:
  """Returns the metadata of a TIFF that Pillow cannot open: colour profile and orientation."""
  tags = _page(file).tags
  return {'icc_profile': tags.valueof(34675)}, int(tags.valueof(_ORIENTATION, 1))
