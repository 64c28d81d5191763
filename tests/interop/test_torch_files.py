"""Weights from files: PyTorch's two forms and safetensors, whole, damaged and hostile."""

import contextlib
import functools
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from compress_jax.codec import CodecError
from compress_jax.interop import torch_files
from tests.helpers import torch_format as torch

KEPT = np.arange(12, dtype=np.float32)
FLOATS = torch.storage('FloatStorage', '0', 12)
PARTS = {'0': KEPT.tobytes()}
REAL = Path(__file__).parents[1] / 'torch_files'  # Written by PyTorch 2.13: a Conv2d(2, 3, (1, 2)).


@pytest.fixture
def read(tmp_path):
  def read_bytes(data):
    (tmp_path / 'model.pth').write_bytes(data)
    return torch_files.read(tmp_path / 'model.pth')

  return read_bytes


@pytest.mark.parametrize('name', ['archive.pth.tar', 'legacy.pth.tar'])
def test_files_of_pytorch_itself_are_read(name):
  got = torch_files.read(REAL / name)
  assert list(got) == ['weight', 'bias', 'steps']
  np.testing.assert_array_equal(got['weight'], np.arange(12).reshape(3, 2, 1, 2) / 8)
  np.testing.assert_array_equal(got['bias'], np.float32([-1, 0.5, 2]))
  assert got['weight'].dtype == np.float32
  assert got['steps'].shape == ()
  assert got['steps'] == 7


VIEWS = {  # offset, shape, strides: what NumPy has for it.
  'all': (0, (3, 4), (4, 1), KEPT.reshape(3, 4)),
  'transposed': (0, (4, 3), (1, 4), KEPT.reshape(3, 4).T),
  'slice': (2, (3,), (3,), KEPT[2:11:3]),
  'scalar': (11, (), (), KEPT[11]),
  'empty': (12, (0, 3), (3, 1), np.zeros((0, 3), np.float32)),
}


@pytest.mark.parametrize('view', VIEWS)
def test_tensors_are_views_of_their_storage(view, read):
  offset, shape, strides, expected = VIEWS[view]
  got = read(torch.archive(torch.table(a=torch.tensor(FLOATS, offset, shape, strides)), PARTS))
  np.testing.assert_array_equal(got['a'], expected)
  assert got['a'].dtype == np.float32


TYPES = {
  'FloatStorage': ('<f4', [1.5, -2]),
  'DoubleStorage': ('<f8', [1.5, -2]),
  'HalfStorage': ('<f2', [1.5, -2]),
  'LongStorage': ('<i8', [2**40, -1]),
  'IntStorage': ('<i4', [2**30, -1]),
  'ShortStorage': ('<i2', [2**14, -1]),
  'CharStorage': ('i1', [127, -128]),
  'ByteStorage': ('u1', [255, 0]),
  'BoolStorage': ('?', [True, False]),
}


@pytest.mark.parametrize('kind', TYPES)
def test_every_type_keeps_its_values(kind, read):
  values = np.array(TYPES[kind][1], TYPES[kind][0])
  body = torch.table(a=torch.tensor(torch.storage(kind, '0', 2), 0, (2,), (1,)))
  got = read(torch.archive(body, {'0': values.tobytes()}))['a']
  np.testing.assert_array_equal(got, values)
  assert got.dtype == values.dtype


def test_bfloat16_becomes_float32(read):
  body = torch.table(a=torch.tensor(torch.storage('BFloat16Storage', '0', 3), 1, (2,), (1,)))
  data = struct.pack('<3H', 0, 0x3FC0, 0xC000)  # Sign, 8 bits of exponent, 7 of fraction.
  got = read(torch.archive(body, {'0': data}))['a']
  assert got.dtype == np.float32
  assert got.tolist() == [1.5, -2]


def test_a_legacy_file_keeps_its_storages_in_the_listed_order(read):
  body = torch.table(
    a=torch.tensor(torch.legacy_storage('FloatStorage', '93', 12), 4, (2, 2), (2, 1)),
    b=torch.tensor(torch.legacy_storage('LongStorage', '7', 1), 0, (), ()),
  )
  parts = {'7': (1, struct.pack('<q', -5)), '93': (12, KEPT.tobytes())}
  got = read(torch.legacy(body, parts))
  assert got['a'].tolist() == [[4, 5], [6, 7]]
  assert got['b'] == -5


def test_parameters_are_the_tensors_in_them(read):
  parameter = torch.call(
    torch.name('torch._utils', '_rebuild_parameter'),
    torch.tensor(FLOATS, 0, (2,), (1,)),
    torch.TRUE,
    torch.call(torch.name('collections', 'OrderedDict')),
  )
  assert read(torch.archive(torch.table(a=parameter), PARTS))['a'].tolist() == [0, 1]


