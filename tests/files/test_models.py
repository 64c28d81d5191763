"""Model files: what was written comes back, anything else is refused in one line."""

import json
import struct

import numpy as np
import pytest

from compress_jax.codec import CodecError
from compress_jax.files import models

CONFIG = {'method': 'cae', 'options': {'widths': [4, 8, 4], 'slope': 0.01}}


def arrays():
  x = np.arange(24, dtype=np.float32).reshape(4, 6)
  return {
    'a.kernel': x,
    'b.half': x.astype(np.float16),
    'b.empty': np.zeros((0, 3), np.int8),
    'c.whole': np.array([-5, 2**40]),
    'c.short': np.array([[-(2**15)]], np.int16),
  }


def raw(path, header):
  """A safetensors file of any header, valid or not; an array `x` has one byte."""
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + bytes('x' in header))
  return path


def test_arrays_and_config_come_back(tmp_path):
  path = tmp_path / 'm.safetensors'
  models.write(path, arrays(), CONFIG)
  found, config = models.read(path)
  assert config == CONFIG
  assert found.keys() == arrays().keys()
  for name, expected in arrays().items():
    assert found[name].dtype == expected.dtype
    np.testing.assert_array_equal(found[name], expected)


@pytest.mark.parametrize('view', [lambda x: x.T, lambda x: x[:, ::2], lambda x: x[::-1]])
def test_views_of_arrays_come_back_too(view, tmp_path):
  x = view(np.arange(24, dtype=np.float32).reshape(4, 6))
  models.write(tmp_path / 'm', {'x': x}, {})
  np.testing.assert_array_equal(models.read(tmp_path / 'm')[0]['x'], x)


def test_the_same_model_is_the_same_bytes_in_any_order(tmp_path):
  one, other = tmp_path / 'a', tmp_path / 'b'
  models.write(one, arrays(), CONFIG)
  models.write(other, dict(reversed(arrays().items())), CONFIG)
  assert one.read_bytes() == other.read_bytes()


def test_a_file_is_overwritten_only_if_that_is_asked_for(tmp_path):
  path = tmp_path / 'm.safetensors'
  models.write(path, {}, {})
  with pytest.raises(CodecError, match='exists already'):
    models.write(path, arrays(), CONFIG)
  assert models.read(path) == ({}, {})
  models.write(path, arrays(), CONFIG, overwrite=True)
  assert models.read(path)[1] == CONFIG


META = '__metadata__'
BAD = {
  'nothing': b'',
  'text': b'this is no model, but it is longer than eight bytes',
  'a huge header': struct.pack('<Q', 2**62) + b'{}',
  'no metadata': {},
  'no config': {META: {'other': '{}'}},
  'a config that is no JSON': {META: {'config': '{'}},
  'a config that is a list': {META: {'config': '[]'}},
  'an unknown type': {
    META: {'config': '{}'},
    'x': {'dtype': 'Q7', 'shape': [1], 'data_offsets': [0, 1]},
  },
  'a shape beyond the file': {
    META: {'config': '{}'},
    'x': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 2**42]},
  },
}


@pytest.mark.parametrize('name', BAD)
def test_what_is_no_model_file_is_refused_by_name(name, tmp_path):
  path, content = tmp_path / 'bad', BAD[name]
  if isinstance(content, bytes):
    path.write_bytes(content)
  else:
    raw(path, content)
  with pytest.raises(CodecError, match='bad is not a model file') as error:
    models.read(path)
  assert '\n' not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
  with pytest.raises(CodecError, match='no such file'):
    models.read(tmp_path / 'none')
  with pytest.raises(CodecError, match='is not a model file'):
    models.read(tmp_path)


HARD = {
  'a type that NumPy lacks': {
    META: {'config': '{}'},
    'x': {'dtype': 'F8_E4M3', 'shape': [1], 'data_offsets': [0, 1]},
  },
  'a config nested without end': {META: {'config': '[' * 100_000}},
}


@pytest.mark.parametrize('name', HARD)
def test_what_readers_choke_on_is_refused_too(name, tmp_path):
  with pytest.raises(CodecError, match='is not a model file'):
    models.read(raw(tmp_path / 'bad', HARD[name]))


def test_damage_is_refused_or_gives_other_arrays(tmp_path):
  path = tmp_path / 'm.safetensors'
  models.write(path, arrays(), CONFIG)
  whole = path.read_bytes()
  rng = np.random.default_rng(0)
  refused = 0
  for i in range(300):
    data = bytearray(whole)
    if i % 3:
      data[rng.integers(len(data) if i % 3 == 1 else 400)] ^= 1 << rng.integers(8)
    else:
      del data[rng.integers(len(data)) :]
    path.write_bytes(data)
    try:
      models.read(path)
    except CodecError:
      refused += 1
    else:
      assert i % 3  # A file that was cut is never whole.
  assert refused > 150
