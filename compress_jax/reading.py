"""IMAGE in: one picture file to u8[H, W, 3] in sRGB.

Nothing that a picture holds is dropped in silence: what does not fit that form is
refused in one line unless an option says how to treat it.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image as PILImage
from PIL import ImageCms, ImageColor, ImageOps, TiffImagePlugin

from compress_jax.codec import CodecError, Image

Source = str | Path | bytes | BinaryIO

MAX_PIXELS = 2**26
# Pillow's other formats hold no photographs, and one (EPS) starts another program.
READABLE = ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF', 'PPM', 'GIF', 'JPEG2000', 'AVIF')
COLOUR_MODES = ('RGB', 'RGBA', 'RGBX', 'P', 'PA')
GREY_MODES = ('1', 'L', 'LA')
SAME_COLOUR = 2  # Levels in 0..255 by which flavours of sRGB differ.


def load_image(
  source: Source,
  *,
  flatten: str | None = None,
  first_frame: bool = False,
  max_pixels: int = MAX_PIXELS,
) -> Image:
  """Reads one picture as u8[H, W, 3] in sRGB.

  The EXIF orientation is applied, an embedded colour profile is converted to sRGB, grey
  becomes three equal channels. Transparency, animation and samples of more than 8 bits are
  refused, as are CMYK and other colour spaces.

  Args:
    source: a path, the bytes of a file, or a binary stream.
    flatten: a colour such as 'white' or '#rrggbb' to put behind transparent pixels.
    first_frame: take the first picture of an animation or of several pages.
    max_pixels: refuse larger pictures before decoding them.

  Raises:
    CodecError: one line that names the file and what is wrong with it.
  """
  background = None if flatten is None else _colour(flatten)
  name = _name(source)
  with _one_line(name), _opened(source) as picture:
    if picture.width * picture.height > max_pixels:
      size = f'{picture.width}x{picture.height}'
      raise CodecError(f'{name}: {size} pixels exceed the limit of {max_pixels}')
    _refuse(name, picture, first_frame=first_frame)
    return np.array(_flat(name, ImageOps.exif_transpose(picture), background))


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
  """Turns whatever Pillow raises into a CodecError, and silences its warnings."""
  try:
    with warnings.catch_warnings(action='ignore'):
      yield
  except CodecError:
    raise
  except PILImage.UnidentifiedImageError as error:
    known = ', '.join(READABLE)
    raise CodecError(f'{name}: not an image that can be read ({known})') from error
  except PILImage.DecompressionBombError as error:
    raise CodecError(f'{name}: too many pixels') from error
  except Exception as error:  # Damaged files raise whatever a plugin stumbles on.
    reason = getattr(error, 'strerror', None) or f'damaged image ({_first_line(error)})'
    raise CodecError(f'{name}: {reason}') from error


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]


def _name(source: Source) -> str:
  if isinstance(source, str | Path):
    return str(source)
  name = getattr(source, 'name', None)
  return name if isinstance(name, str) and name != '<stdin>' else 'standard input'


def _opened(source: Source) -> PILImage.Image:
  if isinstance(source, bytes):
    source = io.BytesIO(source)
  elif not isinstance(source, str | Path):
    source = io.BytesIO(source.read())  # A pipe cannot seek.
  return PILImage.open(source, formats=READABLE)


def _refuse(name: str, picture: PILImage.Image, *, first_frame: bool) -> None:
  """Raises CodecError for what cannot become 8-bit RGB without loss."""
  # A phone's MPO is a photograph with a preview or a gain map behind it, not an animation.
  frames = 1 if picture.format == 'MPO' else getattr(picture, 'n_frames', 1)
  if frames > 1 and not first_frame:
    raise CodecError(f'{name}: holds {frames} frames; ask for the first one to use it')
  if picture.mode.startswith(('I', 'F')) or _has_wide_samples(picture):
    raise CodecError(f'{name}: more than 8 bits per sample; convert it to 8 bits first')
  if picture.mode not in COLOUR_MODES + GREY_MODES:
    raise CodecError(f'{name}: {picture.mode} colours; convert it to RGB first')


def _has_wide_samples(picture: PILImage.Image) -> bool:
  """Whether a colour file stores over 8 bits, which Pillow would drop in silence."""
  if isinstance(picture, TiffImagePlugin.TiffImageFile):
    return max(picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))) > 8
  arguments: list[object] = []
  for tile in getattr(picture, 'tile', []):
    arguments += tile[3] if isinstance(tile[3], tuple) else [tile[3]]
  if picture.format == 'PPM':
    return any(isinstance(a, int) and a > 255 for a in arguments)
  return picture.format == 'PNG' and any(str(a).endswith(';16B') for a in arguments)


def _flat(name: str, picture: PILImage.Image, background: tuple[int, ...] | None) -> PILImage.Image:
  """The RGB picture, composited on `background` where it has transparent pixels."""
  colour = picture.convert('L' if picture.mode in GREY_MODES else 'RGB')
  colour = _to_srgb(name, colour, picture.info.get('icc_profile'))
  if not picture.has_transparency_data:
    return colour
  alpha = picture.convert('RGBA').getchannel('A')
  if alpha.getextrema() == (255, 255):
    return colour
  if background is None:
    raise CodecError(f'{name}: transparent pixels; give a colour to flatten them on')
  return PILImage.composite(colour, PILImage.new('RGB', colour.size, background), alpha)


def _to_srgb(name: str, picture: PILImage.Image, profile: bytes | None) -> PILImage.Image:
  """RGB of an L or RGB picture with an ICC profile, or with none: then it is sRGB."""
  if not profile:
    return picture.convert('RGB')
  try:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    grey = source.profile.xcolor_space.strip() == 'GRAY'
    picture = picture.convert('L' if grey and picture.mode == 'L' else 'RGB')
    target = ImageCms.createProfile('sRGB')
    # LittleCMS's shortcut for grey is off by up to 10 levels in the shadows.
    flags = ImageCms.Flags.NOOPTIMIZE if picture.mode == 'L' else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(source, target, picture.mode, 'RGB', flags=flags)
    # The flavours of sRGB differ by rounding; a way through them would only add noise.
    probe = _probe(picture.mode)
    if _distance(transform.apply(probe), probe) <= SAME_COLOUR:
      return picture.convert('RGB')
    return transform.apply(picture)
  except Exception as error:  # PyCMSError, and whatever a damaged profile makes of it.
    raise CodecError(f'{name}: its colour profile cannot be converted to sRGB') from error


def _probe(mode: str) -> PILImage.Image:
  """Colours that tell whether a profile is sRGB: a 9x9x9 grid, or all greys."""
  if mode == 'L':
    return PILImage.fromarray(np.arange(256, dtype=np.uint8)[None])
  steps = np.round(np.linspace(0, 255, 9)).astype(np.uint8)
  return PILImage.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3))


def _distance(a: PILImage.Image, b: PILImage.Image) -> int:
  x, y = (np.asarray(picture.convert('RGB'), np.int16) for picture in (a, b))
  return int(np.abs(x - y).max())


def _colour(name: str) -> tuple[int, ...]:
  with contextlib.suppress(ValueError):
    colour = ImageColor.getrgb(name)
    if len(colour) == 3:
      return colour
  raise CodecError(f'{name!r} is not an opaque colour; try white or #rrggbb')
