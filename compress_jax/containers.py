"""Headers of picture files: sample depth, channels and colour, which Pillow does not report.

Nothing is decoded here. `kind` names the format by the first bytes; `facts` reads the rest.
"""

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import TiffImagePlugin

from compress_jax import jxl
from compress_jax.codec import CodecError

HEAD = 64  # Bytes that tell the format.
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


class Facts(NamedTuple):
  """What a header says; what it leaves out is as in 8-bit sRGB."""

  depths: tuple[int, ...] = (8,)  # Bits per sample of each channel, or of all.
  most: int = 0  # The largest value of a sample, where that is no 2^bits - 1.
  floats: bool = False
  animated: bool = False  # Where Pillow does not say.
  refusal: str = ''  # Why the picture cannot become RGB, where that is certain.
  size: tuple[int, int] | None = None  # Width and height, where Pillow learns them too late.
  profile: bytes | None = None  # An ICC profile that Pillow does not read.
  cicp: tuple[int, int] | None = None  # Primaries and transfer as ITU-T H.273 numbers them.
  gamma: float | None = None  # Of a file; 0.45455 where light is the sample to the power 2.2.
  primaries: tuple[float, ...] | None = None  # x and y of white, red, green and blue.

  @property
  def wide(self) -> bool:
    """Whether samples do not fit 8 bits."""
    return self.floats or max(self.depths) > 8


def kind(head: bytes) -> str:
  """The name of the format of a file that begins with `head`; empty where none is known."""
  if head[4:8] == b'ftyp':
    brands = {head[i : i + 4] for i in (8, *range(16, min(len(head), _int(head[:4])), 4))}
    if brands & {*_AVIF}:
      return 'AVIF'
    return 'HEIF' if brands & {*_HEIF} else ''
  return next((name for name, start in _STARTS.items() if re.match(start, head, re.DOTALL)), '')


def looks_like_an_image(head: bytes) -> bool:
  """Whether a file that begins with `head` is a picture, be it of a format that is not read."""
  return bool(kind(head) or re.match(_OTHERS, head) or head[4:11] == b'ftypcrx')


def facts(file: BinaryIO, kind: str) -> Facts:
  """What the header of a file of this kind says.

  Raises:
    CodecError: it cannot be a picture.
    Exception: the header is damaged.
  """
  reader = {
    **{'PNG': _png, 'JPEG': _jpeg, 'JPEG2000': _jpeg2000, 'AVIF': _heif, 'HEIF': _heif},
    **{'JXL': _jxl, 'TIFF': _tiff, 'PPM': _ppm, 'BMP': _bmp, 'GIF': _gif},
  }.get(kind)
  file.seek(0)
  found = Facts() if reader is None else reader(file)
  file.seek(0)
  return found


def _int(data: bytes) -> int:
  return int.from_bytes(data, 'big')


def _read(file: BinaryIO, size: int) -> bytes:
  data = file.read(size)
  if len(data) < size:
    raise CodecError('damaged image (it ends in its header)')
  return data


def _png(file: BinaryIO) -> Facts:
  """PNG, third edition: cICP goes before iCCP, which goes before sRGB, then cHRM and gAMA."""
  file.seek(8)
  chunks: dict[bytes, bytes] = {}
  while True:
    size, name = struct.unpack('>I4s', _read(file, 8))
    if name in (b'IDAT', b'IEND'):
      break
    if name in (b'IHDR', b'cICP', b'gAMA', b'cHRM'):
      chunks[name] = _read(file, size)
      file.seek(4, 1)
    else:
      chunks[name] = b''
      file.seek(size + 4, 1)
  found = Facts((chunks[b'IHDR'][8],))
  if b'cICP' in chunks:
    primaries, transfer, matrix, full = chunks[b'cICP'][:4]
    narrow = 'its cICP chunk says narrow range or no RGB' if matrix or not full else ''
    return found._replace(cicp=(primaries, transfer), refusal=narrow)
  if chunks.keys() & {b'iCCP', b'sRGB'}:
    return found
  if b'gAMA' in chunks:
    found = found._replace(gamma=_int(chunks[b'gAMA']) / 1e5)
  if b'cHRM' in chunks:
    values = struct.unpack('>8I', chunks[b'cHRM'])
    found = found._replace(primaries=tuple(value / 1e5 for value in values))
  return found


