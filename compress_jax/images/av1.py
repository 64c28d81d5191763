"""The colours that an AV1 stream names itself (AV1 Bitstream & Decoding Process, section 5.5)."""

_SEQUENCE_HEADER = 1  # The type of an OBU, section 6.2.2.


class _Bits:
  """Fields of a stream, highest bit first; IndexError where it ends before them."""

  def __init__(self, data: bytes):
    self.data, self.at = data, 0

  def take(self, count: int = 1) -> int:
    """The next unsigned number of so many bits, f(n)."""
    value = 0
    for _ in range(count):
      value = value << 1 | self.data[self.at >> 3] >> (7 - self.at & 7) & 1
      self.at += 1
    return value

  def uvlc(self) -> None:
    """Passes over a number of variable length."""
    zeros = 0
    while not self.take():
      zeros += 1
    self.take(zeros if zeros < 32 else 0)


def colours(stream: bytes) -> tuple[int, int] | None:
  """Returns primaries and transfer as ITU-T H.273 numbers them.

  Args:
    stream: OBUs, which may be cut short after the sequence header.

  Returns:
    None where there is no sequence header, or none that says it.
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
    while first & 2:  # LEB128; without a size the OBU is the rest.
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
  """The fields of sequence_header_obu (5.5.1) up to those of color_config (5.5.2)."""
  profile, _, reduced = bits.take(3), bits.take(), bits.take()
  if reduced:
    bits.take(5)
  else:
    _operating_points(bits)
  sizes = bits.take(4) + 1, bits.take(4) + 1
  bits.take(sum(sizes))
  if not reduced and bits.take():  # Numbers of frames.
    bits.take(7)
  bits.take(3)
  if not reduced:
    _tools(bits)
  bits.take(3)
  deep = bits.take()
  if profile == 2 and deep:
    bits.take()
  if profile != 1:
    bits.take()  # Grey.
  return (bits.take(8), bits.take(8)) if bits.take() else None


def _operating_points(bits: _Bits) -> None:
  """Passes over timing_info, decoder_model_info and the operating points."""
  delay = 0
  if bits.take():
    bits.take(64)
    if bits.take():
      bits.uvlc()
    if bits.take():
      delay = bits.take(5) + 1
      bits.take(42)
  displayed = bits.take()
  for _ in range(bits.take(5) + 1):
    bits.take(12)
    if bits.take(5) > 7:
      bits.take()
    if delay and bits.take():
      bits.take(2 * delay + 1)
    if displayed and bits.take():
      bits.take(4)


def _tools(bits: _Bits) -> None:
  """Passes over the tools that stills do without."""
  bits.take(4)
  ordered = bits.take()
  if ordered:
    bits.take(2)
  chosen = bits.take()
  if (chosen or bits.take()) and not bits.take():
    bits.take()
  if ordered:
    bits.take(3)
