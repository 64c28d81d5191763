"""The container: every field comes back, every damage is named."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress_jax import bitstream
from compress_jax.codec import CodecError

HEADER = bitstream.Header(3, 300, 70_000 // 300, 200, 2, b'\x01\x02\x03\x04')


@settings(max_examples=200, deadline=None)
@given(
  st.integers(0, 7),
  st.integers(1, 9000),
  st.integers(1, 7000),
  st.integers(0, 255),
  st.integers(0, 3),
  st.binary(min_size=4, max_size=4),
  st.binary(max_size=300),
)
def test_unpack_gives_back_what_was_packed(method, height, width, level, flags, model, payload):
  header = bitstream.Header(method, height, width, level, flags, model)
  assert bitstream.unpack(bitstream.pack(header, payload)) == (header, payload)


def test_the_overhead_of_a_photograph_is_19_bytes():
  header = bitstream.Header(0, 512, 768)
  assert len(bitstream.pack(header, bytes(10_000))) == 10_000 + 19


@given(st.integers(0, 2**35 - 1))
def test_varints_come_back(value):
  data = bitstream.varint(value)
  assert bitstream.read_varint(data, 0) == (value, len(data))


@pytest.mark.parametrize('data', [b'\x80\x00', b'\xff' * 6, b'\x80'])
def test_varints_in_another_form_are_refused(data):
  with pytest.raises(CodecError):
    bitstream.read_varint(data, 0)


def test_every_prefix_and_every_longer_file_is_refused():
  data = bitstream.pack(HEADER, b'payload')
  for i in range(len(data)):
    with pytest.raises(CodecError):
      bitstream.unpack(data[:i])
  for extra in (b'\0', b'junk'):
    with pytest.raises(CodecError):
      bitstream.unpack(data + extra)


def test_every_flipped_bit_is_noticed():
  data = bitstream.pack(HEADER, b'payload')
  for i in range(8 * len(data)):
    damaged = bytearray(data)
    damaged[i // 8] ^= 1 << i % 8
    with pytest.raises(CodecError):
      bitstream.unpack(bytes(damaged))


def with_checksum(body):
  return body + zlib.crc32(body).to_bytes(4, 'little')


def test_a_newer_version_is_named():
  body = bytearray(bitstream.pack(HEADER, b'')[:-4])
  body[3] |= 1 << 5
  with pytest.raises(CodecError, match='version 1'):
    bitstream.unpack(with_checksum(bytes(body)))


def test_more_pixels_than_allowed_are_refused_before_anything_else():
  data = bitstream.pack(bitstream.Header(0, 1 << 14, 1 << 14), b'')
  with pytest.raises(CodecError, match='16384x16384'):
    bitstream.unpack(data)
  assert bitstream.unpack(data, max_pixels=1 << 28)[0].width == 1 << 14


def test_sides_are_limited():
  with pytest.raises(CodecError, match='16385x1: sides'):
    bitstream.unpack(bitstream.pack(bitstream.Header(0, 1, 16_385), b''))


def test_other_kinds_of_file_are_not_ours():
  for data in (b'', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff\xe0', np.zeros(100, np.uint8).tobytes()):
    with pytest.raises(CodecError, match=r'not a \.cjx file'):
      bitstream.unpack(data)


@pytest.mark.parametrize('wrong', [{'method': 8}, {'method': -1}, {'flags': 4}, {'level': 256}])
def test_a_header_without_room_for_its_numbers_is_refused(wrong):
  with pytest.raises(CodecError, match=next(iter(wrong))):
    bitstream.pack(bitstream.Header(**{'method': 1, 'height': 1, 'width': 1, **wrong}), b'')


@pytest.mark.parametrize(
  'pixel,grey', [((1, 1, 2), 1), ((1, 2, 2), 2), ((0, 0, 1), 0), ((255, 255, 255), 255)]
)
def test_grey_is_the_rounded_mean_of_the_channels(pixel, grey):
  image = np.array(pixel, np.uint8).reshape(1, 1, 3)
  np.testing.assert_array_equal(bitstream.as_grey(image), np.full((1, 1, 3), grey))


def test_only_equal_channels_are_grey():
  image = np.full((2, 3, 3), 7, np.uint8)
  assert bitstream.grey_flag(image) == bitstream.GREY
  image[1, 2, 0] = 8
  assert bitstream.grey_flag(image) == 0