def _jpeg(file: BinaryIO) -> Facts:
  file.seek(2)
  while True:
    marker = _read(file, 1)[0]
    if marker in (0xFF, 0, 1, *range(0xD0, 0xD9)):  # Padding, and markers without a length.
      continue
    if marker in (0xD9, 0xDA):
      return Facts()
    size = _int(_read(file, 2))
    if marker in _FRAMES:
      bits, channels = struct.unpack('>B4xB', _read(file, 6))
      lost = (
        '' if bits == 8 else f'more than 8 bits per sample ({bits}), which Pillow cannot decode'
      )
      if channels not in (1, 3, 4):
        lost = f'{channels} channels; convert it to RGB first'
      return Facts((bits,), refusal=lost)
    file.seek(size - 2, 1)


def _tiff(file: BinaryIO) -> Facts:
  """TIFF 6.0; only the first picture counts."""
  head = _read(file, 8)
  if head[:4] == b'MM\0+':
    return Facts(refusal='a large TIFF of big-endian numbers, which Pillow cannot read')
  head += file.read(8) if head[2] == 43 else b''
  tags = TiffImagePlugin.ImageFileDirectory_v2(head)
  file.seek(tags.next)
  tags.load(file)
  depths = tuple(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
  formats = set(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))
  found = Facts(depths, floats=3 in formats, refusal=_tiff_refusal(tags, formats))
  white, points = tags.get(318), tags.get(319)
  if white and points and TiffImagePlugin.ICCPROFILE not in tags:
    found = found._replace(primaries=tuple(float(value) for value in (*white, *points)))
  return found


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
    lost = (
      'float samples in three channels, which Pillow cannot decode' if head[1:2] == b'F' else ''
    )
    return Facts((32,), floats=True, refusal=lost)
  words = re.sub(rb'#[^\n]*', b' ', head).split(maxsplit=4)
  most = 1 if head[1:2] in b'14' else int(words[3])
  return Facts((8 if most < 256 else most.bit_length(),), most=most)


def _bmp(file: BinaryIO) -> Facts:
  """Colour of the headers V4 and V5 of Windows bitmaps."""
  head = file.read(14 + 124)
  if len(head) < 14 + 108 or int.from_bytes(head[14:18], 'little') < 108:
    return Facts()
  space = head[70:74][::-1]
  if space == b'LINK':
    return Facts(refusal='its colour profile is another file; embed it')
  if space == b'MBED':
    start, size = struct.unpack('<II', head[126:134])
    file.seek(14 + start)
    return Facts(profile=_read(file, size))
  calibrated = space == bytes(4) and any(head[74:110])
  return Facts(refusal='calibrated colours; convert it to sRGB first' if calibrated else '')


def _gif(file: BinaryIO) -> Facts:
  """An ICC profile in a GIF is an application extension, `ICCRGBG1012`."""
  head = file.read(2**20)
  start = head.find(b'\x21\xff\x0bICCRGBG1012')
  if start < 0:
    return Facts()
  profile, at = b'', start + 14
  while size := head[at]:
    profile, at = profile + head[at + 1 : at + 1 + size], at + 1 + size
  return Facts(profile=profile)


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
  """(type, bytes of content) of each box of a file of ISO base media; reading it is optional."""
  while head := file.read(8):
    if len(head) < 8:
      return
    size, name = struct.unpack('>I4s', head)
    length = _int(_read(file, 8)) - 16 if size == 1 else size - 8
    after = file.tell() + length
    yield name, length if size else -1
    if not size or length < 0:
      return
    file.seek(after)


def _inside(data: bytes) -> list[tuple[bytes, bytes]]:
  """(type, content) of the boxes in a box."""
  found, at = [], 0
  while at + 8 <= len(data):
    size, name = struct.unpack_from('>I4s', data, at)
    head = 8
    if size == 1:
      size, head = _int(data[at + 8 : at + 16]), 16
    size = size or len(data) - at
    if size < head:
      break
    found.append((name, data[at + head : at + size]))
    at += size
  return found


