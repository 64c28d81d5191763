"""Reading of one picture file to u8[H, W, 3] in sRGB.

A picture that does not fit that form is refused in one line unless an option says how to
convert it: nothing is dropped silently. docs/images.md has the table.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image as PILImage
from PIL import ImageColor, ImageOps, PngImagePlugin

from compress_jax.codec import CodecError, Image
from compress_jax.images import colour, containers, depth
from compress_jax.images.header import Facts
from compress_jax.runtime.extras import require

Source = str | Path | bytes | BinaryIO

MAX_PIXELS = 2**26
# Pillow's other formats hold no photographs, and one (EPS) starts another program.
READABLE = ('PNG', 'JPEG', 'WEBP', 'BMP', 'TIFF', 'PPM', 'GIF', 'JPEG2000', 'AVIF', 'HEIF', 'JXL')
PLUGINS = {'HEIF': 'pillow_heif', 'JXL': 'pillow_jxl'}
COLOUR_MODES = ('RGB', 'RGBA', 'RGBX', 'P', 'PA')
GREY_MODES = ('1', 'L', 'LA')
WIDE_MODES = ('I', 'I;16', 'I;16B', 'I;16L', 'I;16N', 'F')
_ORIENTATION, _INTEROPERABILITY = 0x0112, 0xA005  # Tags of EXIF.

# Largest text in a PNG, in bytes. Pillow's limit is 1 MiB for one chunk; XMP can be larger.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28


def load_image(
  source: Source,
  *,
  flatten: str | None = None,
  first_frame: bool = False,
  depth8: bool = False,
  max_pixels: int = MAX_PIXELS,
) -> Image:
  """Reads one picture as u8[H, W, 3] in sRGB.

  The EXIF orientation is applied, a colour profile or another description of colours is
  converted to sRGB, grey becomes three equal channels. Transparency, animation and samples of
  more than 8 bits are refused, as are CMYK, other colour spaces, high dynamic range and
  channels that are no colours.

  Args:
    source: a path, the bytes of a file, or a binary stream.
    flatten: a colour such as 'white' or '#rrggbb' to put behind transparent pixels.
    first_frame: read the first picture of an animation or of several pages.
    depth8: round samples of more than 8 bits, v to round(v * 255 / max).
    max_pixels: refuse larger pictures before decoding them.

  Raises:
    CodecError: one line that names the file and what is wrong with it.
  """
  background = None if flatten is None else _colour(flatten)
  with _one_line(_name(source)), _file(source) as file:
    picture, facts = _opened(file, first_frame, depth8, max_pixels)
    if facts.wide:
      picture = depth.to_8_bits(file, picture, facts)
    assert picture is not None
    flat = _flat(depth.spread(picture, facts), facts, background)
    return np.array(flat if _is_upright(picture) else _turned(flat, picture))


def from_pillow(picture: PILImage.Image, *, flatten: str | None = None) -> Image:
  """Returns the pixels u8[H, W, 3] in sRGB of a picture that Pillow has opened or made.

  They are made as by `load_image`, but are not turned as EXIF says, so that the size is the same.

  Args:
    picture: of any mode that holds 8-bit grey or RGB.
    flatten: a colour to put behind transparent pixels.

  Raises:
    CodecError: it has transparent pixels, or colours that cannot become 8-bit RGB without loss.
  """
  background = None if flatten is None else _colour(flatten)
  if picture.mode not in COLOUR_MODES + GREY_MODES:
    raise CodecError(f'cannot write mode {picture.mode}; convert the image to RGB first')
  return np.array(_flat(picture, Facts(), background))


def check_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
  """Returns the width and height of the picture, without decoding it.

  Raises:
    CodecError: `load_image` would refuse it because of its header.
  """
  with _one_line(str(path)), _file(path) as file:
    picture, _ = _opened(file, False, False, max_pixels)
    assert picture is not None
    return picture.size


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
  """Turns any error of Pillow into a CodecError that names the file; silences warnings."""
  try:
    with warnings.catch_warnings(action='ignore'):
      yield
  except CodecError as error:
    raise CodecError(f'{name}: {error}') from error
  except PILImage.UnidentifiedImageError as error:
    raise CodecError(f'{name}: damaged image, or of a kind that Pillow cannot read') from error
  except PILImage.DecompressionBombError as error:
    raise CodecError(f'{name}: too many pixels') from error
  except Exception as error:  # Plugins raise errors of any type on damaged files.
    reason = getattr(error, 'strerror', None) or f'damaged image ({_first_line(error)})'
    raise CodecError(f'{name}: {reason}') from error


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]


def _name(source: Source) -> str:
  if isinstance(source, str | Path):
    return str(source)
  name = getattr(source, 'name', None)
  return name if isinstance(name, str) and name != '<stdin>' else 'standard input'


def _file(source: Source) -> BinaryIO:
  if isinstance(source, str | Path):
    return open(source, 'rb')
  return io.BytesIO(source if isinstance(source, bytes) else source.read())  # A pipe cannot seek.


def _opened(
  file: BinaryIO, first_frame: bool, depth8: bool, max_pixels: int
) -> tuple[PILImage.Image | None, Facts]:
  """Returns the picture, not decoded yet, and its header; None where only tifffile reads it.

  Raises:
    CodecError: it cannot become 8-bit RGB without loss.
  """
  kind = containers.kind(file.read(containers.HEAD))
  if not kind:
    raise CodecError(f'not an image that can be read ({", ".join(READABLE)})')
  if kind in PLUGINS:
    _add_plugin(kind)
  facts = containers.facts(file, kind)
  _refuse(facts, depth8)
  if facts.size:
    _limit(facts.size, max_pixels)
  try:
    picture = PILImage.open(file, formats=[kind])
  except PILImage.UnidentifiedImageError:
    if kind != 'TIFF' or not facts.wide:
      raise
    return None, facts
  if kind == 'HEIF':
    facts = _with_plugin(facts, picture.info)
    _refuse(facts, depth8)
  _limit(picture.size, max_pixels)
  # The MPO of a phone is a photograph followed by a preview or a gain map, not an animation.
  frames = 1 if picture.format == 'MPO' else getattr(picture, 'n_frames', 1)
  if (frames > 1 or facts.animated) and not first_frame:
    several = f'{frames} frames' if frames > 1 else 'an animation'
    raise CodecError(f'holds {several}; ask for the first one to use it')
  modes = COLOUR_MODES + GREY_MODES + WIDE_MODES * facts.wide
  if picture.mode not in modes:
    raise CodecError(f'{picture.mode} colours; convert it to RGB first')
  return picture, facts


def _add_plugin(kind: str) -> None:
  """Registers Pillow's plugin for HEIC or JPEG XL."""
  require('formats', PLUGINS[kind])
  plugin: Any = import_module(PLUGINS[kind])
  if kind == 'HEIF':
    plugin.register_heif_opener()


