"""Colours of an AV1 stream: of one by libaom, and of fields put together by the standard."""

import io
import struct

import numpy as np
import pytest
from PIL import Image as PILImage

from compress_jax.images import av1, boxes, containers


def avif(**options):
  pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
  out = io.BytesIO()
  PILImage.fromarray(pixels).save(out, 'AVIF', **options)
  return out.getvalue()


def obu(kind, content, *, sized=True):
  head = bytes([kind << 3 | 2 * sized]) + bytes([len(content)] * sized)
  return head + content


def packed(*fields):
  """Fields (value, bits), highest bit first, filled up with ones to whole bytes."""
  text = ''.join(f'{value:0{bits}b}' for value, bits in fields)
  text += '1' * (-len(text) % 8)
  return int(text, 2).to_bytes(len(text) // 8, 'big')


SIZE = (5, 4), (4, 4), (39, 6), (23, 5)  # 40 x 24.
# Of a profile, with a description, mono_chrome where there is such a field.
STILL = (0, 3), (1, 1), (1, 1), (4, 5), *SIZE, (0, 3), (7, 3)
VIDEO = (
  *((2, 3), (0, 1), (0, 1)),
  *((1, 1), (1, 32), (25, 32), (1, 1), (0b00101, 5)),  # Timing, of equal pictures: uvlc 4.
  *((1, 1), (9, 5), (1, 32), (9, 5), (9, 5)),  # A decoder model of 10 bits.
  *((1, 1), (1, 5)),  # Two operating points: one of tier 1 with a model, and one without.
  *((257, 12), (8, 5), (1, 1), (1, 1), (1023, 10), (0, 10), (1, 1), (1, 1), (3, 4)),
  *((256, 12), (7, 5), (0, 1), (0, 1)),
  *SIZE,
  *((1, 1), (2, 4), (1, 3)),  # Frame numbers.
  *((0, 3), (15, 4), (1, 1), (3, 2), (0, 1), (1, 1), (0, 1), (1, 1), (6, 3)),
  *((0, 3), (1, 1), (1, 1), (0, 1)),  # 12 bits, not grey.
)


@pytest.mark.parametrize(
  ('fields', 'wanted'),
  [
    ((*STILL, (0, 1), (0, 1), (1, 1), (9, 8), (16, 8), (9, 8)), (9, 16)),
    ((*STILL, (0, 1), (1, 1), (0, 1), (1, 1)), None),  # Grey, without a description.
    (((1, 3), *STILL[1:], (1, 1), (1, 1), (12, 8), (13, 8)), (12, 13)),  # 4:4:4 is never grey.
    ((*VIDEO, (1, 1), (9, 8), (18, 8), (9, 8)), (9, 18)),
  ],
)
def test_the_colours_of_a_sequence_header(fields, wanted):
  header = packed(*fields)
  for stream in (obu(1, header), obu(2, b'') + obu(1, header), obu(1, header, sized=False)):
    assert av1.colours(stream + bytes(9)) == wanted
  assert av1.colours(obu(2, b'')) is None and av1.colours(obu(1, header)[:6]) is None


@pytest.mark.parametrize('options', [{}, {'subsampling': '4:4:4'}, {'quality': 100}])
def test_a_picture_without_a_box_of_colours_has_those_of_its_stream(options):
  usual = avif(**options)
  assert usual.count(b'colr') == 1
  bare = usual.replace(b'colr', b'free')
  found = [containers.facts(io.BytesIO(file), 'AVIF').cicp for file in (usual, bare)]
  assert found[0] is not None and found[0] == found[1]


@pytest.mark.parametrize(
  ('version', 'method', 'wanted'),
  [(0, None, (False, 107)), (1, 0, (False, 107)), (2, 1, (True, 107)), (1, 2, None)],
)
def test_the_place_of_an_item(version, method, wanted):
  """Two extents of item 5 after one of item 4: base 100, the first of them at 7."""
  wide = '>I' if version == 2 else '>H'
  how = b'' if method is None else struct.pack('>H', method)
  number = b'' if method is None else bytes(2)  # Of an extent.

  def entry(item, *starts):
    parts = [number + struct.pack('>IB', start, 50) for start in starts]
    head = struct.pack(wide, item) + how + bytes(2)
    return head + struct.pack('>QH', 100, len(parts)) + b''.join(parts)

  sizes = bytes([0x41, 0x80 | (2 if version else 0)])
  table = bytes([version, 0, 0, 0]) + sizes + struct.pack(wide, 2) + entry(4, 1) + entry(5, 7, 9)
  assert boxes._place(table, 5) == wanted and boxes._place(table, 6) is None
