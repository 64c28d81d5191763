"""What the header of a picture file says, whatever its format."""

from typing import BinaryIO, NamedTuple

from compress_jax.codec import CodecError


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


def number(data: bytes) -> int:
  """An unsigned integer, the highest byte first."""
  return int.from_bytes(data, 'big')


def read(file: BinaryIO, size: int) -> bytes:
  """The next `size` bytes.

  Raises:
    CodecError: there are fewer.
  """
  data = file.read(size)
  if len(data) < size:
    raise CodecError('damaged image (it ends in its header)')
  return data