def test_a_checkpoint_gives_its_state_dict_without_what_is_beside_it(read):
  state = b'}' + b'(' + torch.text('module.a') + torch.tensor(FLOATS, 1, (1,), (1,)) + b'u'
  encoded = torch.call(torch.name('_codecs', 'encode'), torch.text('x'), torch.text('latin1'))
  kind = torch.call(torch.name('numpy', 'dtype'), torch.text('f8'))
  loss = torch.call(torch.name('numpy.core.multiarray', 'scalar'), kind, encoded)
  unread = torch.tensor(torch.storage('FloatStorage', 'absent', 10**9), 0, (10**9,), (1,))
  body = torch.table(epoch=torch.integer(3), loss=loss, state_dict=state, optimizer=unread)
  assert {k: v.tolist() for k, v in read(torch.archive(body, PARTS)).items()} == {'a': [1]}


def test_a_prefix_that_hides_a_second_table_is_refused(read):
  tensor = torch.tensor(FLOATS, 1, (1,), (1,))
  body = b'}(' + torch.text('module.a') + tensor + torch.text('a') + tensor + b'u'
  with pytest.raises(CodecError, match='with and without'):
    read(torch.archive(body, PARTS))


def test_safetensors_are_read(read):
  arrays = {'module.a': KEPT.reshape(3, 4), 'module.b': np.array(7)}
  got = read(save(arrays))
  np.testing.assert_array_equal(got['a'], arrays['module.a'])
  assert got['b'] == 7


def of(**tensor):
  """An archive of one tensor that is sound but for what is given."""
  parts = {'kind': 'FloatStorage', 'key': '0', 'length': 12, 'data': PARTS} | tensor
  parts = {'offset': 0, 'shape': (3, 4), 'strides': (4, 1)} | parts
  kept = torch.storage(parts['kind'], parts['key'], parts['length'])
  body = torch.tensor(kept, parts['offset'], parts['shape'], parts['strides'])
  return torch.archive(torch.table(a=body), parts['data'])


