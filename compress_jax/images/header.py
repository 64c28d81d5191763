"""The record of a picture's header, common to all formats."""

from typing import BinaryIO, NamedTuple

from compress_jax.codec import CodecError


class Facts(NamedTuple):
  """Properties that a header states; defaults are those of 8-bit sRGB."""

  depths: tuple[int, ...] = (8,)  # Bits per sample of each channel, or of all.
  most: int = 0  # The largest value of a sample, where that is no 2^bits - 1.
  floats: bool = False
  animated: bool = False  # Set only for formats in which Pillow does not report it.
  refusal: str = ''  # The reason why the picture cannot become RGB; empty if none is known.
  size: tuple[int, int] | None = None  # Width and height, where Pillow reads them too late.
  profile: bytes | None = None  # An ICC profile that Pillow does not read.
  cicp: tuple[int, int] | None = None  # Primaries and transfer as ITU-T H.273 numbers them.
  gamma: float | None = None  # File gamma; 0.45455 where light is the sample to the power 2.2.
  primaries: tuple[float, ...] | None = None  # x and y of white, red, green and blue.

  @property
  def wide(self) -> bool:
    """Returns whether samples do not fit 8 bits."""
    return self.floats or max(self.depths) > 8


def number(data: bytes) -> int:
  """Returns an unsigned integer, the highest byte first."""
  return int.from_bytes(data, 'big')


def read(file: BinaryIO, size: int) -> bytes:
  """Reads the next `size` bytes.

  Raises:
    CodecError: there are fewer.
  """
  data = file.read(size)
  if len(data) < size:
    raise CodecError('damaged image (it ends in its header)')
  return data
