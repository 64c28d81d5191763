"""Headers of picture files: sample depth, channels and colour, which Pillow does not report.

Nothing is decoded here. `kind` recognises the format by the first bytes; `facts` reads the header.
"""

import re
import struct
from typing import BinaryIO

from PIL import TiffImagePlugin

from compress_jax.images import boxes
from compress_jax.images.header import Facts, number, read

HEAD = 64  # Number of first bytes that identify the format.
_AVIF, _HEIF = (b'avif', b'avis'), (b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'mif1')
_STARTS = {
  'PNG': rb'\x89PNG\r\n\x1a\n',
  'JPEG': rb'\xff\xd8\xff',
  'WEBP': rb'RIFF....WEBP',
  'BMP': rb'BM.{12}[\x0c\x10(48@l|]\0\0\0',
  'TIFF': rb'II[*+]\0|MM\0[*+]|II\0\*|MM\*\0',
  'PPM': rb'P[1-6fF]\s',
  'GIF': rb'GIF8[79]a',
  'JPEG2000': rb'\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51',
  'JXL': rb'\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n',
}
_OTHERS = rb'8BPS|qoif|v/1\x01|#\?RADIANCE|DDS |gimp xcf|SIMPLE  =|P7\n|\xff\xd8'
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))


def kind(head: bytes) -> str:
  """Returns the name of the format of a file that begins with `head`; empty if it is unknown."""
  if head[4:8] == b'ftyp':
    brands = {head[i : i + 4] for i in (8, *range(16, min(len(head), number(head[:4])), 4))}
    if brands & {*_AVIF}:
      return 'AVIF'
    return 'HEIF' if brands & {*_HEIF} else ''
  return next((name for name, start in _STARTS.items() if re.match(start, head, re.DOTALL)), '')


def looks_like_an_image(head: bytes) -> bool:
  """Returns whether a file that begins with `head` is a picture, in a readable format or not."""
  return bool(kind(head) or re.match(_OTHERS, head) or head[4:11] == b'ftypcrx')


def facts(file: BinaryIO, kind: str) -> Facts:
  """Reads the header of a file of this format.

  Raises:
    CodecError: it cannot be a picture.
    Exception: the header is damaged.
  """
  reader = _READERS.get(kind)
  file.seek(0)
  result = Facts() if reader is None else reader(file)
  file.seek(0)
  return result


def _png(file: BinaryIO) -> Facts:
  """Reads a PNG (third edition): cICP goes before iCCP, which goes before sRGB, then cHRM, gAMA."""
  file.seek(8)
  chunks: dict[bytes, bytes] = {}
  while True:
    size, name = struct.unpack('>I4s', read(file, 8))
    if name in (b'IDAT', b'IEND'):
      break
    if name in (b'IHDR', b'cICP', b'gAMA', b'cHRM'):
      chunks[name] = read(file, size)
      file.seek(4, 1)
    else:
      chunks[name] = b''
      file.seek(size + 4, 1)
  result = Facts((chunks[b'IHDR'][8],))
  if b'cICP' in chunks:
    primaries, transfer, matrix, full = chunks[b'cICP'][:4]
    narrow = 'its cICP chunk says narrow range or no RGB' if matrix or not full else ''
    return result._replace(cicp=(primaries, transfer), refusal=narrow)
  if chunks.keys() & {b'iCCP', b'sRGB'}:
    return result
  if b'gAMA' in chunks:
    result = result._replace(gamma=number(chunks[b'gAMA']) / 1e5)
  if b'cHRM' in chunks:
    values = struct.unpack('>8I', chunks[b'cHRM'])
    result = result._replace(primaries=tuple(value / 1e5 for value in values))
  return result


