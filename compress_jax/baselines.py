"""Classical codecs with the interface of `Codec`, through Pillow and its plugin for JPEG XL.

They have no parameters, so their Released is (). Their files are standard files of each format, and
the headers count. `CODECS` is the table of all that are compared: it maps a name to its label, its
factory and its operating points.
"""

import io
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import features

from compress_jax.codec import Codec, CodecError, Image, Released
from compress_jax.runtime.extras import require

MAX_PIXELS = 2**26
JXL_PLUGIN = 'pillow_jxl'  # Registers JPEG XL with Pillow when it is imported.


class Anchor(NamedTuple):
  """A classical codec and the operating points of its curve."""

  label: str  # Its name in tables and figures.
  factory: Callable[..., Codec]  # factory(quality=q)
  qualities: tuple[float, ...]  # In order of rising file size.
  variant: bool = False  # Another setting of a codec before it; figures of methods leave it out.


def png(*, quality: float = 9) -> Codec:
  """Returns PNG, which is lossless; `quality` is zlib's effort in 0..9 and changes no pixel."""
  _check('PNG', 'zlib', quality, 0, 9)
  return _codec('PNG', compress_level=round(quality))


def jpeg(*, quality: float, optimize: bool = True, subsampling: str = '4:2:0') -> Codec:
  """Returns baseline JPEG, quality 1..95; `optimize` fits the Huffman tables to the image."""
  _check('JPEG', 'jpg', quality, 1, 95)
  return _codec('JPEG', quality=round(quality), optimize=optimize, subsampling=subsampling)


def jpeg2000(*, quality: float) -> Codec:
  """Returns JPEG 2000 as a codestream, with the 9-7 wavelet; `quality` is the target bpp."""
  _check('JPEG 2000', 'jpg_2000', quality, 0.01, 24)

  def encode(released: Released, image: Image) -> bytes:
    del released
    # OpenJPEG refuses more resolutions than halvings of the shorter side.
    return _save(
      image,
      format='JPEG2000',
      no_jp2=True,
      irreversible=True,
      mct=1,
      quality_mode='rates',
      quality_layers=[24 / quality],
      num_resolutions=min(6, min(image.shape[:2]).bit_length()),
    )

  return Codec(encode, partial(_decode, 'JPEG2000'))


def webp(*, quality: float, method: int = 6) -> Codec:
  """Returns lossy WebP, quality 0..100; `method` is 0 (fastest) to 6 (smallest files).

  WebP always stores colour at half resolution, 4:2:0.
  """
  _check('WebP', 'webp', quality, 0, 100)
  return _codec('WEBP', quality=quality, method=method)


def avif(*, quality: float, speed: int = 6, subsampling: str = '4:2:0') -> Codec:
  """Returns AVIF by libaom, quality 0..100; `speed` is 0 (smallest files) to 10 (fastest).

  One thread encodes, because libaom's tiling depends on the number of threads.
  """
  _check('AVIF', 'avif', quality, 0, 100)
  return _codec(
    'AVIF', quality=round(quality), codec='aom', speed=speed, subsampling=subsampling, max_threads=1
  )


def jxl(*, quality: float, effort: int = 7) -> Codec:
  """Returns lossy JPEG XL by libjxl, quality 0..100; `effort` is 1 (fastest) to 10 (smallest).

  Quality 90 is distance 1, and quality 0 is distance 25, the largest that libjxl has. Quality 100
  is lossless.

  Raises:
    CodecError: the plugin is not installed, or the quality is outside 0..100.
  """
  _check_range('JPEG XL', quality, 0, 100)
  require('formats', JXL_PLUGIN)
  import_module(JXL_PLUGIN)
  lossless = quality == 100
  return _codec('JXL', quality=float(quality), effort=effort, lossless=lossless, num_threads=1)


def _codec(format: str, **options: Any) -> Codec:
  def encode(released: Released, image: Image) -> bytes:
    del released
    return _save(image, format=format, **options)

  return Codec(encode, partial(_decode, format))


def _save(image: Image, *, format: str, **options: Any) -> bytes:
  out = io.BytesIO()
  try:
    PILImage.fromarray(image).save(out, format, **options)
  except Exception as error:  # Pillow's plugins have no common error.
    raise CodecError(f'{format} cannot store this image ({error})') from error
  return out.getvalue()


def _decode(format: str, released: Released, data: bytes) -> Image:
  """Returns the pixels u8[H, W, 3] of a file.

  Raises:
    CodecError: the file is not a complete file of this format, or the image is too large.
  """
  del released
  try:
    with (
      warnings.catch_warnings(action='ignore'),
      PILImage.open(io.BytesIO(data), formats=[format]) as opened,
    ):
      if opened.width * opened.height > MAX_PIXELS:
        raise CodecError(f'{opened.width}x{opened.height} pixels exceed the limit of {MAX_PIXELS}')
      return np.array(opened.convert('RGB'))
  except CodecError:
    raise
  except Exception as error:  # Broken files raise whatever the plugin stumbles on.
    raise CodecError(f'not a complete {format} file ({error})') from error


def _check(label: str, feature: str, quality: float, low: float, high: float) -> None:
  if not features.check(feature):
    raise CodecError(f'this build of Pillow has no {label} support')
  _check_range(label, quality, low, high)


def _check_range(label: str, quality: float, low: float, high: float) -> None:
  if not low <= quality <= high:
    raise CodecError(f'{label} quality {quality} is outside {low}..{high}')


JPEG_QUALITIES = (2, 5, 8, 10, 15, 20, 25, 30, 35, 40, 50, 60, 70, 75, 80, 85, 90, 95)
JPEG2000_RATES = (0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
WEBP_QUALITIES = (0, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
AVIF_QUALITIES = (0, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)
SLOW_QUALITIES = (5, 15, 25, 35, 45, 55, 65, 80)  # Seconds each.
SLOW = 1  # Speed of the slow AVIF; speed 0 needs 0.5 % fewer bits and 2.6 times the time.
CODECS: dict[str, Anchor] = {
  'jpeg': Anchor('JPEG', jpeg, JPEG_QUALITIES),
  'jpeg-444': Anchor(
    'JPEG 4:4:4', partial(jpeg, subsampling='4:4:4'), (5, 10, 20, 30, 50, 70, 80, 90, 95), True
  ),
  'jpeg-default': Anchor('JPEG default', partial(jpeg, optimize=False), JPEG_QUALITIES, True),
  'jpeg2000': Anchor('JPEG 2000', jpeg2000, JPEG2000_RATES),
  'webp': Anchor('WebP', webp, WEBP_QUALITIES),
  'webp-default': Anchor(
    'WebP default', partial(webp, method=4), (0, 5, 10, 20, 40, 60, 80, 90, 100), True
  ),
  'avif': Anchor('AVIF', avif, AVIF_QUALITIES),
  'avif-slow': Anchor('AVIF slow', partial(avif, speed=SLOW), SLOW_QUALITIES),
  'avif-444': Anchor(
    'AVIF 4:4:4 slow', partial(avif, speed=SLOW, subsampling='4:4:4'), SLOW_QUALITIES, True
  ),
  'jxl': Anchor('JPEG XL', jxl, (0, 5, 10, 20, 40, 60, 70, 80, 90, 95)),
  'png': Anchor('PNG', png, (9,)),
}


def missing(name: str) -> str:
  """Returns why a codec cannot run here, such as a plugin that is not installed; '' if it can."""
  try:
    CODECS[name].factory(quality=CODECS[name].qualities[0])
  except CodecError as error:
    return str(error)
  return ''
