"""Conversion of RGB spaces to sRGB: by an ICC profile, or by primaries and a transfer function."""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image as PILImage
from PIL import ImageCms

from compress_jax.codec import CodecError

SAME = 2  # Levels in 0..255 by which profiles of sRGB differ from each other.
_ROWS = 2**18  # Pixels that are converted together.

# x and y of white, red, green and blue.
Primaries = tuple[float, ...]
_D65 = (0.3127, 0.329)
_SRGB: Primaries = (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_PRIMARIES: dict[int, Primaries] = {  # ITU-T H.273, table 2.
  1: _SRGB,
  4: (0.31, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
  5: (*_D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
  6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
  7: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
  9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
  11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
  12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
  22: (*_D65, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}
_UNSPECIFIED, _SRGB_CURVE = 2, 13
_VIDEO = (1, 6, 14, 15)  # The curve of BT.709, BT.601 and BT.2020.
_HDR = {16: 'PQ', 18: 'HLG'}
_BRADFORD = np.array(
  [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


class Colour(NamedTuple):
  """An RGB space other than sRGB."""

  primaries: Primaries
  light: Callable[[np.ndarray], np.ndarray]  # From samples in 0..1 to light in 0..1.


def from_cicp(primaries: int, transfer: int) -> Colour | None:
  """Returns the space of these numbers of ITU-T H.273; None is sRGB.

  The curve of SDR video with the primaries of BT.709 counts as sRGB, as in browsers.

  Raises:
    CodecError: it has a high dynamic range, or is not known.
  """
  if transfer in _HDR:
    raise CodecError(f'{_HDR[transfer]} colours of high dynamic range; convert it to sRGB first')
  primaries = 1 if primaries == _UNSPECIFIED else primaries
  if primaries == 1 and transfer in (_UNSPECIFIED, _SRGB_CURVE, *_VIDEO):
    return None
  curves = {
    **{_UNSPECIFIED: _srgb_light, _SRGB_CURVE: _srgb_light},
    **dict.fromkeys(_VIDEO, _video_light),
    **{4: _power(2.2), 5: _power(2.8), 8: _power(1)},
  }
  if primaries not in _PRIMARIES or transfer not in curves:
    numbers = f'primaries {primaries} and transfer {transfer} of ITU-T H.273'
    raise CodecError(f'colours with {numbers} are not known; convert it to sRGB first')
  return Colour(_PRIMARIES[primaries], curves[transfer])


def from_gamma(gamma: float | None, primaries: Primaries | None) -> Colour | None:
  """Returns the space of a PNG's gAMA and cHRM, or of such tags in a TIFF; None is sRGB.

  Raises:
    CodecError: the numbers make no sense.
  """
  alike = primaries is None or np.allclose(primaries, _SRGB, atol=2e-3)
  usual = gamma is None or abs(gamma - 1 / 2.2) < 0.01
  if alike and usual:
    return None
  chosen = _SRGB if primaries is None or alike else primaries
  if (gamma is not None and not 0.05 < gamma < 20) or abs(_area(chosen)) < 1e-3 or chosen[1] <= 0:
    raise CodecError('its primaries or its gamma make no sense; remove them first')
  return Colour(chosen, _srgb_light if gamma is None or usual else _power(1 / gamma))


def adobe_rgb() -> Colour:
  """Returns Adobe RGB (1998), which the EXIF of cameras names by the interoperability index R03."""
  return Colour((*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), _power(563 / 256))


def convert(picture: PILImage.Image, colour: Colour) -> PILImage.Image:
  """Converts an L or RGB picture of another space to sRGB; colours outside it are clipped."""
  pixels = np.array(picture.convert('RGB'))
  table = colour.light(np.arange(256) / 255)
  matrix = np.linalg.inv(_to_xyz(_SRGB)) @ _to_xyz(colour.primaries)
  flat = pixels.reshape(-1, 3)
  for start in range(0, len(flat), _ROWS):
    part = flat[start : start + _ROWS]
    light = np.clip(table[part] @ matrix.T, 0, 1)
    part[:] = np.rint(255 * _srgb_sample(light))
  return PILImage.fromarray(pixels)


def convert_icc(picture: PILImage.Image, profile: bytes) -> PILImage.Image:
  """Converts an L or RGB picture with an ICC profile to sRGB.

  Raises:
    CodecError: the profile is damaged, for other channels, or of a high dynamic range.
  """
  if name := _HDR.get(_transfer(profile)):
    raise CodecError(f'{name} colours of high dynamic range; convert it to sRGB first')
  try:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    grey = source.profile.xcolor_space.strip() == 'GRAY'
    picture = picture.convert('L' if grey and picture.mode == 'L' else 'RGB')
    target = ImageCms.createProfile('sRGB')
    # LittleCMS's shortcut for grey is off by up to 10 levels in the shadows.
    flags = ImageCms.Flags.NOOPTIMIZE if picture.mode == 'L' else ImageCms.Flags.NONE
    transform = ImageCms.buildTransform(source, target, picture.mode, 'RGB', flags=flags)
    # Profiles of sRGB differ by rounding; a conversion between them would only add noise.
    probe = _probe(picture.mode)
    if _distance(transform.apply(probe), probe) <= SAME:
      return picture.convert('RGB')
    return transform.apply(picture)
  except Exception as error:  # PyCMSError, and errors of any type for a damaged profile.
    raise CodecError('its colour profile cannot be converted to sRGB') from error


def _transfer(profile: bytes) -> int:
  """Returns the transfer function that the tag `cicp` of an ICC profile names; 0 without one."""
  for at in range(132, 132 + 12 * min(int.from_bytes(profile[128:132], 'big'), 100), 12):
    if profile[at : at + 4] == b'cicp':
      start = int.from_bytes(profile[at + 4 : at + 8], 'big')
      return next(iter(profile[start + 9 : start + 10]), 0)
  return 0


def _power(exponent: float) -> Callable[[np.ndarray], np.ndarray]:
  return lambda sample: sample**exponent


def _srgb_light(sample: np.ndarray) -> np.ndarray:
  """Returns the light of sRGB samples in 0..1 (IEC 61966-2-1)."""
  return np.where(sample <= 0.04045, sample / 12.92, ((sample + 0.055) / 1.055) ** 2.4)


def _srgb_sample(light: np.ndarray) -> np.ndarray:
  return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _video_light(sample: np.ndarray) -> np.ndarray:
  """Returns the light of BT.709 samples in 0..1, with the exact constants of H.273."""
  alpha, beta = 1.09929682680944, 0.018053968510807
  curve = ((sample + alpha - 1) / alpha) ** (1 / 0.45)
  return np.where(sample < 4.5 * beta, sample / 4.5, curve)


def _area(primaries: Primaries) -> float:
  (rx, ry), (gx, gy), (bx, by) = (primaries[i : i + 2] for i in (2, 4, 6))
  return (gx - rx) * (by - ry) - (bx - rx) * (gy - ry)


def _to_xyz(primaries: Primaries) -> np.ndarray:
  """Returns f64[3, 3], the matrix from light in RGB to XYZ under D65 (Lindbloom).

  Another white point is adapted by the Bradford transform.
  """
  white, *points = (
    np.array([x, y, 1 - x - y]) for x, y in zip(primaries[::2], primaries[1::2], strict=True)
  )
  white, columns = white / white[1], np.stack(points, 1)
  matrix = columns * np.linalg.solve(columns, white)
  wanted = np.array([_D65[0], _D65[1], 1 - sum(_D65)]) / _D65[1]
  scale = (_BRADFORD @ wanted) / (_BRADFORD @ white)
  return np.linalg.inv(_BRADFORD) @ (scale[:, None] * _BRADFORD) @ matrix


def _probe(mode: str) -> PILImage.Image:
  """Returns colours that show whether a profile is sRGB: a 9x9x9 grid, or all greys."""
  if mode == 'L':
    return PILImage.fromarray(np.arange(256, dtype=np.uint8)[None])
  steps = np.round(np.linspace(0, 255, 9)).astype(np.uint8)
  return PILImage.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3))


def _distance(a: PILImage.Image, b: PILImage.Image) -> int:
  x, y = (np.asarray(picture.convert('RGB'), np.int16) for picture in (a, b))
  return int(np.abs(x - y).max())