HOSTILE = {
  'a storage that is larger than its part': (of(length=13), 'storage 0 has 48 bytes, not 52'),
  'a storage that is smaller': (of(length=11, shape=(2,), strides=(1,)), 'too large'),
  'a huge storage': (of(length=2**38), 'storages are larger than the file'),
  'an absurd storage': (of(length=2**70), 'not described'),
  'a negative storage': (of(length=-1), 'not described'),
  'a storage that is not there': (of(key='1'), "'model/data/1' is missing"),
  'a storage outside of the archive': (of(key='../../../etc/passwd'), 'is missing'),
  'an unknown type': (of(kind='QInt8Storage'), 'asks for .torch.QInt8Storage'),
  'a view past the end': (of(offset=1), r'shape \(3, 4\) in a storage of 12'),
  'a stride past the end': (of(strides=(5, 1)), 'in a storage of 12'),
  'a negative offset': (of(offset=-1), 'the shape of a tensor'),
  'a negative stride': (of(strides=(-4, 1)), 'the shape of a tensor'),
  'a repeated number': (of(shape=(10**9,), strides=(0,)), 'in a storage of 12'),
  'an empty giant': (of(shape=(0, 2**62), strides=(1, 1)), 'the shape of a tensor'),
  'many dimensions': (of(shape=(1,) * 70, strides=(1,) * 70), 'not described'),
  'shape and strides that differ': (of(strides=(1,)), 'not described'),
  'a compressed part': (
    torch.archive(
      torch.table(a=torch.tensor(FLOATS, 0, (1,), (1,))), PARTS, method=zipfile.ZIP_DEFLATED
    ),
    'compressed',
  ),
  'big-endian numbers': (
    torch.archive(torch.table(a=torch.tensor(FLOATS, 0, (1,), (1,))), PARTS, order=b'big'),
    'not little-endian',
  ),
  'no weights': (torch.archive(torch.table(), PARTS), 'no table of weights'),
  'no table': (torch.archive(torch.list_of(), PARTS), 'no table of weights'),
  'no tensors': (torch.archive(torch.table(a=torch.integer(1)), PARTS), "'a' is no tensor"),
  'numbered tensors': (
    torch.archive(b'}' + torch.integer(0) + torch.tensor(FLOATS, 0, (1,), (1,)) + b's', PARTS),
    'numbered',
  ),
  'a whole model': (
    torch.archive(torch.name('compressai.models.waseda', 'Cheng2020Attention'), {}),
    'asks for .compressai.models.waseda.Cheng2020Attention',
  ),
  'a program': (
    torch.archive(torch.call(torch.name('posix', 'system'), torch.text('true')), {}),
    'asks for .posix.system',
  ),
  'a storage type that is called': (
    torch.archive(torch.call(torch.name('torch', 'FloatStorage'), torch.integer(2**40)), {}),
    'calls torch.FloatStorage',
  ),
  'a tensor without a storage': (
    torch.archive(torch.table(a=torch.tensor(b'N', 0, (1,), (1,))), {}),
    'not described',
  ),
  'nothing': (b'', 'neither a PyTorch nor a safetensors file'),
  'a plain pickle': (torch.program(torch.table()), 'neither a PyTorch'),
  'another zip file': (torch.archive(b'', {}).replace(b'data.pkl', b'data.txt'), 'not one of'),
  'a cut zip file': (of()[:-30], 'damaged zip file'),
  'a damaged number': (of().replace(KEPT[5:6].tobytes(), b'\0\0\0\0'), 'damaged zip file'),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_a_hostile_file_is_refused_with_the_reason(case, read):
  data, reason = HOSTILE[case]
  with pytest.raises(CodecError, match=reason):
    read(data)


def test_what_a_hostile_file_is_made_from_is_sound(read):
  np.testing.assert_array_equal(read(of())['a'], KEPT.reshape(3, 4))


def legacy_of(*, count=12, listed='0', data=None, **head):
  kept = torch.legacy_storage('FloatStorage', '0', 12)
  body = torch.table(a=torch.tensor(kept, 0, (3, 4), (4, 1)))
  return torch.legacy(body, {listed: (count, KEPT.tobytes() if data is None else data)}, **head)


LEGACY = {
  'another count': (legacy_of(count=11), 'storage 0 is not where'),
  'a storage that was not named': (legacy_of(listed='1'), 'does not fit'),
  'a truncated storage': (legacy_of(data=bytes(47)), 'truncated'),
  'another version': (legacy_of(version=1002), 'unknown version'),
  'big-endian numbers': (legacy_of(little=torch.FALSE), 'not little-endian'),
}


@pytest.mark.parametrize('case', LEGACY)
def test_a_wrong_legacy_file_is_refused_with_the_reason(case, read):
  data, reason = LEGACY[case]
  with pytest.raises(CodecError, match=reason):
    read(data)
  assert read(legacy_of())['a'].shape == (3, 4)


def overlapping(count, kernel):
  """An archive of `count` storages, each all that follows its header (D. Fifield, WOOT 2019)."""
  sizes, tail, entries = [], kernel, []
  for i in reversed(range(count)):
    name = f'model/data/{i}'.encode()
    crc, size = zlib.crc32(tail), len(tail)
    fields = struct.pack('<5H3I2H', 20, 0, 0, 0, 33, crc, size, size, len(name), 0)
    tail = b'PK\x03\x04' + fields + name + tail
    entries.append((b'PK\x01\x02' + struct.pack('<H', 20) + fields + bytes(10), len(tail), name))
    sizes.append(size)
  sizes.reverse()
  views = {}
  for i, size in enumerate(sizes):
    views[f't{i}'] = torch.tensor(torch.storage('ByteStorage', str(i), size), 0, (1,), (1,))
  whole = torch.archive(torch.table(**views), {})
  start = whole.index(b'PK\x01\x02')
  end = list(struct.unpack('<4s4H2IH', whole[-22:]))
  directory = whole[start:-22]
  body = whole[:start] + tail
  for head, distance, name in entries:
    directory += head + struct.pack('<I', len(body) - distance) + name
  end[3:7] = end[3] + count, end[4] + count, len(directory), len(body)
  return body + directory + struct.pack('<4s4H2IH', *end)


def test_parts_that_overlap_are_not_read_again_and_again(read):
  assert len(read(overlapping(1, bytes(5000)))) == 1
  with pytest.raises(CodecError, match=r'larger than the file|[Oo]verlap'):
    read(overlapping(200, bytes(5000)))


def test_a_refused_giant_allocates_nothing(read):
  giant = of(length=2**36)
  tracemalloc.start()
  with pytest.raises(CodecError):
    read(giant)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**20


@pytest.mark.parametrize('name', ['archive.pth.tar', 'legacy.pth.tar'])
def test_beginnings_and_mutants_are_refused_or_read_whole(name, read):
  data = (REAL / name).read_bytes()
  for i in range(0, len(data), 7):
    with pytest.raises(CodecError):
      read(data[:i])
  rng = np.random.default_rng(0)
  for _ in range(400):
    mutant = bytearray(data)
    for at in rng.integers(0, len(data), rng.integers(1, 4)):
      mutant[at] = rng.integers(256)
    with contextlib.suppress(CodecError):
      assert sum(array.size for array in read(bytes(mutant)).values()) <= len(data)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(CodecError, match=r'cannot read .*absent\.pth: No such file'):
    torch_files.read(tmp_path / 'absent.pth')


@pytest.mark.parametrize('zipped', [True, False])
def test_what_an_installed_pytorch_saves_is_read(zipped, tmp_path):
  real = pytest.importorskip('torch')
  model = real.nn.Sequential(real.nn.Conv2d(2, 3, 3), real.nn.BatchNorm2d(3)).half()
  save_as = functools.partial(real.save, _use_new_zipfile_serialization=zipped)
  save_as({'state_dict': model.state_dict()}, tmp_path / 'model.pth')
  got = torch_files.read(tmp_path / 'model.pth')
  assert set(got) == set(model.state_dict())
  for name, tensor in model.state_dict().items():
    np.testing.assert_array_equal(got[name], tensor.numpy())
