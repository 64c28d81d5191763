"""Headers of formats that are made of boxes: JPEG 2000, AVIF and HEIC, JPEG XL."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from compress_jax.images import av1
from compress_jax.images.header import Facts, number, read
from compress_jax.images.jxl import header as codestream

_STREAM = 4096  # Bytes of an AV1 stream that are searched for its sequence header.


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
  """Yields (type, bytes of content) of each box of an ISO base media file; reading is optional."""
  while head := file.read(8):
    if len(head) < 8:
      return
    size, name = struct.unpack('>I4s', head)
    length = number(read(file, 8)) - 16 if size == 1 else size - 8
    after = file.tell() + length
    yield name, length if size else -1
    if not size or length < 0:
      return
    file.seek(after)


def _inside(data: bytes) -> list[tuple[bytes, bytes]]:
  """Returns (type, content) of the boxes in a box."""
  boxes, at = [], 0
  while at + 8 <= len(data):
    size, name = struct.unpack_from('>I4s', data, at)
    head = 8
    if size == 1:
      size, head = number(data[at + 8 : at + 16]), 16
    size = size or len(data) - at
    if size < head:
      break
    boxes.append((name, data[at + head : at + size]))
    at += size
  return boxes


def jpeg2000(file: BinaryIO) -> Facts:
  """Reads the header of a JP2 (ISO 15444-1, annex I), or of a codestream alone."""
  header: list[tuple[bytes, bytes]] = []
  if read(file, 4) != b'\xff\x4f\xff\x51':
    file.seek(0)
    for name, size in _boxes(file):
      if name == b'jp2h':
        header = _inside(read(file, size))
      elif name == b'jp2c':
        read(file, 4)
        break
  count = struct.unpack('>H', read(file, 38)[36:])[0]
  depths = tuple((number(read(file, 3)[:1]) & 0x7F) + 1 for _ in range(count))
  result = Facts(depths)
  if not 1 <= count <= 4:
    return result._replace(refusal=f'{count} channels; convert it to RGB first')
  colours = [content for name, content in header if name == b'colr' and content[0] in (1, 2, 3, 5)]
  for name, content in header:
    if name == b'cdef' and any(
      content[i : i + 2] == b'\xff\xff' for i in range(4, len(content), 6)
    ):
      return result._replace(refusal='a channel that is no colour; remove it first')
    if name == b'pclr' and max(content[3 : 3 + content[2]]) & 0x7F > 7:
      return result._replace(refusal='a palette of more than 8 bits; convert it to RGB first')
  if not colours:
    return result
  method, colour = colours[0][0], colours[0][3:]
  if method == 5:
    primaries, transfer = struct.unpack('>HH', colour[:4])
    return result._replace(cicp=(primaries, transfer))
  if method != 1:
    return result._replace(profile=colour)
  space = number(colour[:4])
  if space == 18 and result.wide:
    return result._replace(refusal='YCbCr of more than 8 bits per sample; convert it to RGB first')
  known = (0, 12, 15, 16, 17, 18)  # Two levels, CMYK (by its mode), two levels, sRGB, grey, sYCC.
  return (
    result if space in known else result._replace(refusal=f'colours of JPEG 2000 number {space}')
  )


def heif(file: BinaryIO) -> Facts:
  """Reads depth and nclx colours of an AVIF or HEIC: its primary picture, or its first track."""
  meta = movie = b''
  for name, size in _boxes(file):
    if name in (b'meta', b'moov'):
      content = read(file, size)
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
  if cicp is None and not profiles:  # Then the colours in the stream itself apply.
    cicp = _stream_colours(file, meta, properties)
  return Facts((max(depths),), cicp=None if profiles else cicp)


def _stream_colours(
  file: BinaryIO, meta: bytes, properties: list[tuple[bytes, bytes]]
) -> tuple[int, int] | None:
  """Returns the colours in the AV1 stream of the primary picture or of its first tile."""
  configurations = [content for name, content in properties if name == b'av1C']
  if not configurations:
    return None
  colours = av1.colours(configurations[0][4:])
  boxes = dict(_inside(meta[4:]))
  if colours is not None or b'iloc' not in boxes or b'pitm' not in boxes:
    return colours
  primary = number(boxes[b'pitm'][4:])
  item = next(_tiles(boxes.get(b'iref', b''), primary), primary)
  where = _place(boxes[b'iloc'], item)
  if where is None:
    return None
  inside, at = where
  if inside:
    return av1.colours(boxes.get(b'idat', b'')[at:])
  file.seek(at)
  return av1.colours(file.read(_STREAM))


def _place(table: bytes, item: int) -> tuple[bool, int] | None:
  """Returns whether an item is in `idat` or in the file by the box `iloc`, and its offset there.

  None where that depends on other items.
  """
  version, sizes, at = table[0], number(table[4:6]), 6
  offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
  wide, ways = (4 if version == 2 else 2), (2 if version else 0)
  index *= bool(ways)

  def read_number(size: int) -> int:
    nonlocal at
    at += size
    return number(table[at - size : at])

  for _ in range(read_number(wide)):
    name, method, _ = read_number(wide), read_number(ways) & 15, read_number(2)
    origin, extents = read_number(base), read_number(2)
    starts = [
      (read_number(index), read_number(offset), read_number(length))[1] for _ in range(extents)
    ]
    if name == item and starts and method < 2:
      return method == 1, origin + starts[0]
  return None


def _properties(meta: bytes) -> list[tuple[bytes, bytes]]:
  """Returns the properties of the primary item, and of the tiles that it may be made of."""
  boxes = dict(_inside(meta[4:]))
  primary = boxes.get(b'pitm', b'')
  parts = dict(_inside(boxes.get(b'iprp', b'')))
  if not primary or b'ipma' not in parts:
    return []
  item = number(primary[4:])
  items = {item, *_tiles(boxes.get(b'iref', b''), item)}
  known = _inside(parts[b'ipco'])
  return [known[i - 1] for i in _associated(parts[b'ipma'], items) if 0 < i <= len(known)]


def _tiles(references: bytes, item: int) -> Iterator[int]:
  """Yields the items that `item` is derived from."""
  width = 4 if references[:1] == b'\1' else 2
  for name, content in _inside(references[4:]):
    if name == b'dimg' and number(content[:width]) == item:
      for at in range(width + 2, len(content), width):
        yield number(content[at : at + width])


def _associated(table: bytes, items: set[int]) -> Iterator[int]:
  """Yields the indices of the properties of these items, in the box `ipma`."""
  width, wide, at = (4 if table[0] else 2), table[3] & 1, 8
  for _ in range(number(table[4:8])):
    item, count = number(table[at : at + width]), table[at + width]
    at += width + 1
    for _ in range(count):
      which = number(table[at : at + 1 + wide]) & (0x7FFF if wide else 0x7F)
      at += 1 + wide
      if item in items:
        yield which


def _sample_entry(movie: bytes) -> list[tuple[bytes, bytes]]:
  """Returns the boxes in the first visual sample entry of a movie."""
  content = movie
  for wanted in (b'trak', b'mdia', b'minf', b'stbl', b'stsd'):
    content = dict(reversed(_inside(content))).get(wanted, b'')
  entries = _inside(content[8:])
  return _inside(entries[0][1][78:]) if entries else []


def jxl(file: BinaryIO) -> Facts:
  """Reads the header of a JPEG XL: a codestream, or a container of one in one or several boxes."""
  data = file.read(4096)
  if data[:2] != b'\xff\x0a':
    data = b''
    file.seek(0)
    for name, size in _boxes(file):
      if name in (b'jxlc', b'jxlp'):
        data += file.read(size if size >= 0 else 4096)[4 * (name == b'jxlp') :]
        if len(data) >= 4096 or name == b'jxlc':
          break
  header = codestream(data)
  return Facts(**header._asdict())
