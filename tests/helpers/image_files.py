"""Small picture files, made by hand where Pillow cannot write them."""

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image as PILImage

# Four flat squares, written by libraries that CI does not have: 8x8 pixels, 16 or 10 bits.
SQUARES = np.array([[[65535, 0, 0], [0, 65535, 0]], [[0, 0, 65535], [1000, 30000, 50000]]])
JPEG2000_16 = base64.b64decode(
  'AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAABZpaGRyAAAACAAAAAgAAw8HAAAAAAAPY29s'
  'cgEAAAAAABAAAAFZanAyY/9P/1EALwAAAAAACAAAAAgAAAAAAAAAAAAAAAgAAAAIAAAAAAAAAAAAAw8BAQ8BAQ8BAf9S'
  'AAwAAAABAQAEBAAB/1wABECA/2QAJQABQ3JlYXRlZCBieSBPcGVuSlBFRyB2ZXJzaW9uIDIuNS40/5AACgAAAAAA4QAB'
  '/5PP/DDoEVBCeEcTpbOxBsZivoAAAABhZED1NYNy+aACoB2uT4RfaIfYAAX+a350xg1KeBHEdEAYFAFe890rB9/4kjgm'
  'iQgpatMc87YtsBUAAYPIipAAAYPOKncSD8wgAAAwRF3PTGDwYGACoCH8FCS2+QBg5d8DKWwf2EAAqAgzBQAVAQag4AKg'
  'H9/4kjAUAE8BESf7HZkE9+4bn1AAAAAxNMiqmsHVZIAAqAe69UI4RUYBgrN9EgoxEBg+GUBlLYQjoQR+HVAGClZIGUth'
  'BKhgAqAf/9k='
)
AVIF_10 = base64.b64decode(
  'AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAA'
  'AAAAAAAAAAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAPAAAAChpaW5mAAAAAAABAAAA'
  'GmluZmUCAAAAAAEAAGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAACAAAAAgAAAAQcGl4aQAA'
  'AAADCgoKAAAADGF2MUOBIEAAAAAAE2NvbHJuY2x4AAIAAgAAgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAARG1kYXQS'
  'AAoIOAi/5wICAJAyLhAAAAAP+j4QveK3/AmygVGCh5ceWyQQaLMxKQCwqLJJXQ5umxSi0iprJLdmEsA='
)
JXL_16 = base64.b64decode(  # In linear light.
  'AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAAAJanhsbAoAAABJanhsY/8KQfADULQICAQBAMwASxiLFUIS'
  'RM+sAxzWXyAIAA/6uuC3/7+i/O2suNK+9v8X1PCWQZ/1x4IEYgAAEIQABgAA'
)
JXL_8 = base64.b64decode('/wpBQCQIBAEAnABLGIsVwhHibj3oXSAIAGvx21/+Tlxf+2t4n/exIIEYAAAEIYABAAA=')
JXL_ANIMATION = base64.b64decode(
  '/wpBBE0AICYIBAEAnABLGIsVwhHibj3oXSAIAGvx21/+Tlxf+2t4n/exIIEYAAAEIYABAAAIBAUAnABLGIsVwhHibj3o'
  'XSAIAGvx21/+Tlxf+2t4n/exIIEYAAAEIYABAAA='
)


def squares(most):
  """The four squares, i64[8, 8, 3], for samples up to `most`."""
  return np.kron(SQUARES * most // 65535, np.ones((4, 4, 1), int))


def rounded(values, most):
  """round(v * 255 / most) in whole numbers."""
  return ((510 * values.astype(np.int64) + most) // (2 * most)).astype(np.uint8)


def stored(picture, format='PNG', **options):
  """The bytes of a file; `picture` is an array or a Pillow image."""
  if isinstance(picture, np.ndarray):
    picture = PILImage.fromarray(picture)
  out = io.BytesIO()
  picture.save(out, format, **options)
  return out.getvalue()


def png(width, height, bits, colour, rows=b'', **chunks):
  """A PNG made by hand, for what Pillow does not write; `chunks` come before the pixels."""

  def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  header = struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0)
  more = b''.join(chunk(name.encode(), data) for name, data in chunks.items())
  body = chunk(b'IHDR', header) + more + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
  return b'\x89PNG\r\n\x1a\n' + body


def wide_png(pixels, **chunks):
  """A PNG of 16 bits, of u16[H, W, C]."""
  rows = b''.join(b'\0' + row.tobytes() for row in pixels.astype('>u2'))
  colour = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]]
  return png(pixels.shape[1], pixels.shape[0], 16, colour, rows, **chunks)


def flat_png(pixels, **chunks):
  """A PNG of 8 bits, of u8[H, W, 3]."""
  rows = b''.join(b'\0' + row.tobytes() for row in pixels)
  return png(pixels.shape[1], pixels.shape[0], 8, 2, rows, **chunks)


