"""The `.cjx` file format: header, payload, checks.

    magic 3 B | version, method, flags 1 B | model id 4 B | width-1, height-1,
    (varints) | level 1 B | payload length (varint) | payload | CRC-32 4 B

Integers are little-endian, varints LEB128 in their shortest form. Nothing sized
by the file is allocated before every check has passed.
"""

import zlib
from typing import NamedTuple

import numpy as np

from compress_jax.errors import CodecError

MAGIC = b'\xcaJX'  # First byte outside ASCII: a .cjx file never looks like text.
VERSION = 0
MAX_PIXELS = 2**26
MAX_SIDE = 2**14
NO_MODEL = bytes(4)
# Header flag of all methods: the image is grey, and decodes to equal channels.
GREY = 2
HEAD = 24  # Bytes of the longest header: 8 fixed, three varints of up to 5, the level.


class Header(NamedTuple):
  """The fields of a file before its payload."""

  method: int  # 0..7, the number of the method.
  height: int
  width: int
  level: int = 0  # 0..255, the operating point.
  flags: int = 0  # 0..3: GREY, and 1 with a meaning that the method defines.
  model_id: bytes = NO_MODEL  # First 4 bytes of the SHA-256 of the decode-side model.


def varint(value: int) -> bytes:
  """Returns the LEB128 code of a non-negative integer."""
  out = bytearray()
  while value >= 0x80:
    out.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes(out + bytes([value]))


def read_varint(data: bytes, at: int, *, max_bytes: int = 5) -> tuple[int, int]:
  """Returns the integer that starts at `at`, and the position of the next field.

  Raises:
    CodecError: the bytes end early, run on past `max_bytes` or are not the
      shortest form of their value.
  """
  value = 0
  for i in range(max_bytes):
    if at + i >= len(data):
      raise CodecError('file ends inside a length field')
    byte = data[at + i]
    value |= (byte & 0x7F) << 7 * i
    if byte < 0x80:
      if byte == 0 and i > 0:
        raise CodecError('length field is not in its shortest form')
      return value, at + i + 1
  raise CodecError('length field is too long')


def check_size(height: int, width: int, max_pixels: int = MAX_PIXELS) -> None:
  """Raises CodecError for images that no file may hold."""
  if height * width > max_pixels:
    raise CodecError(f'{width}x{height} pixels exceed the limit of {max_pixels}')
  if max(height, width) > MAX_SIDE:
    raise CodecError(f'{width}x{height}: sides are limited to {MAX_SIDE} pixels')


def check_image(image: np.ndarray) -> tuple[int, int]:
  """Returns the height and width of an image that a file may hold.

  Raises:
    CodecError: it is not u8[H, W, 3], empty or too large.
  """
  if image.ndim != 3 or image.shape[2] != 3 or image.dtype != 'uint8' or not image.size:
    raise CodecError(f'need an image u8[H, W, 3], got {image.dtype}{list(image.shape)}')
  check_size(*image.shape[:2])
  return image.shape[0], image.shape[1]


def grey_flag(image: np.ndarray) -> int:
  """Returns GREY for an image u8[H, W, 3] whose channels are equal, and otherwise 0."""
  return GREY if (image == image[..., :1]).all() else 0


def as_grey(image: np.ndarray) -> np.ndarray:
  """Returns u8[H, W, 3] with the rounded mean of the three channels in each of them."""
  mean = (2 * image.sum(-1, keepdims=True, dtype=np.int32) + 3) // 6
  return np.repeat(mean.astype(np.uint8), 3, -1)


def pack(header: Header, payload: bytes) -> bytes:
  """Returns the bytes of a file.

  Raises:
    CodecError: a number of the header has no room in it.
  """
  for name, value, most in (
    ('method', header.method, 7),
    ('flags', header.flags, 3),
    ('level', header.level, 255),
  ):
    if not 0 <= value <= most:
      raise CodecError(f'{name} is {value}; a file holds 0 to {most}')
  kind = VERSION << 5 | header.method << 2 | header.flags
  body = b''.join(
    [
      MAGIC,
      bytes([kind]),
      header.model_id,
      varint(header.width - 1),
      varint(header.height - 1),
      bytes([header.level]),
      varint(len(payload)),
      payload,
    ]
  )
  return body + zlib.crc32(body).to_bytes(4, 'little')


class Opening(NamedTuple):
  """A header, and where the payload lies."""

  header: Header
  start: int  # Position of the payload in bytes.
  length: int  # Bytes of the payload; a checksum of 4 bytes follows.


def opening(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Opening:
  """Returns what the first bytes of a file say; `HEAD` bytes are enough of any file.

  Raises:
    CodecError: they do not begin a `.cjx` file of this version, or claim more than `max_pixels`.
  """
  if data[:3] != MAGIC[: len(data[:3])] or not data:
    raise CodecError('not a .cjx file')
  if len(data) < 16:
    raise CodecError(f'truncated: {len(data)} bytes are too few for a .cjx file')
  version, method, flags = data[3] >> 5, data[3] >> 2 & 7, data[3] & 3
  if version != VERSION:
    raise CodecError(f'file format version {version} is newer than this decoder ({VERSION})')
  width, at = read_varint(data, 8)
  height, at = read_varint(data, at)
  check_size(height + 1, width + 1, max_pixels)
  if at >= len(data):
    raise CodecError('file ends inside its header')
  length, start = read_varint(data, at + 1)
  header = Header(method, height + 1, width + 1, data[at], flags, bytes(data[4:8]))
  return Opening(header, start, length)


def unpack(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[Header, bytes]:
  """Returns the header and payload of a file.

  Raises:
    CodecError: the file is not a complete, undamaged `.cjx` file of this
      version, or claims more than `max_pixels`.
  """
  header, start, length = opening(data, max_pixels=max_pixels)
  if start + length + 4 != len(data):
    raise CodecError(f'expected {start + length + 4} bytes, found {len(data)}')
  if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], 'little'):
    raise CodecError('checksum mismatch: the file is damaged')
  return header, bytes(data[start:-4])
