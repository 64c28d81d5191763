"""The colour description in an AV1 stream (AV1 Bitstream & Decoding Process, section 5.5)."""

_SEQUENCE_HEADER = 1  # The type of an OBU, section 6.2.2.


class _Bits:
  """Fields of a stream, highest bit first; reading past the end raises IndexError."""

  def __init__(self, data: bytes):
    self.data, self.at = data, 0

  def read(self, count: int = 1) -> int:
    """Returns the next unsigned number of `count` bits, f(n)."""
    value = 0
    for _ in range(count):
      value = value << 1 | self.data[self.at >> 3] >> (7 - self.at & 7) & 1
      self.at += 1
    return value

  def uvlc(self) -> None:
    """Skips a number of variable length."""
    zeros = 0
    while not self.read():
      zeros += 1
    self.read(zeros if zeros < 32 else 0)


def colours(stream: bytes) -> tuple[int, int] | None:
  """Returns primaries and transfer as ITU-T H.273 numbers them.

  Args:
    stream: OBUs, which may be cut short after the sequence header.

  Returns:
    None where there is no sequence header, or where it describes no colours.
  """
  try:
    header = _sequence_header(stream)
    return None if header is None else _colours(_Bits(header))
  except IndexError:
    return None


def _sequence_header(stream: bytes) -> bytes | None:
  """Returns the content of the first sequence header OBU (section 5.3)."""
  at = 0
  while at < len(stream):
    first = stream[at]
    at += 2 if first & 4 else 1  # With or without an extension.
    size, shift = 0, 0
    while first & 2:  # LEB128; without a size the OBU reaches to the end of the stream.
      size |= (stream[at] & 0x7F) << shift
      at, shift = at + 1, shift + 7
      if stream[at - 1] < 0x80:
        break
    end = at + size if first & 2 else len(stream)
    if first >> 3 & 15 == _SEQUENCE_HEADER:
      return stream[at:end]
    at = end
  return None


def _colours(bits: _Bits) -> tuple[int, int] | None:
  """Reads the fields of sequence_header_obu (5.5.1) up to those of color_config (5.5.2)."""
  profile, _, reduced = bits.read(3), bits.read(), bits.read()
  if reduced:
    bits.read(5)
  else:
    _operating_points(bits)
  sizes = bits.read(4) + 1, bits.read(4) + 1
  bits.read(sum(sizes))
  if not reduced and bits.read():  # Numbers of frames.
    bits.read(7)
  bits.read(3)
  if not reduced:
    _tools(bits)
  bits.read(3)
  deep = bits.read()
  if profile == 2 and deep:
    bits.read()
  if profile != 1:
    bits.read()  # Grey.
  return (bits.read(8), bits.read(8)) if bits.read() else None


def _operating_points(bits: _Bits) -> None:
  """Skips timing_info, decoder_model_info and the operating points."""
  delay = 0
  if bits.read():
    bits.read(64)
    if bits.read():
      bits.uvlc()
    if bits.read():
      delay = bits.read(5) + 1
      bits.read(42)
  displayed = bits.read()
  for _ in range(bits.read(5) + 1):
    bits.read(12)
    if bits.read(5) > 7:
      bits.read()
    if delay and bits.read():
      bits.read(2 * delay + 1)
    if displayed and bits.read():
      bits.read(4)


def _tools(bits: _Bits) -> None:
  """Skips the flags of coding tools that still pictures do not use."""
  bits.read(4)
  ordered = bits.read()
  if ordered:
    bits.read(2)
  chosen = bits.read()
  if (chosen or bits.read()) and not bits.read():
    bits.read()
  if ordered:
    bits.read(3)
