"""Headers of box formats that no library at hand writes: tiles, wide numbers, tracks, parts."""

import io
import struct

import pytest

from compress_jax.images import boxes, containers
from tests.helpers.image_files import JXL_16


def box(name, *contents):
  content = b''.join(contents)
  return struct.pack('>I4s', 8 + len(content), name) + content


def full(name, version, *contents):
  return box(name, bytes([version, 0, 0, 0]), *contents)


def hevc(bits):
  return box(b'hvcC', bytes(17), bytes([0xF8 | bits - 8]), bytes(5))


def nclx(primaries, transfer):
  return box(b'colr', b'nclx', struct.pack('>HHH', primaries, transfer, 9), b'\x80')


def tiled(version):
  """A HEIC whose primary picture 9 is made of the tiles 1 and 2; 3 is an auxiliary one."""
  properties = box(b'ipco', hevc(10), hevc(12), nclx(9, 16), nclx(1, 13))
  used = {9: [3], 1: [1], 2: [1], 3: [2, 4]}
  number = '>I' if version else '>H'
  table = struct.pack('>I', len(used)) + b''.join(
    struct.pack(number, item) + bytes([len(which), *which]) for item, which in used.items()
  )
  tiles = struct.pack(number, 9) + struct.pack('>H', 2) + b''.join(
    struct.pack(number, item) for item in (1, 2)
  )  # fmt: skip
  meta = full(
    b'meta',
    0,
    full(b'pitm', version, struct.pack(number, 9)),
    full(b'iref', version, box(b'dimg', tiles)),
    box(b'iprp', properties, full(b'ipma', version, table)),
  )
  return box(b'ftyp', b'heic', bytes(4), b'mif1heic') + meta + box(b'mdat', bytes(100))


@pytest.mark.parametrize('version', [0, 1])
def test_the_depth_of_a_tiled_picture_is_that_of_its_tiles(version):
  file = tiled(version)
  assert containers.kind(file[:64]) == 'HEIF'
  found = containers.facts(io.BytesIO(file), 'HEIF')
  assert max(found.depths) == 10 and found.cicp == (9, 16)


def test_a_sequence_without_a_picture_has_the_depth_of_its_track():
  entry = box(b'av01', bytes(78), box(b'av1C', b'\x81\x00\x60\x00'), nclx(9, 18))
  movie = full(b'stsd', 0, struct.pack('>I', 1), entry)
  for name in (b'stbl', b'minf', b'mdia', b'trak', b'moov'):
    movie = box(name, movie)
  file = box(b'ftyp', b'avis', bytes(4), b'avismsf1') + movie
  found = containers.facts(io.BytesIO(file), containers.kind(file))
  assert found.depths == (12,) and found.cicp == (9, 18)


def test_a_jpeg_xl_in_parts_is_put_together():
  whole = dict(boxes._inside(JXL_16))[b'jxlc']
  parts = [
    box(b'jxlp', struct.pack('>I', i), whole[10 * i : 10 * i + 10])
    for i in range(len(whole) // 10 + 1)
  ]
  file = b'\0\0\0\x0cJXL \r\n\x87\n' + box(b'ftyp', b'jxl ', bytes(4), b'jxl ') + b''.join(parts)
  one, other = (containers.facts(io.BytesIO(data), 'JXL') for data in (file, JXL_16))
  assert one == other and one.depths == (16,) and one.size == (8, 8)


def test_a_box_of_64_bit_length_is_read():
  content = b'\2\0\0' + b'profile'
  colour = struct.pack('>I4sQ', 1, b'colr', 16 + len(content)) + content
  image = box(b'ihdr', struct.pack('>IIHBBBB', 8, 8, 3, 7, 7, 0, 0))
  size = b'\xff\x4f\xff\x51' + struct.pack('>HH8IH', 47, 0, 8, 8, 0, 0, 8, 8, 0, 0, 3)
  stream = box(b'jp2c', size + b'\7\1\1' * 3)
  file = b'\0\0\0\x0cjP  \r\n\x87\n' + box(b'jp2h', image, colour) + stream
  found = containers.facts(io.BytesIO(file), containers.kind(file[:64]))
  assert found.profile == b'profile' and found.depths == (8, 8, 8)