def _jpeg2000(file: BinaryIO) -> Facts:
  """JP2 (ISO 15444-1, annex I), or a codestream alone."""
  header: list[tuple[bytes, bytes]] = []
  if _read(file, 4) != b'\xff\x4f\xff\x51':
    file.seek(0)
    for name, size in _boxes(file):
      if name == b'jp2h':
        header = _inside(_read(file, size))
      elif name == b'jp2c':
        _read(file, 4)
        break
  count = struct.unpack('>H', _read(file, 38)[36:])[0]
  depths = tuple((_int(_read(file, 3)[:1]) & 0x7F) + 1 for _ in range(count))
  found = Facts(depths)
  if not 1 <= count <= 4:
    return found._replace(refusal=f'{count} channels; convert it to RGB first')
  colours = [content for name, content in header if name == b'colr' and content[0] in (1, 2, 3, 5)]
  for name, content in header:
    if name == b'cdef' and any(
      content[i : i + 2] == b'\xff\xff' for i in range(4, len(content), 6)
    ):
      return found._replace(refusal='a channel that is no colour; remove it first')
    if name == b'pclr' and max(content[3 : 3 + content[2]]) & 0x7F > 7:
      return found._replace(refusal='a palette of more than 8 bits; convert it to RGB first')
  if not colours:
    return found
  method, colour = colours[0][0], colours[0][3:]
  if method == 5:
    primaries, transfer = struct.unpack('>HH', colour[:4])
    return found._replace(cicp=(primaries, transfer))
  if method != 1:
    return found._replace(profile=colour)
  space = _int(colour[:4])
  if space == 18 and found.wide:
    return found._replace(refusal='YCbCr of more than 8 bits per sample; convert it to RGB first')
  known = (0, 12, 15, 16, 17, 18)  # Two levels, CMYK (by its mode), two levels, sRGB, grey, sYCC.
  return found if space in known else found._replace(refusal=f'colours of JPEG 2000 number {space}')


def _heif(file: BinaryIO) -> Facts:
  """AVIF and HEIC: depth and nclx colours of the primary picture, or of the first track."""
  meta = movie = b''
  for name, size in _boxes(file):
    if name in (b'meta', b'moov'):
      content = _read(file, size)
      meta, movie = (content, movie) if name == b'meta' else (meta, content)
  properties = _properties(meta) if meta else []
  if not properties and movie:
    properties = _sample_entry(movie)
  depths = [8]
  cicp = None
  for name, content in properties:
    if name == b'pixi':
      depths += content[5 : 5 + content[4]]
    elif name == b'av1C':
      depths.append((8, 8, 10, 12)[(content[2] >> 5) & 3])
    elif name == b'hvcC':
      depths.append(8 + (content[17] & 7))
    elif name == b'colr' and content[:4] == b'nclx':
      cicp = struct.unpack('>HH', content[4:8])
  profiles = any(
    name == b'colr' and content[:4] in (b'prof', b'rICC') for name, content in properties
  )
  return Facts((max(depths),), cicp=None if profiles else cicp)


def _properties(meta: bytes) -> list[tuple[bytes, bytes]]:
  """The properties of the primary item, and of the tiles that it may be made of."""
  boxes = dict(_inside(meta[4:]))
  primary = boxes.get(b'pitm', b'')
  parts = dict(_inside(boxes.get(b'iprp', b'')))
  if not primary or b'ipma' not in parts:
    return []
  number = _int(primary[4:])
  items = {number, *_tiles(boxes.get(b'iref', b''), number)}
  known = _inside(parts[b'ipco'])
  return [known[i - 1] for i in _associated(parts[b'ipma'], items) if 0 < i <= len(known)]


def _tiles(references: bytes, number: int) -> Iterator[int]:
  """Items that the item `number` is derived from."""
  width = 4 if references[:1] == b'\1' else 2
  for name, content in _inside(references[4:]):
    if name == b'dimg' and _int(content[:width]) == number:
      for at in range(width + 2, len(content), width):
        yield _int(content[at : at + width])


def _associated(table: bytes, items: set[int]) -> Iterator[int]:
  """The numbers of the properties of these items, in the box `ipma`."""
  width, wide, at = (4 if table[0] else 2), table[3] & 1, 8
  for _ in range(_int(table[4:8])):
    item, count = _int(table[at : at + width]), table[at + width]
    at += width + 1
    for _ in range(count):
      number = _int(table[at : at + 1 + wide]) & (0x7FFF if wide else 0x7F)
      at += 1 + wide
      if item in items:
        yield number


def _sample_entry(movie: bytes) -> list[tuple[bytes, bytes]]:
  """The boxes in the first visual sample entry of a movie."""
  content = movie
  for wanted in (b'trak', b'mdia', b'minf', b'stbl', b'stsd'):
    content = dict(reversed(_inside(content))).get(wanted, b'')
  entries = _inside(content[8:])
  return _inside(entries[0][1][78:]) if entries else []


def _jxl(file: BinaryIO) -> Facts:
  """JPEG XL: the codestream, or a container of it in one box or in parts."""
  data = file.read(4096)
  if data[:2] != b'\xff\x0a':
    data = b''
    file.seek(0)
    for name, size in _boxes(file):
      if name in (b'jxlc', b'jxlp'):
        data += file.read(size if size >= 0 else 4096)[4 * (name == b'jxlp') :]
        if len(data) >= 4096 or name == b'jxlc':
          break
  header = jxl.header(data)
  return Facts(**header._asdict())
