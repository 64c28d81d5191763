"""Classical codecs behind the same interface, through Pillow.

They learn nothing, so their Released is (); their files are the formats' own, headers counted.
"""

import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import features

from compress_jax.codec import Codec, CodecError, Image, Released

MAX_PIXELS = 2**26


class Anchor(NamedTuple):
  """A classical codec and the operating points that draw its curve."""

  label: str
  factory: Callable[..., Codec]  # factory(quality=q)
  qualities: tuple[float, ...]  # Rising in file size.


def png(*, quality: float = 9) -> Codec:
  """PNG, lossless; `quality` is zlib's effort in 0..9 and changes no pixel."""
  _check('PNG', 'zlib', quality, 0, 9)
  return _codec('PNG', compress_level=round(quality))


def jpeg(*, quality: float, optimize: bool = True) -> Codec:
  """Baseline JPEG, 4:2:0, quality 1..95; `optimize` fits the Huffman tables to the image."""
  _check('JPEG', 'jpg', quality, 1, 95)
  return _codec('JPEG', quality=round(quality), optimize=optimize, subsampling=2)


def jpeg2000(*, quality: float) -> Codec:
  """JPEG 2000 codestream, 9-7 wavelet, colour transform; `quality` is the bpp aimed at."""
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


def webp(*, quality: float) -> Codec:
  """Lossy WebP at its slowest method, quality 0..100."""
  _check('WebP', 'webp', quality, 0, 100)
  return _codec('WEBP', quality=quality, method=6)


def avif(*, quality: float) -> Codec:
  """AVIF 4:2:0 at speed 6, quality 0..100; one thread, as tiling depends on their number."""
  _check('AVIF', 'avif', quality, 0, 100)
  return _codec('AVIF', quality=round(quality), speed=6, subsampling='4:2:0', max_threads=1)


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
  """u8[H, W, 3] of a file of this format; CodecError on anything else."""
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
  if not low <= quality <= high:
    raise CodecError(f'{label} quality {quality} is outside {low}..{high}')


JPEG_QUALITIES = (2, 5, 8, 10, 15, 20, 25, 30, 35, 40, 50, 60, 70, 75, 80, 85, 90, 95)
CODECS: dict[str, Anchor] = {
  'jpeg': Anchor('JPEG (optimised)', jpeg, JPEG_QUALITIES),
  'jpeg-default': Anchor('JPEG (default tables)', partial(jpeg, optimize=False), JPEG_QUALITIES),
  'jpeg2000': Anchor(
    'JPEG 2000', jpeg2000, (0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
  ),
  'webp': Anchor('WebP', webp, (0, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)),
  'avif': Anchor('AVIF', avif, (0, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)),
  'png': Anchor('PNG', png, (9,)),
}