def profile(space, gamma):
  """A small ICC profile: sRGB's primaries (or grey) with a pure power law."""
  xyz = {
    b'wtpt': (0.9642, 1.0, 0.8249),
    b'rXYZ': (0.4360, 0.2225, 0.0139),
    b'gXYZ': (0.3851, 0.7169, 0.0971),
    b'bXYZ': (0.1431, 0.0606, 0.7141),
  }
  curve = b'curv' + bytes(4) + struct.pack('>IH', 1, round(gamma * 256)) + bytes(2)
  tags = {b'desc': b'desc' + bytes(4) + struct.pack('>I', 5) + b'test\0' + bytes(79)}
  points = xyz if space == b'RGB ' else {b'wtpt': xyz[b'wtpt']}
  for name, values in points.items():
    tags[name] = b'XYZ ' + bytes(4) + b''.join(struct.pack('>i', round(v * 65536)) for v in values)
  for name in (b'rTRC', b'gTRC', b'bTRC') if space == b'RGB ' else (b'kTRC',):
    tags[name] = curve
  return _profile(space, tags)


def hdr_profile(transfer):
  """The same with a tag that names the transfer function by its number in ITU-T H.273."""
  return _profile(b'RGB ', {b'cicp': b'cicp' + bytes(4) + bytes([9, transfer, 0, 1])})


def _profile(space, tags):
  table, body = struct.pack('>I', len(tags)), b''
  for name, value in tags.items():
    table += name + struct.pack('>II', 128 + 4 + 12 * len(tags) + len(body), len(value))
    body += value + bytes(-len(value) % 4)
  size = 128 + len(table) + len(body)
  head = struct.pack('>I4sI4s4s4s', size, bytes(4), 0x02400000, b'mntr', space, b'XYZ ')
  head = (head + bytes(12) + b'acsp').ljust(68, b'\0') + struct.pack('>iii', 63190, 65536, 54061)
  return head.ljust(128, b'\0') + table + body


def with_box(file, content):
  """A JP2 file of Pillow's with another colour box."""
  start = file.index(b'colr') - 4
  size = int.from_bytes(file[start : start + 4], 'big')
  box = struct.pack('>I4s', 8 + len(content), b'colr') + content
  header = file.index(b'jp2h') - 4
  grown = int.from_bytes(file[header : header + 4], 'big') + len(box) - size
  file = file[:start] + box + file[start + size :]
  return file[:header] + struct.pack('>I', grown) + file[header + 4 :]


def with_nclx(file, primaries, transfer):
  """An AVIF with other numbers for its colours."""
  at = file.index(b'nclx') + 4
  return file[:at] + struct.pack('>HH', primaries, transfer) + file[at + 4 :]


def bitmap(pixels, space, profile=b'', points=bytes(36)):
  """A Windows bitmap of version 5, with the name of its colours and an ICC profile behind it."""
  height, width, _ = pixels.shape
  rows = b''.join(
    row[:, ::-1].tobytes().ljust(-(-3 * width // 4) * 4, b'\0') for row in pixels[::-1]
  )
  head = struct.pack('<IiiHHIIiiII', 124, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
  head += bytes(16) + space[::-1] + points + bytes(12)
  head += struct.pack('<IIII', 0, 124 + len(rows), len(profile), 0)
  size, start = 14 + 124 + len(rows) + len(profile), 14 + 124
  return b'BM' + struct.pack('<IHHI', size, 0, 0, start) + head + rows + profile


def gif_with_profile(file, icc):
  """A GIF with an ICC profile in an application extension."""
  start = 13 + 3 * 2 ** ((file[10] & 7) + 1) * (file[10] >> 7)
  blocks = b''.join(
    bytes([len(icc[i : i + 255])]) + icc[i : i + 255] for i in range(0, len(icc), 255)
  )
  return file[:start] + b'\x21\xff\x0bICCRGBG1012' + blocks + b'\0' + file[start:]


def jxl_with_extra_channel(number):
  """The header of a JPEG XL of 8x8 pixels with an extra channel of this type below 18."""
  fields = [(1, 1), (0, 5), (1, 3)]  # Small: 8 high, as wide.
  fields += [(0, 1), (0, 1), (0, 1), (0, 2), (1, 1)]  # Not as usual; integers of 8 bits.
  fields += [(1, 2), (0, 1), (2, 2), (number - 2, 4)]  # One channel, of a type from 2 on.
  fields += [(0, 1), (0, 2), (0, 2), (0, 2)] + [(0, 16)] * 8
  return _jxl(fields)


def jxl_of_size(side):
  """The header of a JPEG XL of so many pixels squared."""
  return _jxl([(0, 1), (3, 2), (side - 1, 30), (1, 3), (1, 1)])


def _jxl(fields):
  """A codestream of (value, bits), lowest bit first."""
  bits = ''.join(f'{value:0{size}b}'[::-1] for value, size in fields)
  bits += '0' * (-len(bits) % 8)
  return b'\xff\x0a' + bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