def _jpeg(file: BinaryIO) -> Facts:
  file.seek(2)
  while True:
    while (marker := read(file, 1)[0]) != 0xFF:
      continue
    while marker == 0xFF:
      marker = read(file, 1)[0]
    if marker in (0, 1, *range(0xD0, 0xD9)):  # Markers without a length.
      continue
    if marker in (0xD9, 0xDA):
      return Facts()
    size = number(read(file, 2))
    if marker in _FRAMES:
      bits, channels = struct.unpack('>B4xB', read(file, 6))
      refusal = (
        '' if bits == 8 else f'more than 8 bits per sample ({bits}), which Pillow cannot decode'
      )
      if channels not in (1, 3, 4):
        refusal = f'{channels} channels; convert it to RGB first'
      return Facts((bits,), refusal=refusal)
    file.seek(size - 2, 1)


def _tiff(file: BinaryIO) -> Facts:
  """Reads a TIFF 6.0; only the first picture counts."""
  head = read(file, 8)
  if head[:4] == b'MM\0+':
    return Facts(refusal='a large TIFF of big-endian numbers, which Pillow cannot read')
  head += file.read(8) if head[2] == 43 else b''
  tags = TiffImagePlugin.ImageFileDirectory_v2(head)
  file.seek(tags.next)
  tags.load(file)
  depths = tuple(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
  formats = set(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))
  result = Facts(depths, floats=3 in formats, refusal=_tiff_refusal(tags, formats))
  white, points = tags.get(318), tags.get(319)
  if white and points and TiffImagePlugin.ICCPROFILE not in tags:
    result = result._replace(primaries=tuple(float(value) for value in (*white, *points)))
  return result


def _tiff_refusal(tags: TiffImagePlugin.ImageFileDirectory_v2, formats: set[int]) -> str:
  count = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
  photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
  colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(photometric, 1)
  alpha = tags.get(TiffImagePlugin.EXTRASAMPLES, (1,))[0] in (1, 2)
  if 50706 in tags:
    return "a camera's raw file; develop it to RGB first"
  if tags.get(254, 0) & 1:
    return 'its first picture is a preview of another one'
  if count > colours + alpha:
    return f'{count} channels, of which {count - colours} are not colours; remove them first'
  if formats & {2, 5, 6}:
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    wide = f', more than 8 bits per sample ({bits})' if bits > 8 else ''
    return f'signed or complex samples{wide}; convert it to 8 bits first'
  return ''


def _ppm(file: BinaryIO) -> Facts:
  head = file.read(4096)
  if head[1:2] in b'fF':
    refusal = (
      'float samples in three channels, which Pillow cannot decode' if head[1:2] == b'F' else ''
    )
    return Facts((32,), floats=True, refusal=refusal)
  words = re.sub(rb'#[^\n]*', b' ', head).split(maxsplit=4)
  most = 1 if head[1:2] in b'14' else int(words[3])
  return Facts((8 if most < 256 else most.bit_length(),), most=most)


def _bmp(file: BinaryIO) -> Facts:
  """Reads the colour of Windows bitmaps with headers V4 and V5."""
  head = file.read(14 + 124)
  if len(head) < 14 + 108 or int.from_bytes(head[14:18], 'little') < 108:
    return Facts()
  space = head[70:74][::-1]
  if space == b'LINK':
    return Facts(refusal='its colour profile is another file; embed it')
  if space == b'MBED':
    start, size = struct.unpack('<II', head[126:134])
    file.seek(14 + start)
    return Facts(profile=read(file, size))
  calibrated = space == bytes(4) and any(head[74:110])
  return Facts(refusal='calibrated colours; convert it to sRGB first' if calibrated else '')


def _gif(file: BinaryIO) -> Facts:
  """Reads the ICC profile of a GIF, which is the application extension `ICCRGBG1012`."""
  head = file.read(2**20)
  start = head.find(b'\x21\xff\x0bICCRGBG1012')
  if start < 0:
    return Facts()
  profile, at = b'', start + 14
  while size := head[at]:
    profile, at = profile + head[at + 1 : at + 1 + size], at + 1 + size
  return Facts(profile=profile)


_READERS = {
  'PNG': _png,
  'JPEG': _jpeg,
  'TIFF': _tiff,
  'PPM': _ppm,
  'BMP': _bmp,
  'GIF': _gif,
  'JPEG2000': boxes.jpeg2000,
  'AVIF': boxes.heif,
  'HEIF': boxes.heif,
  'JXL': boxes.jxl,
}
