"""The header of a JPEG XL codestream (ISO 18181-1, sections 5 and 6), which plugins do not show."""

from typing import NamedTuple

_DISTANCE = ((1, 9), (1, 13), (1, 18), (1, 30))
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_ALPHA = 0


class Header(NamedTuple):
  """Size, depth and kind of the picture in a JPEG XL codestream."""

  size: tuple[int, int]  # Width and height.
  depths: tuple[int, ...]  # Bits per sample of the colours and of every extra channel.
  floats: bool
  animated: bool
  refusal: str  # The reason why the picture cannot become RGB; empty where it can.


class _Bits:
  """Fields of a codestream, lowest bit first."""

  def __init__(self, data: bytes):
    self.data, self.at = data, 0

  def read(self, count: int) -> int:
    value = 0
    for i in range(count):
      value |= (self.data[self.at >> 3] >> (self.at & 7) & 1) << i
      self.at += 1
    return value

  def number(self, *choices: tuple[int, int]) -> int:
    """Reads a U32: two bits select its offset and the number of bits that follow."""
    offset, count = choices[self.read(2)]
    return offset + self.read(count)


def header(data: bytes) -> Header:
  """Reads the header of a codestream.

  Raises:
    IndexError: it is cut short.
  """
  bits = _Bits(data[2:])
  size = _size(bits)
  if bits.read(1):  # All defaults: 8 bits, sRGB.
    return Header(size, (8,), False, False, '')
  animated = bool(bits.read(1)) and _extra_fields(bits)
  depth, floats = _depth(bits)
  bits.read(1)
  channels = [_channel(bits) for _ in range(bits.number((0, 0), (1, 0), (2, 4), (1, 12)))]
  others = [number for number, _, _ in channels if number != _ALPHA]
  refusal = ''
  if others or len(channels) > 1:
    refusal = f'{len(channels)} extra channels; remove all but one alpha'
  depths = (depth, *(each for _, each, _ in channels))
  floats = floats or any(each for *_, each in channels)
  return Header(size, depths, floats, animated, refusal)


def _size(bits: _Bits) -> tuple[int, int]:
  small = bits.read(1)
  height = 8 * (bits.read(5) + 1) if small else bits.number(*_DISTANCE)
  ratio = bits.read(3)
  if ratio:
    above, below = _RATIOS[ratio - 1]
    return height * above // below, height
  return (8 * (bits.read(5) + 1) if small else bits.number(*_DISTANCE)), height


def _extra_fields(bits: _Bits) -> bool:
  """Returns whether the picture is animated; skips orientation, intrinsic size and preview."""
  bits.read(3)
  if bits.read(1):
    _size(bits)
  if bits.read(1):
    small = bits.read(1)
    choices = (
      ((16, 0), (32, 0), (1, 5), (33, 9)) if small else ((1, 6), (65, 8), (321, 10), (1345, 12))
    )
    bits.number(*choices)
    if not bits.read(3):
      bits.number(*choices)
  if not bits.read(1):
    return False
  bits.number((100, 0), (1000, 0), (1, 10), (1, 30))
  bits.number((1, 0), (1001, 0), (1, 8), (1, 10))
  bits.number((0, 0), (0, 3), (0, 16), (0, 32))
  bits.read(1)
  return True


def _depth(bits: _Bits) -> tuple[int, bool]:
  if not bits.read(1):
    return bits.number((8, 0), (10, 0), (12, 0), (1, 6)), False
  depth = bits.number((32, 0), (16, 0), (24, 0), (1, 6))
  bits.read(4)
  return depth, True


def _channel(bits: _Bits) -> tuple[int, int, bool]:
  """Returns the type and depth of an extra channel, and whether it is float."""
  if bits.read(1):
    return _ALPHA, 8, False
  number = bits.number((0, 0), (1, 0), (2, 4), (18, 6))
  depth, floats = _depth(bits)
  bits.number((0, 0), (3, 0), (4, 0), (1, 3))
  bits.read(8 * bits.number((0, 0), (0, 4), (16, 5), (48, 10)))
  if number == _ALPHA:
    bits.read(1)
  elif number == 2:  # A spot colour: four values of 16 bits.
    bits.read(64)
  elif number == 5:
    bits.number((1, 0), (0, 2), (3, 4), (19, 8))
  return number, depth, floats