def _with_plugin(facts: Facts, info: dict[Any, Any]) -> Facts:
  """Returns the facts of a HEIC, completed by those that its plugin reads from the pictures."""
  nclx = info.get('nclx_profile')
  if nclx and not facts.cicp and not info.get('icc_profile'):
    facts = facts._replace(cicp=(nclx['color_primaries'], nclx['transfer_characteristics']))
  return facts._replace(depths=(*facts.depths, info.get('bit_depth', 8)))


def _refuse(facts: Facts, depth8: bool) -> None:
  """Raises CodecError for what cannot become 8-bit RGB without loss."""
  if facts.refusal:
    raise CodecError(facts.refusal)
  if facts.wide and not depth8:
    kind = 'floats' if facts.floats else f'{max(facts.depths)}'
    raise CodecError(f'more than 8 bits per sample ({kind}); --depth8 rounds them')
  if facts.cicp:
    colour.from_cicp(*facts.cicp)


def _limit(size: tuple[int, int], max_pixels: int) -> None:
  if size[0] * size[1] > max_pixels:
    raise CodecError(f'{size[0]}x{size[1]} pixels exceed the limit of {max_pixels}')


def _is_upright(picture: PILImage.Image) -> bool:
  """Returns whether the decoder applied the orientation: in JPEG XL, except for a stored JPEG."""
  return picture.format == 'JXL' and not getattr(picture, 'jpeg', False)


def _turned(flat: PILImage.Image, picture: PILImage.Image) -> PILImage.Image:
  """Returns `flat`, turned by the EXIF orientation of `picture`."""
  flat.getexif()[_ORIENTATION] = picture.getexif().get(_ORIENTATION, 1)
  return ImageOps.exif_transpose(flat)


def _flat(
  picture: PILImage.Image, facts: Facts, background: tuple[int, ...] | None
) -> PILImage.Image:
  """Returns the RGB picture, composited on `background` where it has transparent pixels."""
  opaque = _to_srgb(picture.convert('L' if picture.mode in GREY_MODES else 'RGB'), facts, picture)
  if not picture.has_transparency_data:
    return opaque
  alpha = picture.convert('RGBA').getchannel('A')
  if alpha.getextrema() == (255, 255):
    return opaque
  if background is None:
    raise CodecError('transparent pixels; give a colour to flatten them on')
  return PILImage.composite(opaque, PILImage.new('RGB', opaque.size, background), alpha)


def _to_srgb(picture: PILImage.Image, facts: Facts, original: PILImage.Image) -> PILImage.Image:
  """Converts an L or RGB picture to sRGB by the colours that its file describes, if it does."""
  profile = facts.profile or original.info.get('icc_profile')
  if facts.cicp:
    space = colour.from_cicp(*facts.cicp)
  elif profile:
    return colour.convert_icc(picture, profile)
  elif facts.gamma or facts.primaries:
    space = colour.from_gamma(facts.gamma, facts.primaries)
  else:
    space = colour.adobe_rgb() if _is_adobe_rgb(original) else None
  return colour.convert(picture, space) if space else picture.convert('RGB')


def _is_adobe_rgb(picture: PILImage.Image) -> bool:
  """Returns whether the EXIF names Adobe RGB, as cameras do where there is no profile."""
  with contextlib.suppress(Exception):  # A damaged block counts as absent.
    return picture.getexif().get_ifd(_INTEROPERABILITY).get(1) == 'R03'
  return False


def _colour(name: str) -> tuple[int, ...]:
  with contextlib.suppress(ValueError):
    colour = ImageColor.getrgb(str(name))
    if len(colour) == 3:
      return colour
  raise CodecError(f'{name!r} is not an opaque colour; try white or #rrggbb')
